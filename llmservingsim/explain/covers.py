"""Stretches of time: what lies in them, and what two kinds of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]


class Cover(NamedTuple):
    """Stretches [begin, end) that rise and do not meet; shapes ``[stretches]``."""

    begin: Times
    end: Times

    @classmethod
    def of(cls, begin: Sequence[int] | Times, end: Sequence[int] | Times) -> Cover:
        """Join stretches in any order, which may overlap or be empty."""
        starts, ends = np.array(begin, dtype=np.int64), np.array(end, dtype=np.int64)
        kept = starts < ends
        order = np.argsort(starts[kept], kind="stable")
        starts, ends = starts[kept][order], np.maximum.accumulate(ends[kept][order])
        if not len(starts):
            return cls(starts, ends)
        is_first = np.concatenate([[True], starts[1:] > ends[:-1]])
        is_last = np.concatenate([is_first[1:], [True]])
        return cls(starts[is_first], ends[is_last])

    @property
    def total_ns(self) -> int:
        """How much it covers."""
        return int((self.end - self.begin).sum())

    def until(self, times: Times) -> Times:
        """Return how much it covers before each of some times."""
        lengths = np.concatenate([[0], np.cumsum(self.end - self.begin)])
        place = np.searchsorted(self.begin, times, side="right")
        if not len(self.end):
            return np.zeros(len(times), dtype=np.int64)
        beyond = np.maximum(0, self.end[place - 1] - times)
        return np.asarray(lengths[place] - np.where(place > 0, beyond, 0), dtype=np.int64)

    def within(self, begin: Times, end: Times) -> Times:
        """Return how much it covers of each of some stretches, which may overlap."""
        return self.until(end) - self.until(begin)

    def overlap_ns(self, other: Cover) -> int:
        """Return how much both cover."""
        return int(self.within(other.begin, other.end).sum())

    def both(self, other: Cover) -> Cover:
        """Return what both cover."""
        return self._keep(other, wanted=True)

    def without(self, other: Cover) -> Cover:
        """Return what this covers and the other does not."""
        return self._keep(other, wanted=False)

    def _keep(self, other: Cover, *, wanted: bool) -> Cover:
        edges = np.unique(np.concatenate([*self, *other]))
        begin, end = edges[:-1], edges[1:]
        kept = (self.within(begin, end) > 0) & ((other.within(begin, end) > 0) == wanted)
        return Cover.of(begin[kept], end[kept])


def steps(since_ns: Sequence[int], what: Sequence[int], until_ns: int) -> dict[int, Cover]:
    """Return when each value held, of one that takes ``what[i]`` at ``since_ns[i]`` and keeps its last."""
    begin = np.minimum(np.array(since_ns, dtype=np.int64), until_ns)
    end = np.concatenate([begin[1:], [until_ns]])[: len(begin)]
    values = np.array(what, dtype=np.int64)
    return {int(value): Cover.of(begin[values == value], end[values == value]) for value in np.unique(values)}
