"""Whatever stands in its files, ``llmservingsim astra`` answers or refuses them in one line; see also `make fuzz`."""

import random
import tempfile
from pathlib import Path

import pytest
from astra_cases import Recipe, make_case, run_case
from astra_spoiling import spoil_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDS = st.integers(0, 2**32 - 1)
BASES = st.integers(0, 150)
FILES = ["trace.0.et", "system.json", "network.yml", "memory.json", "groups.json"]


def outcome(case: object) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return run_case(case, Path(folder))


@settings(deadline=None, max_examples=600)
@given(st.builds(Recipe, BASES, st.lists(SEEDS, max_size=3).map(tuple)))
def test_spoilt_inputs_are_answered_or_refused(recipe: Recipe) -> None:
    outcome(make_case(recipe))


@pytest.mark.parametrize("file", FILES)
@settings(deadline=None, max_examples=40)
@given(base=BASES, content=st.binary(max_size=64))
def test_files_of_any_bytes_are_answered_or_refused(file: str, base: int, content: bytes) -> None:
    case = make_case(Recipe(base))
    case.files[file] = content
    case.options["groups"] = "groups.json"
    outcome(case)


@settings(deadline=None, max_examples=40)
@given(base=BASES, seed=SEEDS)
def test_a_trace_cut_or_changed_anywhere_is_answered_or_refused(base: int, seed: int) -> None:
    case = make_case(Recipe(base))
    case.files["trace.0.et"] = spoil_bytes(case.files["trace.0.et"], random.Random(seed))
    outcome(case)


def test_many_of_the_cases_are_valid_before_they_are_spoilt() -> None:
    """Else everything would be refused at its first fault, and nothing behind that be tried."""
    outcomes = [outcome(make_case(Recipe(base))) for base in range(100)]
    assert outcomes.count("ok") >= 40
