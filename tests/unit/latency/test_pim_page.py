"""The tables on the page about memory that computes are what the models say today."""

import runpy
from pathlib import Path

import pytest

from llmservingsim.config.catalog import find_model, find_pim
from llmservingsim.latency.pim import make_pim
from llmservingsim.latency.pim.linear import FITS
from llmservingsim.model import ParallelLayout

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "docs" / "concepts" / "pim.md").read_text()
FILES = {
    "HBM2": "HBM2_1GB_2000_pim",
    "LPDDR5": "LPDDR5_2GB_6400_pim",
    "DDR4": "DDR4_8GB_3200_pim",
    "LPDDR4X": "LPDDR4X_2GB_4266_pim",
}


def test_the_table_of_speedups_is_what_the_benchmark_prints(capsys: pytest.CaptureFixture[str]) -> None:
    module = runpy.run_path(str(REPOSITORY / "benchmarks" / "pim_crossover.py"))
    assert module["main"]([]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") > 20
    assert printed in PAGE


@pytest.mark.parametrize("kind", FILES)
def test_the_table_of_fits_is_what_both_models_say(shared: Path, kind: str) -> None:
    spec = find_pim(FILES[kind], shared / "data" / "clusters")
    made = [make_pim(spec, find_model("meta-llama/Llama-3.1-8B"), ParallelLayout(), 2**36, how).attention_time
            for how in ("linear", "device")]  # fmt: skip
    slope, intercept = FITS[kind]
    times = " | ".join(f"{time.per_token:.1f}, {time.per_request:,.0f}" for time in made)
    assert f"| {kind} | {slope} | {intercept:,} | {times} |" in PAGE
