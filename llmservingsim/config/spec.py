"""What a user writes: one frozen struct per section of the run file. Unknown keys are errors.

Names are vLLM's where a vLLM option exists. Quantities carry their unit: ``"900GB/s"``, ``"2us"``, ``"80GiB"``.
A serving key may stand in an instance, or under ``serving`` as the default of every instance that does not state it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from llmservingsim.errors import ConfigError
from llmservingsim.units import parse_bandwidth, parse_size_bytes, parse_time_ns

Count = Annotated[int, Meta(ge=1)]
Chunks = Annotated[int, Meta(ge=1, le=2**16)]
Share = Annotated[float, Meta(gt=0, le=1)]
Shape = Literal["Ring", "FullyConnected", "Switch"]
Algorithms = Literal["auto"] | tuple[str, ...]
All2AllBackend = Literal["allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency"]
KvDtype = Literal["auto", "float32", "bfloat16", "float16", "fp8", "int8"]


class QuantityError(ConfigError, ValueError):
    """A quantity is wrong, or contradicts another key.

    It is a ValueError too, to which msgspec adds the path of the section it was reading.
    """


def check_quantities(
    section: msgspec.Struct, parse: Callable[[object], float], *keys: str, may_be_zero: bool = False
) -> None:
    """Raise for a quantity, alone or in a list, that has no unit of its kind, or is zero where that makes no sense."""
    for key in keys:
        stated = getattr(section, key)
        for text in stated if isinstance(stated, tuple) else (stated,):
            if text is None:
                continue
            try:
                value = parse(text)
            except ConfigError as error:
                raise QuantityError(f"{key}: {error}") from None
            if value <= 0 and not may_be_zero:
                raise QuantityError(f"{key}: expected more than 0, got {text!r}")


class LatencySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where operator latencies come from.

    Attributes:
        source: ``bundle`` (measured), ``roofline`` (from the catalogue), or ``auto``: bundle where profile
            directories were given, else roofline. A user's own source is ``package.module:Class``, built with
            (model, layout, accelerator).
        variant: Folder of the bundle, by default the dtype (``bf16``).
        skew: Whether uneven decode batches are bounded by a model fitted to the bundle's ``skew.csv``.
    """

    source: str = "auto"
    variant: str | None = None
    skew: Literal["fitted", "off"] = "fitted"


class ExpertSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the tokens of a mixture of experts go, and where its experts stand. `docs/concepts/experts.md` explains it.

    Attributes:
        routing: ``balanced``, ``random``, ``round_robin``, ``skewed``, ``replayed``, or ``package.module:Class``.
        options: Of the routing: ``exponent`` or ``path`` (a histogram) of ``skewed``, ``path`` of ``replayed``, the
            arguments of your own class. Paths are relative to the run file.
        placement: Of experts on ranks under expert parallelism: neighbours together, or in turn.
        num_redundant_experts: Further copies of popular experts, placed so that ranks are loaded alike.
    """

    routing: str = "balanced"
    options: dict[str, Any] | None = None
    placement: Literal["linear", "round_robin"] = "linear"
    num_redundant_experts: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        if self.num_redundant_experts and self.placement == "round_robin":
            raise QuantityError(
                "placement: redundant experts are placed by their popularity; expected placement linear, which is the "
                "default, or num_redundant_experts 0"
            )


class ServingSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of a serving engine; null means the default, which `llmservingsim.resolve` lists.

    Attributes:
        max_num_seqs: Most requests in the running list.
        max_num_batched_tokens: Token budget of an iteration.
        max_model_len: Longest sequence; by default the model's.
        block_size: Tokens per KV block.
        long_prefill_token_threshold: Longest prompt chunk, 0 for no limit.
        enable_chunked_prefill: Whether a prompt may be split over iterations.
        enable_prefix_caching: Whether full blocks are found again by their tokens.
        scheduler_reserve_full_isl: Admit only what fits with its whole current sequence.
        async_scheduling: Whether the next batch is formed while one runs.
        scheduling_policy: First come first served, or by the requests' priority.
        scheduler: Built-in name or ``package.module:Class``.
        enforce_eager: No CUDA graphs, so no padding of batches.
        cudagraph_capture_sizes: Token counts to which batches are padded; by default as vLLM chooses them.
        num_gpu_blocks: KV blocks (vLLM's ``num_gpu_blocks_override``); by default predicted from memory.
        gpu_memory_utilization: Share of device memory that the engine may use.
        kv_cache_dtype: Of cached keys and values.
        dtype: Of weights and activations; by default the model's.
        enable_expert_parallel: Whether a rank holds whole experts, instead of a slice of every expert; ``auto`` means
            yes for a mixture of experts.
        expert_parallel_size: Parts into which the experts are divided, instead of one per rank, which is vLLM's only
            choice.
        all2all_backend: How tokens travel between instances that share experts.
        experts: Where tokens go.
        latency: Where operator latencies come from.
    """

    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | None = None
    max_model_len: Count | None = None
    block_size: Count | None = None
    long_prefill_token_threshold: Annotated[int, Meta(ge=0)] | None = None
    enable_chunked_prefill: bool | None = None
    enable_prefix_caching: bool | None = None
    scheduler_reserve_full_isl: bool | None = None
    async_scheduling: bool | None = None
    scheduling_policy: Literal["fcfs", "priority"] | None = None
    scheduler: str | None = None
    enforce_eager: bool | None = None
    cudagraph_capture_sizes: tuple[Count, ...] | None = None
    num_gpu_blocks: Annotated[int, Meta(ge=2)] | None = None
    gpu_memory_utilization: Share | None = None
    kv_cache_dtype: KvDtype | None = None
    dtype: Literal["auto", "bfloat16", "float16", "float32"] | None = None
    enable_expert_parallel: bool | Literal["auto"] | None = None
    expert_parallel_size: Count | None = None
    all2all_backend: All2AllBackend | None = None
    experts: ExpertSpec | None = None
    latency: LatencySpec | None = None

    def __post_init__(self) -> None:
        if self.enable_expert_parallel is False and (self.expert_parallel_size or 1) > 1:
            raise QuantityError(
                f"expert_parallel_size: {self.expert_parallel_size} contradicts enable_expert_parallel false"
            )


