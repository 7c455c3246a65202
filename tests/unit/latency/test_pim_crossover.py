"""The table on the page about memory that computes is what the models say today."""

import runpy
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]


def test_the_table_on_the_page_is_what_the_benchmark_prints(capsys: pytest.CaptureFixture[str]) -> None:
    module = runpy.run_path(str(REPOSITORY / "benchmarks" / "pim_crossover.py"))
    assert module["main"]([]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") > 20
    assert printed in (REPOSITORY / "docs" / "concepts" / "pim.md").read_text()
