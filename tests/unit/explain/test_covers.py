"""Stretches of time, against a plain list of instants."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.explain.covers import Cover, steps

END = 40
stretches = st.lists(st.tuples(st.integers(0, END), st.integers(0, END)), max_size=6)


def cover(drawn: list[tuple[int, int]]) -> Cover:
    return Cover.of([begin for begin, _ in drawn], [end for _, end in drawn])


def instants(of: Cover) -> set[int]:
    return {t for begin, end in zip(of.begin.tolist(), of.end.tolist(), strict=True) for t in range(begin, end)}


def drawn_instants(drawn: list[tuple[int, int]]) -> set[int]:
    return {t for begin, end in drawn for t in range(begin, end)}


@given(stretches)
def test_stretches_are_joined_and_rise(drawn: list[tuple[int, int]]) -> None:
    found = cover(drawn)
    assert instants(found) == drawn_instants(drawn)
    assert found.total_ns == len(drawn_instants(drawn))
    edges = [t for pair in zip(found.begin.tolist(), found.end.tolist(), strict=True) for t in pair]
    assert edges == sorted(set(edges))


@given(stretches, stretches)
def test_two_kinds_of_stretches_are_compared_instant_by_instant(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    a, b = cover(first), cover(second)
    assert instants(a.both(b)) == instants(a) & instants(b)
    assert instants(a.without(b)) == instants(a) - instants(b)
    assert a.overlap_ns(b) == len(instants(a) & instants(b))


@given(stretches, st.lists(st.integers(-3, END + 3), max_size=5))
def test_what_is_covered_before_a_time_is_counted(drawn: list[tuple[int, int]], times: list[int]) -> None:
    found = cover(drawn).until(np.array(times, dtype=np.int64))
    assert found.tolist() == [sum(t < time for t in drawn_instants(drawn)) for time in times]


def test_a_value_holds_until_the_next_and_the_last_to_the_end() -> None:
    found = steps([5, 8, 8, 20, 50], [1, 0, 2, 1, 2], 30)
    assert {value: sorted(instants(of)) for value, of in found.items()} == {
        0: [],
        1: [5, 6, 7, *range(20, 30)],
        2: list(range(8, 20)),
    }
