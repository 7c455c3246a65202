"""Measured times of a mixture-of-experts block, over the tokens of a rank and its distinct experts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmservingsim.latency.source import ExpertWork, Grade
from llmservingsim.latency.tables import LinearTable
from llmservingsim.units import NS_PER_US

Floats = NDArray[np.float64]


class ExpertTable:
    """Time over (tokens, activated experts): linear in each.

    For few tokens the weights of the activated experts are read, which is linear in their number; for many the
    arithmetic counts, which is linear in the tokens. Every measured token visited ``experts_per_token`` experts of the
    rank, so a rank of several that compute (token, expert) pairs together sees ``pairs / experts_per_token`` tokens.
    Below the fewest tokens measured with a number of experts their time holds, and below the fewest experts likewise:
    there the kernel has its floor. Above the most experts the last slope goes on. More experts never take less, also
    where lines that go on beyond the most tokens would cross.

    Args:
        rows: Tokens, activated experts, time; shape ``[points, 3]``, at least one.
        experts_per_token: Of the measured model.
        slices: Ranks over which the width of one expert is cut. One with a slice of 1/s of every expert reads and
            multiplies as much as one that has 1/s of the experts and pairs, and is timed like it.
    """

    def __init__(self, rows: Floats, experts_per_token: int, slices: int = 1) -> None:
        self._per_token = experts_per_token
        self._slices = slices
        self._most_tokens = rows[:, 0].max()
        self._activated = np.unique(rows[:, 1])
        self._tables = []
        for activated in self._activated:
            points = rows[rows[:, 1] == activated]
            points = points[np.argsort(points[:, 0])]
            self._tables.append(LinearTable(points[:, 0].tolist(), points[:, 2].tolist()))

    def covers(self, pairs: Floats, activated: Floats) -> bool:
        """Whether all points lie within the measured range; ranks without a token count as the fewest experts."""
        pairs, activated = pairs / self._slices, activated / self._slices
        tokens = pairs.max(initial=0.0) / self._per_token
        low, high = activated[activated > 0].min(initial=np.inf), activated.max(initial=0.0)
        return bool(low >= self._activated[0] and high <= self._activated[-1] and tokens <= self._most_tokens)

    def graded_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], Grade]:
        """Return the times of a table in microseconds in nanoseconds, and where they come from."""
        times = np.rint(self.at(work.pairs, work.activated_experts) * NS_PER_US).astype(np.int64)
        return times, Grade.between(self.covers(work.pairs, work.activated_experts))

    def at(self, pairs: Floats, activated: Floats) -> Floats:
        """Return the times of (pairs, activated experts), elementwise."""
        pairs, activated = pairs / self._slices, activated / self._slices
        tokens, place = np.unique(pairs / self._per_token, return_inverse=True)
        by_tokens = np.array([[table.at(t) for table in self._tables] for t in tokens.tolist()])
        times = np.maximum.accumulate(by_tokens, axis=1)[place.reshape(pairs.shape)]
        if len(self._tables) == 1:
            return np.asarray(times[..., 0])
        clipped = np.maximum(activated, self._activated[0])
        low = np.clip(np.searchsorted(self._activated, clipped, side="right") - 1, 0, len(self._tables) - 2)
        span = self._activated[low + 1] - self._activated[low]
        share = (clipped - self._activated[low]) / span
        below = np.take_along_axis(times, low[..., None], axis=-1)[..., 0]
        above = np.take_along_axis(times, low[..., None] + 1, axis=-1)[..., 0]
        return np.asarray(below + share * (above - below))