class InstanceSpec(ServingSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A serving replica: an engine with its devices. Every serving key may stand here too.

    Attributes:
        model: A catalogued name, ``<org>/<model>`` under a ``--models`` directory, or the path of a config.json.
        hardware: A catalogued accelerator.
        tensor_parallel_size: Devices that share every layer.
        pipeline_parallel_size: Stages, each of ``tensor_parallel_size`` devices, into which the blocks are cut.
        memory_size: Of one device, as ``"24GiB"``; by default the catalogue's.
        memory_bandwidth: Of one device, as ``"1008GB/s"``; by default the catalogue's.
        data_parallel_group: Name of the group of instances, alike in all keys, that share the experts of a mixture of
            experts and run in lock step. Dense models need no group: their instances are independent in vLLM too.
        kv_role: ``kv_both`` serves requests from prompt to end; a ``kv_producer`` computes prompts and hands each
            request on with its first token; a ``kv_consumer`` goes on with such requests, whose KV it pulls.
        kv_memory_model: ``vllm`` predicts KV capacity as vLLM profiles it; ``weights_only`` gives the cache all usable
            memory that the weights leave, as LLMServingSim 2.0 does with a utilisation fitted by hand.
    """

    model: str
    hardware: str
    tensor_parallel_size: Count = 1
    pipeline_parallel_size: Count = 1
    memory_size: str | None = None
    memory_bandwidth: str | None = None
    data_parallel_group: str | None = None
    kv_role: Literal["kv_both", "kv_producer", "kv_consumer"] = "kv_both"
    kv_memory_model: Literal["vllm", "weights_only"] = "vllm"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quantities(self, parse_size_bytes, "memory_size")
        check_quantities(self, parse_bandwidth, "memory_bandwidth")


class MemorySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A memory of a node.

    Attributes:
        size: As ``"512GiB"``.
        bandwidth: As ``"256GB/s"``.
        latency: As ``"100ns"``.
    """

    size: str
    bandwidth: str
    latency: str = "0ns"

    def __post_init__(self) -> None:
        check_quantities(self, parse_size_bytes, "size")
        check_quantities(self, parse_bandwidth, "bandwidth")
        check_quantities(self, parse_time_ns, "latency", may_be_zero=True)


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server.

    Attributes:
        instances: The serving replicas on its devices.
        cpu_memory: Host memory.
    """

    instances: Annotated[tuple[InstanceSpec, ...], Meta(min_length=1)]
    cpu_memory: MemorySpec | None = None


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


class SloSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request must keep to count as good; null means no limit.

    Attributes:
        ttft: Time to first token, as ``"500ms"``.
        tpot: Mean time per output token after the first.
        e2e: Time to the last token.
    """

    ttft: str | None = None
    tpot: str | None = None
    e2e: str | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "ttft", "tpot", "e2e")


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
        router: Built-in name or ``package.module:Class``; or a section with that name as ``policy``, and its options.
        decode_router: Likewise, of requests that a kv_producer has prefilled, among the kv_consumers.
        admission: Limits beyond which the router rejects or holds requests.
        load_update_interval: Between two reports of the instances to the router, as ``"100ms"`` in vLLM's data-parallel
            coordinator; by default it knows at any moment what waits and runs.
        workload: A request trace; ``--workload`` overrides it. Relative to the run file.
        seed: Of random policies. A trace carries its own, see ``workload generate``.
        timeseries_interval: Step of timeseries.csv.
        slo: Limits that a good request keeps; goodput counts those that do.
    """

    nodes: Annotated[tuple[NodeSpec, ...], Meta(min_length=1)]
    serving: ServingSpec = ServingSpec()
    network: NetworkSpec = NetworkSpec()
    router: str | dict[str, Any] = "round_robin"
    decode_router: str | dict[str, Any] = "least_loaded"
    admission: AdmissionSpec | None = None
    load_update_interval: str = "0ns"
    workload: str | None = None
    seed: int = 0
    timeseries_interval: str = "1s"
    slo: SloSpec | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "timeseries_interval")
        check_quantities(self, parse_time_ns, "load_update_interval", may_be_zero=True)
