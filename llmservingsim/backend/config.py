"""What describes a backend: network, system layer and memories, with ASTRA-sim's names and units."""

from __future__ import annotations

from typing import Literal

import msgspec

TopologyName = Literal["Ring", "FullyConnected", "Switch"]
Policy = Literal["LIFO", "FIFO", "EXPLICIT"]
Optimization = Literal["baseline", "localBWAware"]
MemoryType = Literal["NO_MEMORY_EXPANSION", "PER_NPU_MEMORY_EXPANSION", "PER_NODE_MEMORY_EXPANSION", "MEMORY_POOL"]

LINK_GB = 2**30
"""Bytes in one GB of link bandwidth: ASTRA-sim's analytical network counts 2^30."""

MEMORY_GB = 10**9
"""Bytes in one GB of memory bandwidth: ASTRA-sim counts 10^9."""


class NetworkModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The analytical network, one entry per dimension; dimension 0 is the innermost.

    Attributes:
        topology: Shape of each dimension.
        npus_count: Ranks along each dimension.
        bandwidth_gbps: Of a link, in ASTRA-sim's GB/s of 2^30 bytes; see `bandwidth_bytes_per_ns`.
        latency_ns: Of each link crossed; may be fractional.
    """

    topology: list[str]
    npus_count: list[int]
    bandwidth_gbps: list[float]
    latency_ns: list[float]

    @property
    def bandwidth_bytes_per_ns(self) -> list[float]:
        """The bandwidths as ASTRA-sim computes them: ``bandwidth * 2^30 / 10^9``, product first."""
        return [b * LINK_GB / 1e9 for b in self.bandwidth_gbps]

    @property
    def npus(self) -> int:
        """Ranks in the whole network."""
        product = 1
        for n in self.npus_count:
            product *= n
        return product


class SystemModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a rank's system layer turns collectives into messages.

    Attributes:
        preferred_dataset_splits: Chunks wanted per collective.
        active_chunks_per_dimension: Chunks under way at once.
        scheduling_policy: Which collective's chunks go first; no effect in one dimension, where a rank has one
            collective at a time.
        collective_optimization: How an all-reduce uses several dimensions; no effect in one.
        endpoint_delay_ns: Paid per block prepared.
        local_mem_bw_gbps: GB/s of 10^9 bytes; one write and two reads per reduction. 0 makes reductions free.
        zero_duration_ns: What a COMP node of duration 0 takes; ASTRA-sim charges 1.
        parity: Keep ASTRA-sim's oddities: groups smaller than the system pay 10 ns instead of the endpoint delay,
            collectives of nothing or of one rank never complete, INVALID nodes trigger no issue pass.
        all_reduce, all_gather, reduce_scatter, all_to_all: An algorithm per network dimension; none forbids that
            collective.
    """

    preferred_dataset_splits: int = 1
    active_chunks_per_dimension: int = 1
    scheduling_policy: Policy = "LIFO"
    collective_optimization: Optimization = "localBWAware"
    endpoint_delay_ns: int = 10
    local_mem_bw_gbps: float = 0.0
    zero_duration_ns: int = 0
    parity: bool = False
    all_reduce: list[str] = msgspec.field(default_factory=lambda: ["ring"])
    all_gather: list[str] = msgspec.field(default_factory=lambda: ["ring"])
    reduce_scatter: list[str] = msgspec.field(default_factory=lambda: ["ring"])
    all_to_all: list[str] = msgspec.field(default_factory=lambda: ["ring"])


class MemoryLevelModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One memory that loads and stores reach; an access takes ``latency + size / bandwidth``.

    Attributes:
        type: Who queues behind whom: nobody (PER_NPU), the ranks of a node, or all (MEMORY_POOL).
        latency_ns: Per access.
        bandwidth_gbps: GB/s of 10^9 bytes, which is bytes per nanosecond; 0 costs the latency alone.
        npus_per_node: Ranks that share a server, PER_NODE only.
    """

    type: MemoryType = "NO_MEMORY_EXPANSION"
    latency_ns: int = 0
    bandwidth_gbps: float = 0.0
    npus_per_node: int = 1


class MemoryModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The memories of the system, by `llmservingsim.graph.MemoryLocation`."""

    local: MemoryLevelModel = MemoryLevelModel()
    remote: MemoryLevelModel = MemoryLevelModel()
