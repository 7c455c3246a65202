"""Means and percentiles, against NumPy's on the same values laid out one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.report.statistics import describe, describe_counts


def test_no_value_has_no_mean() -> None:
    assert describe([]) is None
    assert describe_counts({}, 1.0) is None


def test_one_value_is_its_own_mean_and_percentiles() -> None:
    assert describe([2.5]) == {"mean": 2.5, "p50": 2.5, "p90": 2.5, "p95": 2.5, "p99": 2.5}


def test_percentiles_are_interpolated_between_ranks() -> None:
    """Of 1 to 5 the median is 3 and the 90th percentile stands at rank 0.9 * 4 = 3.6, between 4 and 5."""
    found = describe([5, 1, 4, 2, 3])
    assert found == pytest.approx({"mean": 3.0, "p50": 3.0, "p90": 4.6, "p95": 4.8, "p99": 4.96})


@given(st.dictionaries(st.integers(0, 10**10), st.integers(1, 50), min_size=1, max_size=20))
def test_counted_values_are_described_as_if_they_were_listed(counts: dict[int, int]) -> None:
    """A tolerance of 1e-12: the mean is summed in another order."""
    listed = np.repeat(list(counts), list(counts.values()))
    assert describe_counts(counts, 1e-6) == pytest.approx(describe(listed * 1e-6), rel=1e-12, abs=1e-12)


def test_a_sum_of_times_beyond_64_bits_has_its_mean() -> None:
    """A million requests of three hours each spend 10^19 ns between their tokens, more than 64 bits hold."""
    found = describe_counts({10**13: 10**6}, 1e-9)
    assert found is not None
    assert found["mean"] == pytest.approx(10**4)
