"""The native backend: the C++ simulation, built from the project's own configuration."""

from __future__ import annotations

import msgspec
import numpy as np

from llmservingsim.backend import _native
from llmservingsim.backend.collectives import COLLECTIVES, author
from llmservingsim.backend.config import MEMORY_GB, TERA, FabricModel, MemoryModel, NetworkModel, SystemModel
from llmservingsim.backend.memory import native_level
from llmservingsim.backend.times import GraphTimes
from llmservingsim.graph import Graph, NodeType


class NativeBackend(_native.Simulation):
    """Times graphs with ASTRA-sim's rules; implements `llmservingsim.backend.Backend`.

    `submit`, `advance`, `step_ends_ns`, `cut` and ``now_ns`` are the C++ methods themselves, so a call costs no Python.
    Submissions share the network and the memories, and nothing else: each has its own slots and
    its own messages on every rank. What a completed ticket did (`step_ends_ns`, `rank_finish_ns`) can be asked until
    the next `advance`, what the memories did (`memory_use`) at any time. A step that follows another step or ticket
    begins when the clock leaves the instant at which that one ended; until then `cut` drops it.

    With congestion, `link_bytes` and `link_busy_ns` say what the links of `link_ends` carried so far: a fabric's in its
    own order, those of a grid in the order in which messages came to use them.

    Many can run in threads side by side; each is for one thread at a time: while one is inside `advance`, calls of
    others raise RuntimeError.
    """

    def __init__(
        self, network: NetworkModel, system: SystemModel | None = None, memory: MemoryModel | None = None
    ) -> None:
        """Build a simulation at time 0.

        Raises:
            ValueError: If a value is out of range or not supported, naming the field.
            PluginError: If a memory's type is neither built in nor found, or its class cannot be built.
        """
        system = system or SystemModel()
        super().__init__(_network(network, system), _system(system), _memory(memory or MemoryModel()))
        self._kept: dict[int, tuple[int, Graph]] = {}  # by the graph's id, which is its own while it is kept

    def register(self, graph: Graph) -> int:
        """Check a graph and keep its topology; if ranks compute there and wait too, also what tickets wait for."""
        number = super().register(graph)
        if len(graph) > 1 and np.any(graph.type == NodeType.COMP):
            self.keep_times(number)
            self._kept[id(graph)] = number, graph
        return number

    def times_of(self, graph: Graph) -> GraphTimes | None:
        """Return what the completed tickets of a registered graph waited for; None where one node is all."""
        if id(graph) not in self._kept:
            return None
        number, _ = self._kept[id(graph)]
        return GraphTimes.of(self.times(number), self.lanes(number))


def _network(model: NetworkModel, system: SystemModel) -> _native.NetworkConfig:
    config = _native.NetworkConfig()
    config.topology = model.topology
    config.npus_count = model.npus_count
    config.bandwidth = model.bandwidth_bytes_per_ns
    config.latency_ns = model.latency_ns
    config.model = model.model
    config.parity = system.parity
    config.refuses_time_zero = system.parity and system.dialect == "astra-sim"
    if model.fabric is not None:
        _fill_fabric(config.fabric, model.fabric)
    return config


def _fill_fabric(fabric: _native.Fabric, model: FabricModel) -> None:
    fabric.endpoints = model.endpoints
    fabric.switches = model.switches
    fabric.set_links([(link.source, link.target, link.bandwidth_bytes_per_ns, link.latency_ns) for link in model.links])
    if model.route is not None:
        fabric.set_route(model.route)


_PLAIN_FIELDS = (
    "preferred_dataset_splits",
    "active_chunks_per_dimension",
    "num_queues_per_dim",
    "scheduling_policy",
    "collective_optimization",
    "endpoint_delay_ns",
    "roofline_enabled",
    "replay_only",
    "rendezvous",
    "local_reduction_delay_ns",
    "zero_duration_ns",
    "parity",
    "dialect",
    "record_nodes",
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
)


def _system(model: SystemModel) -> _native.SystemConfig:
    config = _native.SystemConfig()
    for name in _PLAIN_FIELDS:
        setattr(config, name, getattr(model, name))
    config.local_mem_bandwidth = model.local_mem_bw_gbps * MEMORY_GB
    config.peak_perf = model.peak_perf_tflops * TERA
    if model.shared_bus is not None:
        config.set_shared_bus(*msgspec.structs.astuple(model.shared_bus))
    for name in {n for c in COLLECTIVES for n in getattr(model, c) if ":" in n}:
        config.add_author(name, author(name))
    config.set_programs(model.programs)
    for collective, programs in model.custom.items():
        config.set_custom(COLLECTIVES[collective], programs)
    for table in model.measured:
        config.add_measured(COLLECTIVES[table.collective], table.ranks, table.size_bytes, table.time_ns)
    return config


def _memory(model: MemoryModel) -> _native.MemoryConfig:
    config = _native.MemoryConfig()
    config.local = native_level(model.local, "local")
    config.remote = native_level(model.remote, "remote")
    config.cxl = native_level(model.cxl, "cxl")
    config.storage = native_level(model.storage, "storage")
    return config
