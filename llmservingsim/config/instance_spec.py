"""The sections of the run file that describe an instance."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from llmservingsim.config.lora_spec import LoraSpec
from llmservingsim.config.operator_table_spec import OperatorTableSpec
from llmservingsim.config.placement_spec import PlacementSpec
from llmservingsim.config.quantities import All2AllBackend, Count, KvDtype, QuantityError, Share, check_quantities
from llmservingsim.config.speculative_spec import SpeculativeSpec
from llmservingsim.config.tier_spec import TierName, TierSpec
from llmservingsim.units import parse_bandwidth, parse_power_w, parse_size_bytes


class DatabaseSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which measured kernels of the package aiconfigurator-core are read.

    Attributes:
        engine: Whose kernels.
        version: Of the engine; by default the newest.
        system: As ``h100_sxm``; by default that of the instance's hardware.
    """

    engine: Literal["vllm", "sglang", "trtllm"] = "vllm"
    version: str | None = None
    system: str | None = None


class LatencySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where operator latencies come from.

    Attributes:
        source: ``bundle`` (measured), ``table`` (a CSV of your own), ``aiconfigurator`` (measured kernels of that
            package), ``calibrated`` (a roofline fitted to bundles of other models on the same hardware), ``roofline``
            (from the catalogue), or ``auto``: the first of table, bundle, calibrated and roofline that there is.
            Bundles are those of the profile directories; where none are given, those that ship with the simulator. A
            user's own source is ``package.module:Class``, built with (model, layout, accelerator).
        variant: Folder of the bundle, by default the format of the weights (``bf16``, ``fp8``), with ``-kv_`` and that
            of cached keys and values if it is another (``bf16-kv_fp8``).
        database: Of ``aiconfigurator``.
        skew: ``fitted`` bounds uneven decode batches by a model fitted to the bundle's ``skew.csv``; ``measured`` takes
            them, and mixed ones, as the rows of that file have them, whose long contexts stand last; ``off`` neither.
        table: Operator times of your own, for one model.
    """

    source: str = "auto"
    variant: str | None = None
    database: DatabaseSpec = DatabaseSpec()
    skew: Literal["fitted", "measured", "off"] = "fitted"
    table: OperatorTableSpec | None = None

    def __post_init__(self) -> None:
        if self.table is None and self.source == "table":
            raise QuantityError("table: expected a section with the path of a table, because source is table")
        if self.table is not None and self.source not in ("auto", "table"):
            raise QuantityError(f"table: is of no use with source {self.source!r}; expected source table, or no table")


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
    """Options of a serving engine; null means the default, which `llmservingsim.defaults` lists.

    Attributes:
        max_num_seqs: Most requests in the running list.
        max_num_batched_tokens: Token budget of an iteration. Without chunked prefill the default is at least
            ``max_model_len``. ``auto`` in an instance means the default whatever ``serving`` states.
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
        quantization: Format in which weights of linear layers are stored: ``fp8``, ``fp8_block``, ``int8``,
            ``int8_weight_only``, ``int4``, ``nvfp4``, ``mxfp4`` (of experts, where there are some), ``mxfp4_mxfp8``, or
            a word of vLLM's that means one of these (``awq``, ``gptq``, ``modelopt``, ``modelopt_fp4``); ``none`` for
            ``dtype``. By default the checkpoint's.
        enable_expert_parallel: Whether a rank holds whole experts, instead of a slice of every expert; ``auto`` means
            yes for a mixture of experts.
        expert_parallel_size: Parts into which the experts are divided, instead of one per rank, which is vLLM's only
            choice.
        all2all_backend: How tokens travel between instances that share experts.
        experts: Where tokens go.
        prefix_storage: Tiers of the prefix cache below the device, the fastest first; ``cpu`` alone means ``[cpu]``.
        prefix_sharing: Whether instances share these tiers, if they serve the same model: not at all; ``true`` those of
            a node, or all where the tier is ``cxl``; ``node``, likewise; or ``cluster``, where a node also reads what
            lies in the memories of others, over the network.
        prefix_chunk_size: Tokens that lower tiers keep together (LMCache's ``chunk_size``), a multiple of
            ``block_size``; writing back, it is ``block_size``.
        prefix_write: ``through``: a chunk goes down when it is complete; ``back``: blocks go down when the device needs
            their room.
        prefix_recall: Who waits for what comes up: its request alone, beside the queue (``async``, vLLM's offloading
            connector); the batch that computes it (``blocking``, LMCache); or each block of the model for its own part
            (``layerwise``, LMCache's ``use_layerwise``).
        preemption_mode: Whether a preempted request's KV is computed again, or swapped to host memory and back.
        swap_space: Host memory for that, per instance.
        latency: Where operator latencies come from.
        speculative_config: Drafts that the model verifies; by default none.
        lora: Low-rank adapters beside the linear layers; by default none.
    """

    max_num_seqs: Count | None = None
    max_num_batched_tokens: Count | Literal["auto"] | None = None
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
    quantization: str | None = None
    enable_expert_parallel: bool | Literal["auto"] | None = None
    expert_parallel_size: Count | None = None
    all2all_backend: All2AllBackend | None = None
    experts: ExpertSpec | None = None
    prefix_storage: TierName | tuple[TierName | TierSpec, ...] | None = None
    prefix_sharing: bool | Literal["node", "cluster"] | None = None
    prefix_chunk_size: Count | None = None
    prefix_write: Literal["through", "back"] | None = None
    prefix_recall: Literal["async", "blocking", "layerwise"] | None = None
    preemption_mode: Literal["recompute", "swap"] | None = None
    swap_space: str | None = None
    latency: LatencySpec | None = None
    speculative_config: SpeculativeSpec | None = None
    lora: LoraSpec | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_size_bytes, "swap_space")
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
        nnodes: Servers over which its devices are spread evenly, from its node on.
        memory_size: Of one device, as ``"24GiB"``; by default the catalogue's.
        memory_bandwidth: Of one device, as ``"1008GB/s"``; by default the catalogue's.
        data_parallel_group: Name of the group of instances, alike in all keys, that share the experts of a mixture of
            experts and run in lock step. Dense models need no group: their instances are independent in vLLM too.
        kv_role: ``kv_both`` serves requests from prompt to end; a ``kv_producer`` computes prompts and hands each
            request on; a ``kv_consumer`` goes on with such requests. ``kv_transfer`` says how their KV crosses.
        kv_memory_model: ``vllm`` predicts KV capacity as vLLM profiles it; ``weights_only`` gives the cache all usable
            memory that the weights leave, as LLMServingSim 2.0 does with a utilisation fitted by hand.
        placement: What lies elsewhere than in the devices' memory.
        power_cap: Limit of each device's power, as ``"250W"``: its clock falls as far as it must.
        operators: Which operators run elsewhere than on its devices, and where: on what computes in ``cpu`` or
            ``cxl:<i>``. Of ``attention`` that of decodes moves, and all KV with it; of others, that of batches without
            prompts. `docs/concepts/offloading.md` explains it.
        sub_batch_interleaving: Whether batches run in two halves, so that the accelerator computes one while the memory
            computes the attention of the other: ``auto`` where that is predicted to be faster.
    """

    model: str
    hardware: str
    tensor_parallel_size: Count = 1
    pipeline_parallel_size: Count = 1
    nnodes: Count = 1
    memory_size: str | None = None
    memory_bandwidth: str | None = None
    data_parallel_group: str | None = None
    kv_role: Literal["kv_both", "kv_producer", "kv_consumer"] = "kv_both"
    kv_memory_model: Literal["vllm", "weights_only"] = "vllm"
    placement: PlacementSpec | None = None
    power_cap: str | None = None
    operators: dict[str, str] | None = None
    sub_batch_interleaving: Literal["never", "always", "auto"] = "never"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_quantities(self, parse_size_bytes, "memory_size")
        check_quantities(self, parse_bandwidth, "memory_bandwidth")
        check_quantities(self, parse_power_w, "power_cap")
