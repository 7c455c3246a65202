"""Operators at a lower clock: what arithmetic bounds takes longer, what memory bandwidth bounds does not.

    t(c) = t * max(compute / c, memory, launch) / max(compute, memory, launch)

with the share c of the maximum clock, and compute and memory time of the operator from the roofline of the catalogue
entry. Whatever source gives t, only the ratio comes from the roofline. The clock of the memory does not change.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import ExpertLatencySource, ExpertWork, LatencySource, PartialLatencySource
from llmservingsim.model import HOST_GAP
from llmservingsim.shapes import BatchShape
from llmservingsim.units import NS_PER_S


class ClockedSource:
    """Another source's latencies at a share of the maximum clock.

    Args:
        source: At the maximum clock.
        roofline: Says what bounds an operator.
        clock: The share, in (0, 1].

    Attributes:
        at_full_clock: The other source.
    """

    def __init__(self, source: LatencySource, roofline: RooflineSource, clock: float) -> None:
        self.at_full_clock = source
        self._source = source
        self._roofline = roofline
        self._clock = clock
        self._launch_s = roofline.launch_ns / NS_PER_S

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the operator's time at the clock."""
        full_ns = self._source.latency_ns(operator, shape)
        if not full_ns or operator == HOST_GAP.name:  # the host has a clock of its own
            return full_ns
        compute_s, memory_s = self._roofline.bounds_s(operator, shape)
        longest_s = max(compute_s, memory_s, self._launch_s)
        if not longest_s:
            return full_ns
        return round(full_ns * (max(compute_s / self._clock, memory_s, self._launch_s) / longest_s))

    def holds(self, operator: str) -> bool:
        """Whether the other source says that it holds an operator."""
        return isinstance(self._source, PartialLatencySource) and self._source.holds(operator)

    def provenance(self) -> dict[str, object]:
        """Say what the source says, and the clock."""
        return {**self._source.provenance(), "clock": self._clock}


class ClockedExpertSource(ClockedSource):
    """One that also times experts."""

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return the time of ``moe`` at the clock, shape ``[layers, ranks]``."""
        assert isinstance(self._source, ExpertLatencySource)
        full_ns = self._source.moe_latency_ns(work)
        compute_s, memory_s = self._roofline.moe_bounds_s(work)
        longest_s = np.maximum(np.maximum(compute_s, memory_s), self._launch_s)
        slowed_s = np.maximum(np.maximum(compute_s / self._clock, memory_s), self._launch_s)
        ratio = np.divide(slowed_s, longest_s, out=np.ones_like(longest_s), where=longest_s > 0)
        return np.asarray(np.rint(full_ns * ratio), dtype=np.int64)


def at_clock(source: LatencySource, roofline: RooflineSource, clock: float) -> LatencySource:
    """Return a source that times what ``source`` times, at a share of the maximum clock."""
    kind = ClockedExpertSource if isinstance(source, ExpertLatencySource) else ClockedSource
    return kind(source, roofline, clock)
