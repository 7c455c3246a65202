"""Specs become objects here, and nowhere else: below this no code reads files, environment or working directory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from llmservingsim.backend import Backend, MemoryModel, NativeBackend, NetworkModel, SystemModel
from llmservingsim.config import AdmissionSpec, InstanceSpec, RunSpec, ServingSpec
from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec, find_accelerator, find_model
from llmservingsim.defaults import Serving, with_vllm_defaults
from llmservingsim.errors import CapacityError, ConfigError, located
from llmservingsim.experts import expert_parts, instance_seed, plan_routing
from llmservingsim.instance import DeviceMemory, Instance
from llmservingsim.latency import BundleSource, LatencySource, OlderBundleSource, RooflineSource, find_bundle, is_older
from llmservingsim.lockstep import DataParallelGroup, find_groups
from llmservingsim.model import (
    CapacityInputs,
    ParallelLayout,
    check_layout,
    kv_bytes_per_token,
    predict_kv_blocks,
    weight_bytes,
)
from llmservingsim.network import plan_network
from llmservingsim.owner import Owner
from llmservingsim.pipeline import PipelinedInstance
from llmservingsim.plugins import make_plugin
from llmservingsim.serving import SCHEDULERS, Engine, EngineConfig, Router, Scheduler, SchedulerConfig
from llmservingsim.serving.kv import KVCacheManager
from llmservingsim.serving.routing import make_router
from llmservingsim.trace import IterationBuilder, capture_sizes
from llmservingsim.transfer import KvSide, KvTransfers, connect
from llmservingsim.units import NS_PER_US, format_size, parse_bandwidth, parse_size_bytes, parse_time_ns

_VARIANTS = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "fp8": "fp8"}
_KV_BLOCKS_MAX = 2**24

BackendFactory = Callable[[NetworkModel, SystemModel, MemoryModel], Backend]
"""Makes the backend of a run; a class that is built from these three is one."""


@dataclass(frozen=True, slots=True)
class Libraries:
    """Where a run may look things up beside the catalogue.

    Attributes:
        profiles: Directories of profile bundles.
        models: Directories of model files.
        accelerators: A user's own accelerators.
        base: Where relative paths of the run file start.
    """

    profiles: tuple[Path, ...] = ()
    models: tuple[Path, ...] = ()
    accelerators: Mapping[str, AcceleratorSpec] = field(default_factory=lambda: MappingProxyType({}))
    base: Path = Path()


@dataclass(frozen=True, slots=True)
class System:
    """Everything that one run needs.

    Attributes:
        instances: The serving replicas, by index.
        owners: Who submits graphs, in the order in which they are asked: the instances, and KV transfers.
        backend: Clock, network and memories.
        router: Chooses an instance per request.
        admission: Limits beyond which it does not, if any.
        load_update_ns: Between two reports of the instances to the router, 0 for at once.
        network: What the backend's network was built from; written beside exported traces.
        system: Likewise for its system layer.
        sample_ns: Step of the time series.
        transfers: KV caches on their way between instances; None where no instance hands on.
    """

    instances: tuple[Instance, ...]
    owners: tuple[Owner, ...]
    backend: Backend
    router: Router
    admission: AdmissionSpec | None
    load_update_ns: int
    network: NetworkModel
    system: SystemModel
    sample_ns: int
    transfers: KvTransfers | None = None


def resolve(spec: RunSpec, libraries: Libraries, make_backend: BackendFactory = NativeBackend) -> System:
    """Build the run that ``spec`` describes.

    Args:
        spec: What the user wrote.
        libraries: Where it looks things up.
        make_backend: Makes the backend; one that raises ValueError refuses the configuration.

    Raises:
        UserError: If anything that it names is missing, contradictory, too large or not simulated.
    """
    sample_ns = _sample_ns(spec)
    places = [
        _Place(n, k, merge(i, spec.serving)) for n, node in enumerate(spec.nodes) for k, i in enumerate(node.instances)
    ]
    groups = find_groups([(place.path, place.spec) for place in places])
    parts = []
    for position, place in enumerate(places):
        with located(place.path):
            parts.append(_Parts.gather(place.spec, libraries, len(groups[position])))
    devices: list[list[int]] = [[] for _ in spec.nodes]
    for place, part in zip(places, parts, strict=True):
        devices[place.node].append(part.layout.num_ranks)
    plan = plan_network(spec.network, devices, [p.accelerator for p in parts], libraries.base)
    try:
        backend = make_backend(plan.network, plan.system, MemoryModel())
    except ValueError as error:  # the backend's own limits
        raise ConfigError(str(error)) from error
    instances: list[Instance] = []
    owners: list[Owner] = []
    built: dict[int, list[IterationBuilder]] = {}  # by the first member
    for position, (place, part) in enumerate(zip(places, parts, strict=True)):
        with located(place.path):
            members = groups[position] if part.layout.dp > 1 else (position,)
            if position == members[0]:
                seed = instance_seed(spec.seed, position)
                built[position] = part.builders([plan.ranks[m] for m in members], libraries, seed)
            builders = built[members[0]]
            instances.append(part.instance(position, place.node, plan.ranks[position], builders, backend))
            if len(members) == 1:
                owners.append(instances[position])
            elif position == members[-1]:
                owners.append(DataParallelGroup([instances[m] for m in members], builders[0], backend))
    sides = [
        KvSide(i, p.model, p.layout, p.serving.kv_cache_dtype, p.spec.kv_role)
        for p, i in zip(parts, instances, strict=True)
    ]
    transfers = connect(sides, backend, lambda decoders: _router(spec.decode_router, spec.seed, decoders))
    return System(
        instances=tuple(instances),
        owners=tuple(owners) if transfers is None else (*owners, transfers),
        backend=backend,
        router=_router(spec.router, spec.seed, instances),
        admission=spec.admission,
        load_update_ns=parse_time_ns(spec.load_update_interval),
        network=plan.network,
        system=plan.system,
        sample_ns=sample_ns,
        transfers=transfers,
    )


def _sample_ns(spec: RunSpec) -> int:
    sample_ns = parse_time_ns(spec.timeseries_interval)
    if sample_ns < NS_PER_US:
        raise ConfigError(f"timeseries_interval: expected at least 1us, got {spec.timeseries_interval!r}")
    return sample_ns


def _router(asked: str | dict[str, Any], seed: int, instances: Sequence[Instance]) -> Router:
    router = make_router(asked, seed)
    if hasattr(router, "started"):
        router.started([instance.load() for instance in instances])
    return router


@dataclass(frozen=True, slots=True)
class _Place:
    """An instance in the run file."""

    node: int
    position: int
    spec: InstanceSpec

    @property
    def path(self) -> str:
        """Its key path."""
        return f"nodes[{self.node}].instances[{self.position}]"


def merge(instance: InstanceSpec, defaults: ServingSpec) -> InstanceSpec:
    """Give an instance the run's serving options that it does not state itself."""
    missing = {
        key: getattr(defaults, key)
        for key in ServingSpec.__struct_fields__
        if getattr(instance, key) is None and getattr(defaults, key) is not None
    }
    return msgspec.structs.replace(instance, **missing)


