"""The error tree and the words of its messages."""

from __future__ import annotations

import re

import pytest

from llmservingsim import errors
from llmservingsim.errors import LLMServingSimError, SimulationError, UserError, nearest, one_of

CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, LLMServingSimError)]


@pytest.mark.parametrize("error", CLASSES)
def test_every_error_stands_in_the_tree_drawn_above_it(error):
    assert re.search(rf"\b{error.__name__}\b", errors.__doc__)
    assert error.__doc__


@pytest.mark.parametrize("error", CLASSES)
def test_wrong_input_exits_with_2_and_a_run_that_cannot_go_on_with_1(error):
    assert error.exit_code == (2 if issubclass(error, UserError) else 1)
    assert error in (LLMServingSimError, UserError) or issubclass(error, UserError) != issubclass(
        error, SimulationError
    )


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("H10", ["H100", "A100"], " (did you mean 'H100'?)"),
        ("h100", ["H100", "A100"], " (did you mean 'H100'?)"),
        ("banana", ["H100", "A100"], ""),
        ("anything", [], ""),
        ("tensor_parallel", {"tensor_parallel_size": 1, "max_num_seqs": 2}, " (did you mean 'tensor_parallel_size'?)"),
    ],
)
def test_the_nearest_known_name_is_offered_and_only_if_it_is_near(name, known, hint):
    assert nearest(name, known) == hint


def test_allowed_values_are_sorted_and_shortened():
    assert one_of(["b", "a"]) == "a, b"
    assert one_of(f"n{i:02}" for i in range(15)) == ", ".join(f"n{i:02}" for i in range(12)) + ", ... (15 in all)"
    assert one_of(map(str, range(3)), limit=2) == "0, 1, ... (3 in all)"
