"""Interpolation in measured tables, counting what lies beyond the measured grid."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence

from llmservingsim.latency.source import Grade


class LinearTable:
    """Time over one size, linear between measured points and beyond them.

    Below the first point the first time holds (a kernel has a floor); above the last the line through the first
    and the last point of the upper half goes on, which averages out the steps of tile sizes, and never falls.

    Args:
        sizes: Rising sizes, at least one.
        times: Times at these sizes, in any unit.
        slope: Time per size beyond the last point, None for that of the table itself.

    Attributes:
        slope: The same, at least 0.
    """

    def __init__(self, sizes: Sequence[float], times: Sequence[float], slope: float | None = None) -> None:
        self._sizes = list(sizes)
        self._times = list(times)
        self.slope = max(0.0, self._own_slope() if slope is None else slope)

    @property
    def sizes(self) -> Sequence[float]:
        """The measured sizes, rising."""
        return self._sizes

    @property
    def last(self) -> float:
        """The largest measured size."""
        return self._sizes[-1]

    def _own_slope(self) -> float:
        half = max(0, min(len(self._sizes) // 2, len(self._sizes) - 2))
        span = self._sizes[-1] - self._sizes[half]
        return (self._times[-1] - self._times[half]) / span if span else self._times[-1] / max(1.0, self._sizes[-1])

    def covers(self, size: float) -> bool:
        """Whether ``size`` lies within the measured range."""
        return self._sizes[0] <= size <= self._sizes[-1]

    def grade(self, size: float) -> Grade:
        """Whether the time at ``size`` was measured, or lies between measured ones or beyond them."""
        if not self.covers(size):
            return Grade.EXTRAPOLATED
        place = bisect_left(self._sizes, size)
        return Grade.MEASURED if self._sizes[place] == size else Grade.INTERPOLATED

    def at(self, size: float) -> float:
        """Return the time at ``size``."""
        sizes, times = self._sizes, self._times
        if size >= sizes[-1]:
            return times[-1] + self.slope * (size - sizes[-1])
        if size <= sizes[0]:
            return times[0]
        high = bisect_right(sizes, size)
        low = high - 1
        share = (size - sizes[low]) / (sizes[high] - sizes[low])
        return times[low] + share * (times[high] - times[low])


def stepped_table(sizes: Sequence[float], times: Sequence[float], step: float) -> LinearTable:
    """Make a table of a time that steps up: a line on either side of the step, and none across it.

    From the step to the first point above it the line through the first two points above goes back, but not below
    what was measured under the step.

    Args:
        sizes: Rising sizes, at least one.
        times: Times at these sizes, in any unit.
        step: The first size above the step.
    """
    table = LinearTable(sizes, times)
    split = bisect_left(sizes, step)
    if not 0 < split < len(sizes):
        return table
    below = LinearTable(sizes[:split], times[:split], 0.0 if split == 1 else None)
    ends, at_ends = [math.nextafter(step, 0)], [below.at(step)]
    if sizes[split] > step:
        first, second = (*sizes[split : split + 2], math.inf)[:2]
        rise = (times[min(split + 1, len(times) - 1)] - times[split]) / (second - first)
        ends, at_ends = [*ends, step], [*at_ends, max(times[split - 1], times[split] - rise * (first - step))]
    return LinearTable([*sizes[:split], *ends, *sizes[split:]], [*times[:split], *at_ends, *times[split:]], table.slope)


class DecodeTable:
    """Decode attention over (sequences, mean KV length): linear in each, so linear in n * kv between the points.

    Args:
        rows: For each measured number of sequences, (KV lengths, times).
        slopes: Time per KV length beyond the last one, for those numbers whose own is not to be used.
        step: The KV length at which the kernel walks through a second block of keys, 0 where it is not known.
    """

    def __init__(
        self,
        rows: Mapping[int, tuple[Sequence[float], Sequence[float]]],
        slopes: Mapping[int, float] | None = None,
        step: float = 0.0,
    ) -> None:
        self._counts = sorted(rows)
        self._tables = [
            stepped_table(*rows[count], step) if step else LinearTable(*rows[count], (slopes or {}).get(count))
            for count in self._counts
        ]

    @classmethod
    def of_points(cls, points: Iterable[tuple[float, float, float]], step: float = 0.0) -> DecodeTable:
        """Build a table from (sequences, KV length, time), in any order; at least one."""
        rows: dict[int, list[tuple[float, float]]] = {}
        for count, kv, time in sorted(points):
            rows.setdefault(int(count), []).append((kv, time))
        lines = {count: ([kv for kv, _ in row], [time for _, time in row]) for count, row in rows.items()}
        return cls(lines, step=step)

    def covers(self, count: float, kv: float) -> bool:
        """Whether the point lies within the measured grid."""
        if not self._counts[0] <= count <= self._counts[-1]:
            return False
        low, high = bisect_right(self._counts, count) - 1, bisect_left(self._counts, count)
        return self._tables[low].covers(kv) and self._tables[high].covers(kv)

    def at(self, count: float, kv: float) -> float:
        """Return the time of ``count`` sequences of mean KV length ``kv``."""
        counts, tables = self._counts, self._tables
        if len(counts) == 1 or count <= counts[0]:
            return tables[0].at(kv)
        high = min(bisect_right(counts, count), len(counts) - 1)
        low = high - 1
        below = tables[low].at(kv)
        share = (count - counts[low]) / (counts[high] - counts[low])
        rise = tables[high].at(kv) - below
        if rise < 0:
            share = min(share, 1.0)  # noise between the last two counts must not go on below the last
        return below + share * rise if share else below
