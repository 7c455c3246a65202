"""What the ranks of a graph waited for while they did not compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llmservingsim.graph import Graph

_PER_LANE = 3


class GraphTimes(NamedTuple):
    """Of the tickets of a graph, in order of completion; at any moment a rank waits for one kind of thing.

    Attributes:
        begin_ns: When each began, after what it followed; shape ``[tickets]``.
        messages_ns: For how long each lane waited for collectives and messages, slower ranks in them included; shape
            ``[tickets, lanes]``.
        offload_ns: Likewise for memories that compute.
        access_ns: Likewise for loads and stores.
        lanes: The ranks that each lane stands for.
    """

    begin_ns: NDArray[np.int64]
    messages_ns: NDArray[np.int64]
    offload_ns: NDArray[np.int64]
    access_ns: NDArray[np.int64]
    lanes: Sequence[Sequence[int]]

    @classmethod
    def of(cls, flat: NDArray[np.int64], lanes: Sequence[Sequence[int]]) -> GraphTimes:
        """Read the rows of the native backend: begin, then three times per lane."""
        rows = flat.reshape(-1, 1 + _PER_LANE * len(lanes))
        messages, offload, access = (rows[:, 1 + k :: _PER_LANE] for k in range(_PER_LANE))
        return cls(rows[:, 0], messages, offload, access, lanes)


class KeepsTimes(Protocol):
    """A backend that knows what ranks waited for."""

    def times_of(self, graph: Graph) -> GraphTimes | None:
        """Return it, of a registered graph; None where one node is all."""
        ...
