"""The native backend: times execution graphs the way ASTRA-sim does."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from llmservingsim.backend.steps import Step
from llmservingsim.graph import Graph

class Fabric:
    endpoints: int
    switches: int
    def __init__(self) -> None: ...
    def set_links(self, links: Sequence[tuple[int, int, float, float]]) -> None: ...
    def set_route(self, route: Callable[[int, int], Sequence[int]]) -> None: ...

class NetworkConfig:
    topology: list[str]
    npus_count: list[int]
    bandwidth: list[float]
    latency_ns: list[float]
    model: str
    fabric: Fabric
    parity: bool
    refuses_time_zero: bool
    def __init__(self) -> None: ...

class SystemConfig:
    preferred_dataset_splits: int
    active_chunks_per_dimension: int
    num_queues_per_dim: int
    scheduling_policy: str
    collective_optimization: str
    endpoint_delay_ns: int
    local_mem_bandwidth: float
    peak_perf: float
    roofline_enabled: bool
    replay_only: bool
    rendezvous: bool
    local_reduction_delay_ns: int
    zero_duration_ns: int
    parity: bool
    dialect: str
    record_nodes: bool
    all_reduce: list[str]
    all_gather: list[str]
    reduce_scatter: list[str]
    all_to_all: list[str]
    def __init__(self) -> None: ...
    def set_shared_bus(self, latency: int, overhead: int, gap: int, ns_per_byte: float, /) -> None: ...
    def add_author(self, name: str, steps: Callable[[int, int, int, int], Sequence[Step]], /) -> None: ...
    def set_programs(self, sets: Sequence[Sequence[Sequence[Step]]], /) -> None: ...
    def set_custom(self, collective: int, programs: int, /) -> None: ...
    def add_measured(self, collective: int, ranks: int, sizes: list[int], times: list[int], /) -> None: ...

class MemoryAccess:
    """One load or store, as a memory of your own sees it.

    Attributes:
        rank: Who asks.
        device: Of the level, from 0.
        channel: PIM channel within the device, PIM_COMP only.
        is_store: Else it loads.
        size_bytes: How much.
    """

    def __init__(
        self, rank: int = 0, device: int = 0, channel: int = 0, is_store: bool = False, size_bytes: int = 0
    ) -> None: ...
    @property
    def rank(self) -> int: ...
    @property
    def device(self) -> int: ...
    @property
    def channel(self) -> int: ...
    @property
    def is_store(self) -> bool: ...
    @property
    def size_bytes(self) -> int: ...

class MemoryUse:
    """What a memory did so far.

    Attributes:
        accesses: Begun so far; each computation in memory counts as a load.
        bytes_loaded, bytes_stored: By these.
        busy_ns: Of its servers, added up; of accesses, where none queues.
        longest_queue: Most accesses that one server had at once, the one in service included; 0 where none queues.
        capacity_bytes: Of all devices; 0: not stated.
    """

    @property
    def accesses(self) -> int: ...
    @property
    def bytes_loaded(self) -> int: ...
    @property
    def bytes_stored(self) -> int: ...
    @property
    def busy_ns(self) -> int: ...
    @property
    def longest_queue(self) -> int: ...
    @property
    def capacity_bytes(self) -> int: ...

class MemoryRate:
    def __init__(self, latency_ns: int = 0, bandwidth: float = 0.0, write_bandwidth: float = 0.0) -> None: ...

class MemoryLink:
    def __init__(self, bandwidth: float, latency_ns: int = 0) -> None: ...

class MemoryLevel:
    type: str
    latency_ns: int
    bandwidth: float
    npus_per_node: int
    num_devices: int
    pim_channels: int
    queues_per_device: bool
    discipline: str
    channels: int
    write_bandwidth: float
    capacity_bytes: int
    endpoints: list[int]
    rates: list[MemoryRate]
    interleaves: list[list[int]]
    links: list[MemoryLink]
    rank_links: list[list[int]]
    device_links: list[list[int]]
    service_ns: Callable[[MemoryAccess], int] | None
    server: Callable[[MemoryAccess], int | None] | None
    def __init__(self) -> None: ...

class MemoryConfig:
    local: MemoryLevel
    remote: MemoryLevel
    cxl: MemoryLevel
    storage: MemoryLevel
    def __init__(self) -> None: ...

class Simulation:
    def __init__(self, network: NetworkConfig, system: SystemConfig, memory: MemoryConfig) -> None: ...
    @property
    def now_ns(self) -> int: ...
    def register(self, graph: Graph) -> int: ...
    def submit(
        self,
        graph: int,
        durations_ns: NDArray[np.int64] | None = None,
        sizes_bytes: NDArray[np.int64] | None = None,
        after: int = -1,
    ) -> int: ...
    def advance(self, until_ns: int) -> list[int]: ...
    def cut(self, ticket: int) -> int: ...
    def step_ends_ns(self, ticket: int) -> NDArray[np.int64]: ...
    def node_times(self, ticket: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]: ...
    def ranks(self, ticket: int) -> NDArray[np.int32]: ...
    def rank_finish_ns(self, ticket: int) -> NDArray[np.int64]: ...
    def rank_compute_ns(self, ticket: int) -> NDArray[np.int64]: ...
    def memory_use(self) -> dict[str, MemoryUse]: ...
    def memory_link_use(self) -> dict[str, list[tuple[int, int]]]: ...
    def link_ends(self) -> list[tuple[int, int]]: ...
    def link_bytes(self) -> NDArray[np.int64]: ...
    def link_busy_ns(self) -> NDArray[np.int64]: ...
