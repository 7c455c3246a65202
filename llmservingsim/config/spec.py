"""What a user writes: one frozen struct per section of the run file. Unknown keys are errors.

Names are vLLM's where a vLLM option exists. Quantities carry their unit: ``"900GB/s"``, ``"2us"``, ``"80GiB"``.
A serving key may stand in an instance, or under ``serving`` as the default of every instance that does not state it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from llmservingsim.config.autoscaling import AutoscalingSpec
from llmservingsim.config.clients import ClientSpec, TimeoutSpec
from llmservingsim.config.instance_spec import InstanceSpec, ServingSpec
from llmservingsim.config.kv_transfer import KvTransferSpec
from llmservingsim.config.memory_spec import CxlSpec, NodeMemorySpec
from llmservingsim.config.quantities import Algorithms, Chunks, Count, Shape, Share, check_quantities
from llmservingsim.config.slo_spec import SloSpec
from llmservingsim.units import parse_bandwidth, parse_time_ns


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server.

    Attributes:
        instances: The serving replicas on its devices; none on a node that is used by one of an earlier node.
        cpu_memory: Host memory.
        storage: Its drives, as one.
    """

    instances: tuple[InstanceSpec, ...]
    cpu_memory: NodeMemorySpec | None = None
    storage: NodeMemorySpec | None = None


class NetworkSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Links between the devices of all instances; names as in ASTRA-sim. `docs/topologies.md` explains the choices.

    Attributes:
        topology: ``Ring``, ``FullyConnected`` or ``Switch``, or a list of these, the innermost dimension first; the
            name of a catalogued network; a topology file (.yaml, .toml, .json), relative to the run file; or a
            ``package.module:Class`` of your own.
        options: What replaces keys of a catalogued network or of a topology file, or the arguments of your own class.
        npus_count: Devices along each dimension of a list; by default all devices of the run in one.
        bandwidth: Of a link in one direction, as ``"450GB/s"``, one or one per dimension; by default that of the
            slowest device's catalogue entry, times its link efficiency. Named networks and files state their own.
        latency: Of a link, as ``"1us"``, likewise.
        model: Whether messages wait for each other: ``unaware`` never; ``aware`` on links that carry one at a time, as
            in ASTRA-sim; ``flow`` shares links max-min fair.
        all_reduce, all_gather, reduce_scatter, all_to_all: An algorithm per dimension, as ``[ring, halvingDoubling]``,
            or ``auto``.
        collective_optimization: How an all-reduce uses several dimensions: ``localBWAware`` scatters inward and gathers
            outward, ``baseline`` reduces everything in each.
        measured_collectives: Files with measured times that replace those of algorithms: what NCCL tests print, or CSV;
            relative to the run file.
        endpoint_delay: Paid by a rank for every message that it prepares.
        preferred_dataset_splits: Chunks into which a collective is cut.
        active_chunks_per_dimension: Chunks under way at once.
        num_queues_per_dim: Queues of each dimension, over which chunks rotate.
        scheduling_policy: Which collective's chunks go first.
    """

    topology: str | Annotated[tuple[Shape, ...], Meta(min_length=1)] = "FullyConnected"
    options: dict[str, Any] | None = None
    npus_count: Annotated[tuple[Count, ...], Meta(min_length=1)] | None = None
    bandwidth: str | tuple[str, ...] | None = None
    latency: str | tuple[str, ...] | None = None
    model: Literal["unaware", "aware", "flow"] = "unaware"
    all_reduce: Algorithms = "auto"
    all_gather: Algorithms = "auto"
    reduce_scatter: Algorithms = "auto"
    all_to_all: Algorithms = "auto"
    collective_optimization: Literal["localBWAware", "baseline"] = "localBWAware"
    measured_collectives: tuple[str, ...] = ()
    endpoint_delay: str = "10ns"
    preferred_dataset_splits: Chunks = 1
    active_chunks_per_dimension: Chunks = 1
    num_queues_per_dim: Chunks = 1
    scheduling_policy: Literal["LIFO", "FIFO"] = "LIFO"

    def __post_init__(self) -> None:
        check_quantities(self, parse_bandwidth, "bandwidth")
        check_quantities(self, parse_time_ns, "latency", "endpoint_delay", may_be_zero=True)


class AdmissionSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits at the router; null means no limit. An instance that does nothing is always below them.

    Attributes:
        max_waiting_per_instance: An instance in whose queue so many requests wait gets no more.
        max_waiting_total: Nor does any instance of a model in whose queues so many wait together.
        max_kv_usage: Nor an instance whose requests hold this share of its KV blocks.
        policy: What becomes of a request that no instance may get: ``reject`` refuses it for good; ``queue`` holds
            it at the router, in order of arrival per model, until one may.
    """

    max_waiting_per_instance: Count | None = None
    max_waiting_total: Count | None = None
    max_kv_usage: Share | None = None
    policy: Literal["reject", "queue"] = "reject"


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run.

    Attributes:
        nodes: The servers.
        serving: Defaults of every instance.
        network: Links between devices.
        cxl_memory: Memory that all nodes reach.
        router: Built-in name or ``package.module:Class``; or a section with that name as ``policy``, and its options.
        decode_router: Likewise, of requests that a kv_producer has prefilled, among the kv_consumers.
        kv_transfer: How KV caches go from kv_producers to kv_consumers.
        admission: Limits beyond which the router rejects or holds requests.
        clients: How many there are, where they send a call only after the answer to the one before.
        timeouts: When they give up.
        load_update_interval: Between two reports of the instances to the router, as ``"100ms"`` in vLLM's data-parallel
            coordinator; by default it knows at any moment what waits and runs.
        autoscaling: How many of the instances run: a section, or a list of them with ``model`` or ``role``; by default
            all run.
        workload: A request trace; ``--workload`` overrides it. Relative to the run file.
        seed: Of random policies. A trace carries its own, see ``workload generate``.
        timeseries_interval: Step of timeseries.csv.
        slo: Limits that a good request keeps; goodput counts those that do. A section, or a list of them with ``model``
            or ``priority``, of which the first that fits a request holds.
    """

    nodes: Annotated[tuple[NodeSpec, ...], Meta(min_length=1)]
    serving: ServingSpec = ServingSpec()
    network: NetworkSpec = NetworkSpec()
    cxl_memory: CxlSpec | None = None
    router: str | dict[str, Any] = "round_robin"
    decode_router: str | dict[str, Any] = "least_loaded"
    kv_transfer: KvTransferSpec = KvTransferSpec()
    admission: AdmissionSpec | None = None
    clients: ClientSpec | None = None
    timeouts: TimeoutSpec | None = None
    load_update_interval: str = "0ns"
    autoscaling: AutoscalingSpec | tuple[AutoscalingSpec, ...] | None = None
    workload: str | None = None
    seed: int = 0
    timeseries_interval: str = "1s"
    slo: SloSpec | tuple[SloSpec, ...] | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "timeseries_interval")
        check_quantities(self, parse_time_ns, "load_update_interval", may_be_zero=True)
