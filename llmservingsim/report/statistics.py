"""Means and percentiles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99)


def merge_counts(parts: Sequence[dict[int, int]]) -> dict[int, int]:
    """Add up how often each value occurs; of one part it is that part."""
    if len(parts) == 1:
        return parts[0]
    total: dict[int, int] = {}
    for part in parts:
        for value, count in part.items():
            total[value] = total.get(value, 0) + count
    return total


def describe(values: Iterable[float] | NDArray[np.float64]) -> dict[str, float] | None:
    """Return mean and percentiles (linear interpolation between ranks), or None for no value."""
    array = values if isinstance(values, np.ndarray) else np.fromiter(values, dtype=np.float64)
    if not len(array):
        return None
    ranks = np.percentile(array, PERCENTILES)
    return {"mean": float(array.mean())} | {f"p{p}": float(v) for p, v in zip(PERCENTILES, ranks, strict=True)}


def describe_counts(counts: Mapping[int, int], scale: float) -> dict[str, float] | None:
    """Do what `describe` does for values that come with their number of occurrences.

    Args:
        counts: Value -> how often.
        scale: Factor from the value's unit to the result's.
    """
    if not counts:
        return None
    values = np.array(sorted(counts))
    weights = np.array([counts[v] for v in values.tolist()])
    ends = np.cumsum(weights)
    total = int(ends[-1])
    mean = float(sum(value * count for value, count in counts.items())) / total  # Python's sum cannot overflow
    result = {"mean": mean * scale}
    for p in PERCENTILES:
        rank = (total - 1) * p / 100
        low, high = (values[np.searchsorted(ends, r, side="right")] for r in (int(rank), min(int(rank) + 1, total - 1)))
        result[f"p{p}"] = float(low + (high - low) * (rank - int(rank))) * scale
    return result
