"""What describes a backend: network, system layer and memories, with ASTRA-sim's names and units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from llmservingsim.backend.steps import Step

if TYPE_CHECKING:
    from llmservingsim.backend.memory import MemoryTiming

TopologyName = Literal["Ring", "FullyConnected", "Switch"]
CongestionModel = Literal["unaware", "aware", "flow"]
Policy = Literal["LIFO", "FIFO", "EXPLICIT"]
Optimization = Literal["baseline", "localBWAware"]
Dialect = Literal["astra-sim", "llmservingsim"]
CollectiveName = Literal["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]
MemoryType = Literal["NO_MEMORY_EXPANSION", "PER_NPU_MEMORY_EXPANSION", "PER_NODE_MEMORY_EXPANSION", "MEMORY_POOL"]
Discipline = Literal["fifo", "shared", "flow"]

MEMORY_DEVICES = "MEMORY_DEVICES"
"""The type of a `MemoryLevelModel` whose accesses queue by device; ASTRA-sim has no such type."""

LINK_GB = 2**30
"""Bytes in one GB of link bandwidth: ASTRA-sim's analytical network counts 2^30."""

MEMORY_GB = 10**9
"""Bytes in one GB of memory bandwidth: ASTRA-sim counts 10^9."""

TERA = 10**12
"""Operations in one TFLOP."""


class LinkModel(msgspec.Struct, frozen=True, array_like=True):
    """One direction of a cable of a `FabricModel`.

    Attributes:
        source, target: Devices: ranks first, then endpoints of memories, then switches.
        bandwidth_gbps: In ASTRA-sim's GB/s of 2^30 bytes.
        latency_ns: May be fractional.
    """

    source: int
    target: int
    bandwidth_gbps: float
    latency_ns: float = 0.0

    @property
    def bandwidth_bytes_per_ns(self) -> float:
        """As `NetworkModel.bandwidth_bytes_per_ns`."""
        return self.bandwidth_gbps * LINK_GB / 1e9


class FabricModel(msgspec.Struct, frozen=True):
    """A network of arbitrary links; messages take the shortest path, equally short ones chosen by a hash of the pair.

    Attributes:
        links: Every direction of every cable.
        endpoints: Devices that send and receive besides the ranks: memories.
        switches: Devices that only pass on.
        route: Links in order (as indices) from a source to a target, where the shortest path is not the one. Asked once
            per pair.
    """

    links: list[LinkModel]
    endpoints: int = 0
    switches: int = 0
    route: Callable[[int, int], Sequence[int]] | None = None


class NetworkModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The analytical network, one entry per dimension; dimension 0 is the innermost.

    Attributes:
        topology: Shape of each dimension.
        npus_count: Ranks along each dimension.
        bandwidth_gbps: Of a link, in ASTRA-sim's GB/s of 2^30 bytes; see `bandwidth_bytes_per_ns`.
        latency_ns: Of each link crossed; may be fractional.
        fabric: Links other than those of a grid; ``topology``, ``bandwidth_gbps`` and ``latency_ns`` are then empty and
            ``npus_count`` is the logical shape over which collectives are decomposed.
        model: Whether messages wait for each other: ``unaware`` never; ``aware`` as in ASTRA-sim, where a link carries
            one message at a time, store and forward; ``flow`` shares links max-min fair.
    """

    topology: list[str] = []
    npus_count: list[int] = []
    bandwidth_gbps: list[float] = []
    latency_ns: list[float] = []
    model: CongestionModel = "unaware"
    fabric: FabricModel | None = None

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


class SharedBusModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ASTRA-sim's LogGP-like bus between a rank and its network interface; names as in its system file.

    Attributes:
        L, o, g: Latency, overhead and gap in nanoseconds.
        G: Nanoseconds per byte.
    """

    L: int = 0
    o: int = 0
    g: int = 0
    G: float = 0.0