def _accelerator(spec: InstanceSpec, libraries: Libraries) -> AcceleratorSpec:
    """Return the catalogue entry with the memory that the instance states."""
    found = find_accelerator(spec.hardware, libraries.accelerators)
    stated: dict[str, Any] = {}
    if spec.memory_size is not None:
        stated["memory_bytes"] = parse_size_bytes(spec.memory_size)
    if spec.memory_bandwidth is not None:
        stated["memory_bandwidth"] = parse_bandwidth(spec.memory_bandwidth)
    return msgspec.structs.replace(found, **stated)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an instance is made of."""

    spec: InstanceSpec
    serving: Serving
    model: ModelSpec
    layout: ParallelLayout
    accelerator: AcceleratorSpec

    @classmethod
    def gather(cls, spec: InstanceSpec, libraries: Libraries, members: int = 1) -> _Parts:
        """Look up device and model and complete the options; ``members`` are in its data-parallel group."""
        accelerator = _accelerator(spec, libraries)
        model = _model(spec, libraries)
        serving = with_vllm_defaults(spec, accelerator)
        tp = spec.tensor_parallel_size
        dp = members if model.num_experts else 1
        parts = expert_parts(serving.enable_expert_parallel, serving.expert_parallel_size, model, tp * dp)
        redundant = serving.experts.num_redundant_experts if model.num_experts else 0
        layout = ParallelLayout(tp, spec.pipeline_parallel_size, parts, dp, redundant_experts=redundant)
        if layout.pp > 1 and layout.dp > 1:
            raise ConfigError(
                "pipeline_parallel_size: stages in a data-parallel group of a mixture of experts are not simulated "
                "yet; expected 1"
            )
        check_layout(model, layout)
        if spec.max_model_len is not None and spec.max_model_len > model.max_position_embeddings:
            raise ConfigError(
                f"max_model_len: {spec.max_model_len} is beyond the {model.max_position_embeddings} positions of "
                f"{model.name}"
            )
        return cls(spec, serving, model, layout, accelerator)

    def instance(
        self, index: int, node: int, ranks: range, builders: Sequence[IterationBuilder], backend: Backend
    ) -> Instance:
        """Put the instance together."""
        memory = self.memory()
        engine = self.engine(index, memory.num_blocks)
        if len(builders) > 1:
            made: Instance = PipelinedInstance(node, self.model.name, engine, builders, backend, memory)
        else:
            made = Instance(node, self.model.name, engine, builders[0], backend, memory)
        made.ranks = tuple(ranks)
        made.hardware = self.accelerator.name
        return made

    def engine(self, index: int, num_gpu_blocks: int) -> Engine:
        """Build the engine."""
        serving = self.serving
        config = EngineConfig(
            scheduler=SchedulerConfig(
                max_num_seqs=serving.max_num_seqs,
                max_num_batched_tokens=serving.max_num_batched_tokens,
                max_model_len=serving.max_model_len or self.model.max_position_embeddings,
                long_prefill_token_threshold=serving.long_prefill_token_threshold,
                enable_chunked_prefill=serving.enable_chunked_prefill,
                scheduler_reserve_full_isl=serving.scheduler_reserve_full_isl,
                policy=serving.scheduling_policy,
                one_batch_per_request=self.layout.pp > 1,
            ),
            num_gpu_blocks=num_gpu_blocks,
            block_size=serving.block_size,
            enable_prefix_caching=serving.enable_prefix_caching,
            async_scheduling=serving.async_scheduling,
            pipeline_parallel_size=self.layout.pp,
        )

        def make_scheduler(limits: SchedulerConfig, kv: KVCacheManager) -> Scheduler:
            methods = ("add", "schedule", "finish", "waiting")
            made: Scheduler = make_plugin("scheduler", serving.scheduler, SCHEDULERS, (limits, kv), methods)
            return made

        return Engine(index, config, make_scheduler)

    def builders(
        self, member_ranks: Sequence[Sequence[int]], libraries: Libraries, seed: int
    ) -> list[IterationBuilder]:
        """Build what turns batches into graphs, per stage, of all members of a data-parallel group together."""
        serving, tp = self.serving, self.layout.tp
        sizes = serving.cudagraph_capture_sizes
        if serving.enforce_eager:
            sizes = ()
        elif sizes is None:
            sizes = capture_sizes(serving.max_num_seqs, serving.max_num_batched_tokens)
        source = self._latency_source(libraries)
        built = []
        for stage in range(self.layout.pp):
            ranks = [member[stage * tp : (stage + 1) * tp] for member in member_ranks]
            experts = plan_routing(
                serving.experts, serving.all2all_backend, self.model, self.layout, seed, libraries.base
            )
            built.append(IterationBuilder(self.model, self.layout, ranks, source, sizes, stage, experts))
        return built

    def memory(self) -> DeviceMemory:
        """Work out the KV capacity: given, predicted as vLLM profiles it, or all that the weights leave.

        Of several stages it is that of the one with the fewest blocks.
        """
        serving = self.serving
        report = None
        stages = [self._stage_memory(stage) for stage in range(self.layout.pp)]
        weights, block = min(stages, key=lambda stage: (self._usable_bytes() - stage[0]) / stage[1])
        if serving.num_gpu_blocks is not None:
            blocks = serving.num_gpu_blocks
        elif self.spec.kv_memory_model == "weights_only":
            blocks = self._blocks_beside_weights(weights, block)
        else:
            report = predict_kv_blocks(self.model, self.layout, self._capacity_inputs())
            weights, block = stages[report.stage]
            blocks = report.num_blocks
        if blocks > _KV_BLOCKS_MAX:
            raise ConfigError(
                f"the KV cache would have {blocks:,} blocks of {format_size(block)}; expected at most "
                f"{_KV_BLOCKS_MAX:,}: lower num_gpu_blocks or memory_size, or raise block_size"
            )
        return DeviceMemory(self.accelerator.memory_bytes, weights, block, blocks, report)

    def _stage_memory(self, stage: int) -> tuple[int, int]:
        """Bytes of the weights, and of a KV block, on one device of a stage."""
        per_token = kv_bytes_per_token(self.model, self.layout, stage, self.serving.kv_cache_dtype)
        return weight_bytes(self.model, self.layout, stage), self.serving.block_size * per_token

    def _usable_bytes(self) -> float:
        return self.accelerator.memory_bytes * self.serving.gpu_memory_utilization

    def _blocks_beside_weights(self, weights_bytes: int, block_bytes: int) -> int:
        usable = self._usable_bytes()
        blocks = int(usable - weights_bytes) // block_bytes
        if blocks < 2:
            raise CapacityError(
                f"{self.model.name} on {self.spec.hardware} with tensor_parallel_size {self.layout.tp}: weights of "
                f"{format_size(weights_bytes)} leave no room for KV cache in {format_size(usable)}, which is "
                f"{self.serving.gpu_memory_utilization} of {format_size(self.accelerator.memory_bytes)}"
            )
        return blocks

    def _capacity_inputs(self) -> CapacityInputs:
        serving = self.serving
        return CapacityInputs.of_accelerator(
            self.accelerator,
            gpu_memory_utilization=serving.gpu_memory_utilization,
            max_num_batched_tokens=serving.max_num_batched_tokens,
            max_num_seqs=serving.max_num_seqs,
            block_size=serving.block_size,
            kv_cache_dtype=serving.kv_cache_dtype,
            max_model_len=serving.max_model_len,
        )

    def _latency_source(self, libraries: Libraries) -> LatencySource:
        latency = self.serving.latency
        source = latency.source
        if source == "auto":
            source = "bundle" if libraries.profiles else "roofline"
        if source == "roofline":
            return RooflineSource(self.model, self.layout, self.accelerator)
        if source == "bundle":
            variant = latency.variant or _VARIANTS[self.model.dtype]
            folder = find_bundle(libraries.profiles, self.spec.hardware, self.model.name, variant, self.layout.tp)
            if is_older(folder):
                return OlderBundleSource(folder, self.model, self.layout, self.accelerator, skew=latency.skew)
            return BundleSource(
                folder,
                skew=latency.skew,
                experts_per_token=self.model.experts_per_token,
                expert_slices=self.layout.expert_slices,
            )
        arguments, known = (self.model, self.layout, self.accelerator), {"bundle": None, "roofline": None}
        own: LatencySource = make_plugin("latency", source, known, arguments, ("latency_ns", "provenance"))
        return own


def _model(spec: InstanceSpec, libraries: Libraries) -> ModelSpec:
    model = find_model(spec.model, libraries.models)
    if spec.dtype not in (None, "auto"):
        model = msgspec.structs.replace(model, dtype=spec.dtype)
    return model
