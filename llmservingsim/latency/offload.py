"""Devices beside an accelerator that take over some operators of an instance, such as memory that computes."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmservingsim.latency.source import LatencySource


class OffloadDevice(LatencySource, Protocol):
    """Times operators on a device that holds the data they read.

    Decode attention runs where keys and values lie. The device has *groups* of channels that work at the same time; the
    keys and values of a request lie in one of them, so a group computes its requests one after another. A device
    without channels has one group.

    `LatencySource.latency_ns` times the other operators, whose weights are spread over all channels.
    """

    @property
    def num_groups(self) -> int:
        """Groups of channels."""
        ...

    @property
    def operators(self) -> frozenset[str]:
        """What it can compute; ``attention`` means that of decodes."""
        ...

    def attention_ns(self, requests: NDArray[np.int64], context_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the time of the decode attention of one block in each group, shape ``[groups]``, 0 where it is idle.

        Args:
            requests: Shape ``[groups]``: how many compute one token each.
            context_tokens: Shape ``[groups]``: the sum of their KV lengths, the new tokens included.
        """
        ...
