"""Inter-token times of each request, worked out from the batches that gave it tokens.

Engines know when each of their batches ended, requests which of them gave them something. So nothing is kept per token,
and the times of a million tokens are one look-up in an array.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.report.details import RequestDetail
from llmservingsim.units import NS_PER_MS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_MESSAGES_AT_ONCE = 2**19
_RUN = 3


class GapStatistics(NamedTuple):
    """Of each request, in milliseconds; nan without a gap."""

    mean: Floats
    p50: Floats
    p90: Floats
    p99: Floats
    max: Floats


_PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}


class TokenTimes:
    """When every message of every request came.

    Args:
        ended_ns: Of each engine, when its batches ended.
        details: Of the requests.
        num_tokens: How many tokens each request got, at least its messages.
    """

    def __init__(
        self, ended_ns: Sequence[array[int]], details: Sequence[RequestDetail], num_tokens: Sequence[int]
    ) -> None:
        self._ended_ns = np.concatenate([np.array(times, dtype=np.int64) for times in ended_ns] or [np.empty(0, int)])
        self._starts = np.cumsum([0, *(len(times) for times in ended_ns)])
        self._details = details
        self._num_tokens = np.array(num_tokens, dtype=np.int64)

    def gaps(self) -> Iterator[tuple[slice, Ints, Ints]]:
        """Yield, for some neighbouring requests at a time, which these are, and whose each gap of so many ns is.

        Owners count from the first of these requests; gaps come in no order.
        """
        turns = np.cumsum(self._num_tokens) // _MESSAGES_AT_ONCE
        edges = [0, *(np.flatnonzero(np.diff(turns)) + 1).tolist(), len(turns)]
        for begin, end in pairwise(edges):
            if end > begin:
                yield slice(begin, end), *self._gaps_of(self._details[begin:end])

    def statistics(self) -> GapStatistics:
        """Return mean and percentiles (linear interpolation between ranks) of each request's gaps."""
        found = GapStatistics(*(np.full(len(self._details), np.nan) for _ in GapStatistics._fields))
        for part, owners, gaps in self.gaps():
            for whole, values in zip(found, _statistics(owners, gaps, part.stop - part.start), strict=True):
                whole[part] = values
        return found

    def _gaps_of(self, details: Sequence[RequestDetail]) -> tuple[Ints, Ints]:
        flat, lengths = array("q"), []
        for detail in details:
            runs = detail.token_batches
            lengths.append(0 if runs is None else len(runs) // _RUN)
            if runs is not None:
                flat.extend(runs)
        first, last, step = np.array(flat, dtype=np.int64).reshape(-1, _RUN).T
        owner = np.repeat(np.arange(len(details)), lengths)
        counts = (last - first) // np.maximum(step, 1) + 1
        first = first + self._starts[np.array([detail.engine for detail in details])[owner]]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        times = self._ended_ns[np.repeat(first, counts) + within * np.repeat(step, counts)]
        owners = np.repeat(owner, counts)
        is_same = owners[1:] == owners[:-1]
        gaps, of = np.diff(times)[is_same], owners[1:][is_same]
        before = np.array([detail.first_elsewhere_ns for detail in details], dtype=np.int64)
        (split,) = np.nonzero((before >= 0) & (np.bincount(owners, minlength=len(details)) > 0))
        added = times[np.searchsorted(owners, split)] - before[split]  # behind a first token of another instance
        return np.concatenate([of, split]), np.concatenate([gaps, added])


def _statistics(owners: Ints, gaps: Ints, num_owners: int) -> GapStatistics:
    counts = np.bincount(owners, minlength=num_owners)
    has = np.flatnonzero(counts)
    found = {name: np.full(num_owners, np.nan) for name in GapStatistics._fields}
    if len(has):
        gaps = sorted_by_owner(owners, gaps)
        starts = (np.cumsum(counts) - counts)[has]
        most = counts[has] - 1
        found["mean"][has] = np.add.reduceat(gaps, starts) / counts[has] / NS_PER_MS
        for name, percentile in _PERCENTILES.items():
            rank = most * percentile / 100
            floor = rank.astype(np.int64)
            low, high = gaps[starts + floor], gaps[starts + np.minimum(floor + 1, most)]
            found[name][has] = (low + (high - low) * (rank - floor)) / NS_PER_MS
    return GapStatistics(**found)


def sorted_by_owner(owners: Ints, gaps: Ints) -> Ints:
    """Return the gaps of the first owner, rising, then those of the second and so on."""
    width = int(gaps.max()).bit_length()
    if width + int(owners.max()).bit_length() >= np.iinfo(np.int64).bits:
        return gaps[np.lexsort((gaps, owners))]
    keys = np.sort((owners << width) | gaps)  # many times as fast
    return keys & ((1 << width) - 1)