class MeasuredCollective(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Measured times that replace the analytical ones of a collective over that many ranks.

    Attributes:
        collective: Which one.
        ranks: Over how many.
        size_bytes: Ascending, as the graph's nodes state it.
        time_ns: As many.
    """

    collective: CollectiveName
    ranks: int
    size_bytes: list[int]
    time_ns: list[int]


class SystemModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a rank's system layer turns collectives into messages.

    Attributes:
        preferred_dataset_splits: Chunks wanted per collective.
        active_chunks_per_dimension: Chunks under way at once, over all queues of a dimension.
        num_queues_per_dim: Queues of each dimension, over which chunks rotate.
        scheduling_policy: Which collective's chunks go first.
        collective_optimization: How an all-reduce uses several dimensions: ``localBWAware`` scatters inward and gathers
            outward, ``baseline`` reduces everything in each.
        endpoint_delay_ns: Paid per block prepared.
        local_mem_bw_gbps: GB/s of 10^9 bytes; one write and two reads per reduction. 0 makes reductions free. Also the
            roofline's bandwidth.
        peak_perf_tflops: Of the accelerator, for roofline timing.
        roofline_enabled: Time COMP nodes by their ``num_ops`` and size instead of their duration.
        replay_only: Every node takes its recorded duration, communication too.
        local_reduction_delay_ns: Per 100 bytes processed, shared bus only.
        shared_bus: Model the bus instead of the endpoint delay; None: no.
        rendezvous: Sends wait for a handshake from the receiver.
        zero_duration_ns: What a COMP node of duration 0 takes; ASTRA-sim charges 1.
        parity: Keep ASTRA-sim's oddities, which `docs/concepts/astra-sim.md` lists.
        dialect: Whose rules order a rank's nodes: ``astra-sim``, or ``llmservingsim`` for LLMServingSim 2.0's fork,
            where memory nodes occupy no slot.
        all_reduce, all_gather, reduce_scatter, all_to_all: An algorithm per network dimension; none forbids that
            collective. ``package.module:Class`` is a user's own, see `llmservingsim.backend.CollectiveAlgorithm`.
        programs: Collectives spelled out: per set, per place in the communicator, the steps of that rank.
        custom: Collective -> the set of ``programs`` that replaces its algorithm.
        measured: Times that replace those of algorithms.
        record_nodes: Keep when each node began and ended, see `Backend.node_times`.
    """

    preferred_dataset_splits: int = 1
    active_chunks_per_dimension: int = 1
    num_queues_per_dim: int = 1
    scheduling_policy: Policy = "LIFO"
    collective_optimization: Optimization = "localBWAware"
    endpoint_delay_ns: int = 10
    local_mem_bw_gbps: float = 0.0
    peak_perf_tflops: float = 0.0
    roofline_enabled: bool = False
    replay_only: bool = False
    local_reduction_delay_ns: int = 1
    shared_bus: SharedBusModel | None = None
    rendezvous: bool = False
    zero_duration_ns: int = 0
    parity: bool = False
    dialect: Dialect = "astra-sim"
    all_reduce: list[str] = msgspec.field(default_factory=lambda: ["ring"])
    all_gather: list[str] = msgspec.field(default_factory=lambda: ["ring"])
    reduce_scatter: list[str] = msgspec.field(default_factory=lambda: ["ring"])
    all_to_all: list[str] = msgspec.field(default_factory=lambda: ["ring"])
    programs: tuple[tuple[tuple[Step, ...], ...], ...] = ()
    custom: dict[CollectiveName, int] = {}
    measured: list[MeasuredCollective] = []
    record_nodes: bool = False


class MemoryRateModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How fast one device of a memory is; fields as in `MemoryLevelModel`."""

    latency_ns: int = 0
    bandwidth_gbps: float = 0.0
    write_bandwidth_gbps: float = 0.0


class MemoryLinkModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A link between ranks and devices of a memory, in each of its two directions.

    Attributes:
        bandwidth_gbps: GB/s of 10^9 bytes.
        latency_ns: Of crossing it.
    """

    bandwidth_gbps: float
    latency_ns: int = 0


class MemoryLevelModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One memory that loads and stores reach; an access alone takes ``latency + floor(size / bandwidth)``.

    Attributes:
        type: Who queues behind whom. ASTRA-sim's types: nobody (PER_NPU), the ranks of a node, or all (MEMORY_POOL).
            ``MEMORY_DEVICES``: accesses of the same device; an access of device -1 is striped over all devices and
            takes as long as its slowest stripe. ``package.module:Class``, or an object: a memory of your own, see
            `MemoryTiming`; it has ``options`` and nothing else.
        latency_ns: Per access.
        bandwidth_gbps: GB/s of 10^9 bytes, which is bytes per nanosecond; 0 costs the latency alone.
        npus_per_node: Ranks that share a server, PER_NODE only.
        num_devices: Devices of the level; latency, bandwidth, channels and capacity are of each.
        pim_channels: Channels per device that compute; 0: none.
        queues_per_device: PER_NODE and MEMORY_POOL queue per device instead of per node, as LLMServingSim's do.
        discipline: Of a device of MEMORY_DEVICES. ``fifo``: an access goes to the channel that is free first and has it
            to itself. ``shared``: all accesses under way have equal shares of the bandwidth. ``flow``: an access flows
            over links and device at one rate, and rates are max-min fair; one that is interleaved has one rate too.
        channels: MEMORY_DEVICES, fifo: that many per device, each with its part of the bandwidth.
        write_bandwidth_gbps: MEMORY_DEVICES: of stores; 0: as loads.
        capacity_bytes: MEMORY_DEVICES: a larger access is refused; what lies there is for others to count. 0: not
            stated.
        endpoints: MEMORY_DEVICES: per device, where it is in the network. A load is a message from there to the rank, a
            store one to there; it ends when message and device are done, and shares links with all other messages.
            Empty: accesses do not use the network.
        rates: MEMORY_DEVICES: per device, where they differ, instead of latency and bandwidths.
        interleaves: MEMORY_DEVICES: sets of devices; an access of device ``-2 - k`` is striped over the k-th.
        links: MEMORY_DEVICES, flow: what lies between ranks and devices.
        rank_links: Which of these each rank of the network is behind, in order.
        device_links: Likewise each device.
        options: Keyword arguments of your own class.
    """

    type: MemoryType | Literal["MEMORY_DEVICES"] | str | MemoryTiming = "NO_MEMORY_EXPANSION"
    latency_ns: int = 0
    bandwidth_gbps: float = 0.0
    npus_per_node: int = 1
    num_devices: int = 1
    pim_channels: int = 0
    queues_per_device: bool = False
    discipline: Discipline = "fifo"
    channels: int = 1
    write_bandwidth_gbps: float = 0.0
    capacity_bytes: int = 0
    endpoints: list[int] = []
    rates: list[MemoryRateModel] = []
    interleaves: list[list[int]] = []
    links: list[MemoryLinkModel] = []
    rank_links: list[list[int]] = []
    device_links: list[list[int]] = []
    options: dict[str, Any] = {}


class MemoryModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The memories of the system, by `llmservingsim.graph.MemoryLocation`."""

    local: MemoryLevelModel = MemoryLevelModel()
    remote: MemoryLevelModel = MemoryLevelModel()
    cxl: MemoryLevelModel = MemoryLevelModel()
    storage: MemoryLevelModel = MemoryLevelModel()
