"""A model that reads ASTRA-sim's rules on its own comes to the times of our backend, on real runs and random programs.

`astra_differential.py` compares many more programs, and shrinks one that differs.
"""

from collections import defaultdict
from types import ModuleType

import pytest
from astra_differential import describe, difference
from astra_model import AbortError, EndlessError, simulate
from astra_programs import random_program

SEEDS = 500
SEEDS_PER_TEST = 100


def verdict(validation: ModuleType, row: object, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Judge a row's times with the model in place of our backend."""

    class Execution:
        def __init__(self, ranks: list[object]) -> None:
            self.ranks = ranks

    monkeypatch.setattr(validation, "run_workloads", lambda *inputs: [Execution(r) for r in simulate(*inputs)])
    try:
        return validation.judge(row)
    except (AbortError, EndlessError) as error:
        return f"refused: {error}" if row.cells["status"] == "ok" else None


@pytest.mark.parametrize("file", ["reference_public.csv", "reference_fork_public.csv"])
def test_the_model_itself_equals_real_runs_of_every_section(
    validation: ModuleType, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few rows of each section; its events are Python objects, so all of them would take a minute."""
    sections = defaultdict(list)
    for row in validation.read_rows(file):
        sections[row.cells["section"]].append(row)
    for rows in sections.values():
        small = sorted(rows, key=lambda row: int(row.cells["npus"]))
        for row in small[:: max(1, len(small) // 4)][:4]:
            assert verdict(validation, row, monkeypatch) is None, row.name


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_PER_TEST))
def test_random_programs_take_as_long_as_in_the_model(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        program = random_program(seed)
        found = difference(program)
        assert found == "", f"seed {seed}\n{describe(program)}"
