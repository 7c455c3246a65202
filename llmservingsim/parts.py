"""What an instance is made of: its model, device, options, memory, engine and builders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from llmservingsim.activity import ActivityLog
from llmservingsim.backend import Backend
from llmservingsim.config import InstanceSpec
from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec, find_accelerator
from llmservingsim.defaults import Serving, with_vllm_defaults
from llmservingsim.errors import CapacityError, ConfigError, located
from llmservingsim.experts import expert_parts, plan_routing
from llmservingsim.instance import DeviceMemory, Instance
from llmservingsim.instance_model import check_states, instance_model, plan_adapters
from llmservingsim.latency import LatencySource, RooflineSource, at_clock, with_adapters
from llmservingsim.latency.pim.device import PimDevice
from llmservingsim.latency_choice import LatencyChoice, is_catalogued
from llmservingsim.libraries import Libraries
from llmservingsim.memories import Memories
from llmservingsim.model import (
    EVERYTHING,
    KV_BLOCKS_MAX,
    Adapters,
    CapacityInputs,
    ParallelLayout,
    Placement,
    Residency,
    check_layout,
    kv_bytes_per_token_layer,
    predict_kv_blocks,
    state_bytes,
)
from llmservingsim.offload_plan import Offloading, OffloadRequest, WithoutKv, check_offloading
from llmservingsim.offloaded import OffloadedIterations
from llmservingsim.pipeline import PipelinedInstance
from llmservingsim.placement import check_kv, claim_places, plan_placement
from llmservingsim.plugins import make_plugin
from llmservingsim.power import ComputingMemory, capped, clock_under
from llmservingsim.serving import SCHEDULERS, Engine, EngineConfig, Scheduler, SchedulerConfig, SpeculativeEngine
from llmservingsim.serving.kv import KVCacheManager
from llmservingsim.speculation import SpeculationPlan, plan_speculation
from llmservingsim.trace import (
    FetchPlan,
    GraphBuilder,
    IterationBuilder,
    OffloadBuilder,
    Site,
    SpeculativeBuilder,
    capture_sizes,
    verification_sizes,
)
from llmservingsim.units import format_size, parse_bandwidth, parse_power_w, parse_size_bytes


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
class Parts:
    """What an instance is made of."""

    spec: InstanceSpec
    serving: Serving
    model: ModelSpec
    layout: ParallelLayout
    accelerator: AcceleratorSpec
    speculation: SpeculationPlan | None = None
    placement: Placement | None = None
    offloading: Offloading | None = None
    adapters: Adapters | None = None

    @classmethod
    def gather(cls, spec: InstanceSpec, libraries: Libraries, members: int = 1) -> Parts:
        """Look up device and model and complete the options; ``members`` are in its data-parallel group."""
        accelerator = _accelerator(spec, libraries)
        model = instance_model(spec, libraries.models)
        serving = with_vllm_defaults(spec, accelerator, model.max_position_embeddings)
        tp = spec.tensor_parallel_size
        dp = members if model.num_experts else 1
        parts = expert_parts(serving.enable_expert_parallel, serving.expert_parallel_size, model, tp * dp)
        redundant = serving.experts.num_redundant_experts if model.num_experts else 0
        layout = ParallelLayout(tp, spec.pipeline_parallel_size, parts, dp, redundant_experts=redundant)
        check_layout(model, layout)
        if spec.max_model_len is not None and spec.max_model_len > model.max_position_embeddings:
            raise ConfigError(
                f"max_model_len: {spec.max_model_len} is beyond the {model.max_position_embeddings} positions of "
                f"{model.name}"
            )
        check_offloading(spec, model, layout)
        check_states(spec, model)
        speculation = plan_speculation(spec, serving, model, layout, libraries.models, libraries.base)
        placement = plan_placement(spec.placement, model, layout)
        if placement is not None:
            check_kv(placement, spec)
            if speculation is not None:
                raise ConfigError(
                    "placement: drafts beside fetched weights are not simulated; expected no speculative_config"
                )
        adapters = plan_adapters(serving.lora, model, layout)
        return cls(spec, serving, model, layout, accelerator, speculation, placement, adapters=adapters)

    def offload_request(self, path: str, node: int, index: int) -> OffloadRequest:
        """Ask for the devices beside its own that compute some of its operators."""
        size, token = self.serving.block_size, self._token_bytes()
        return OffloadRequest(path, node, index, self.spec, self.model, self.layout, size, token)

    def claim_places(self, memories: Memories, node: int, index: int) -> dict[str, Site]:
        """Find the memories beside the devices' that the instance uses, and keep room there for what it has there."""
        if self.placement is None:
            return {}
        kept = 0
        if self.placement.keeps_kv:
            kept = self.memory().num_blocks * self.serving.block_size * self._token_bytes()
        return claim_places(self.placement, memories, node, f"instance {index}", kept, self.spec.nnodes)

    def instance(
        self,
        index: int,
        node: int,
        ranks: Sequence[int],
        builders: Sequence[GraphBuilder],
        backend: Backend,
        seed: int,
    ) -> Instance:
        """Put the instance together."""
        memory = self.memory()
        engine = self.engine(index, memory.num_blocks, seed)
        if len(builders) > 1 and self.layout.dp == 1:
            made: Instance = PipelinedInstance(node, self.model.name, engine, builders, backend, memory)
        else:
            made = Instance(node, self.model.name, engine, builders[0], backend, memory)
        made.ranks = tuple(ranks)
        made.builders = tuple(builders)
        stage = len(ranks) // len(builders)
        times_of = getattr(backend, "times_of", None)
        made.activity = [ActivityLog(ranks[k * stage : (k + 1) * stage], times_of) for k in range(len(builders))]
        made.hardware, made.accelerator = self.accelerator.name, self.accelerator
        made.clock = self.clock
        if self.accelerator.power is not None:
            made.power = capped(self.accelerator.power, made.clock)
        if isinstance(builders[0], OffloadBuilder):
            OffloadedIterations(made, builders[0], backend, self.spec.sub_batch_interleaving)
            made.computing_memory = _computing_memory(builders[0])
        return made

    @property
    def clock(self) -> float:
        """Share of the maximum clock at which the devices run under their power cap."""
        cap, power = self.spec.power_cap, self.accelerator.power
        if cap is None:
            return 1.0
        if power is None:
            raise ConfigError(
                f"power_cap: the catalogue does not know what {self.accelerator.name} draws; expected a section "
                f"power.accelerators.{self.accelerator.name} of its node"
            )
        return clock_under(power, parse_power_w(cap))

    def engine(self, index: int, num_gpu_blocks: int, seed: int = 0) -> Engine:
        """Build the engine; ``seed`` is for what it draws."""
        serving, plan = self.serving, self.speculation
        limits = SchedulerConfig(
            max_num_seqs=serving.max_num_seqs,
            max_num_batched_tokens=serving.max_num_batched_tokens,
            max_model_len=serving.max_model_len or self.model.max_position_embeddings,
            long_prefill_token_threshold=serving.long_prefill_token_threshold,
            enable_chunked_prefill=serving.enable_chunked_prefill,
            scheduler_reserve_full_isl=serving.scheduler_reserve_full_isl,
            policy=serving.scheduling_policy,
            one_batch_per_request=self.layout.pp > 1,
        )
        config = EngineConfig(
            scheduler=limits if plan is None else plan.limits(limits),
            num_gpu_blocks=num_gpu_blocks,
            block_size=serving.block_size,
            enable_prefix_caching=serving.enable_prefix_caching,
            recompute_last_hit=plan is not None and plan.uses_hidden_states,
            async_scheduling=serving.async_scheduling,
            pipeline_parallel_size=self.layout.pp,
        )

        def make_scheduler(limits: SchedulerConfig, kv: KVCacheManager) -> Scheduler:
            methods = ("add", "schedule", "finish", "waiting")
            made: Scheduler = make_plugin("scheduler", serving.scheduler, SCHEDULERS, (limits, kv), methods)
            return made

        if plan is not None:
            return SpeculativeEngine(index, config, make_scheduler, plan.speculation(seed))
        return Engine(index, config, make_scheduler)

    def builders(
        self,
        member_ranks: Sequence[Sequence[int]],
        sites: Sequence[Mapping[str, Site]],
        libraries: Libraries,
        seed: int,
    ) -> Sequence[GraphBuilder]:
        """Build what turns batches into graphs, per stage, of all members of a data-parallel group together.

        ``sites`` are what `claim_places` returned for each member.
        """
        serving, tp = self.serving, self.layout.tp
        sizes = self._capture_sizes()
        source = self._latency_source(libraries, self.model, self.layout, serving.latency.source, None)
        built: list[IterationBuilder] = []
        for stage in range(self.layout.pp):
            ranks = [member[stage * tp : (stage + 1) * tp] for member in member_ranks]
            experts = plan_routing(
                serving.experts, serving.all2all_backend, self.model, self.layout, seed, libraries.base
            )
            fetches = None
            if self.placement is not None:
                fetches = FetchPlan(self.placement, sites, self._token_bytes())
                if experts is not None and self.placement.cached_experts:
                    experts.keep_popular(self.placement.cached_experts)
            parts = (self.model, self.layout, ranks, source, sizes, stage, experts)
            if self.offloading is not None:
                fetches = fetches or FetchPlan(Placement(self.model, self.layout), sites)
                built.append(OffloadBuilder(*parts, fetches, offload=self.offloading.plan))
            else:
                built.append(IterationBuilder(*parts, fetches))
        return built if self.speculation is None else [self._with_drafts(built[0], self.speculation, libraries)]

    def _with_drafts(self, target: IterationBuilder, plan: SpeculationPlan, libraries: Libraries) -> SpeculativeBuilder:
        """Put the drafter's part behind the model's."""
        if plan.drafter is None:
            return plan.builder(target, None)
        asked = plan.spec.latency_source or self.serving.latency.source
        with located("speculative_config"):
            source = self._latency_source(libraries, plan.drafter, plan.layout, asked, plan)
        return plan.builder(target, source)

    def _capture_sizes(self) -> tuple[int, ...]:
        """Token counts for which CUDA graphs are captured."""
        serving, plan = self.serving, self.speculation
        if serving.enforce_eager:
            return ()
        query_len = 1 if plan is None else 1 + plan.spec.num_speculative_tokens
        sizes = serving.cudagraph_capture_sizes
        if sizes is None:
            sizes = capture_sizes(serving.max_num_seqs * query_len, serving.max_num_batched_tokens)
        return verification_sizes(sizes, query_len)

    def memory(self) -> DeviceMemory:
        """Work out the KV capacity: given, predicted as vLLM profiles it, or all that the weights leave.

        Of several stages it is that of the one with the fewest blocks.
        """
        serving = self.serving
        report = None
        stages = [self._stage_memory(stage) for stage in range(self.layout.pp)]
        weights, block = min(stages, key=self._blocks_left)
        if self.offloading is not None and self.offloading.kv_blocks is not None:
            blocks = self.offloading.kv_blocks
            if serving.num_gpu_blocks is None:
                self._check_weights(weights)
        elif serving.num_gpu_blocks is not None:
            blocks = serving.num_gpu_blocks
        elif self.spec.kv_memory_model == "weights_only":
            blocks = self._blocks_beside_weights(weights, block)
        else:
            report = predict_kv_blocks(self.model, self.layout, self._capacity_inputs())
            weights, block = stages[report.stage]
            blocks = report.num_blocks
        if blocks > KV_BLOCKS_MAX:
            raise ConfigError(
                f"the KV cache would have {blocks:,} blocks of {format_size(block)}; expected at most "
                f"{KV_BLOCKS_MAX:,}: lower num_gpu_blocks or memory_size, or raise block_size"
            )
        return DeviceMemory(self.accelerator.memory_bytes, weights, block, blocks, report)

    def _check_weights(self, weights: int) -> None:
        """Raise CapacityError if the device cannot run the model even without any KV."""
        if self.spec.kv_memory_model == "vllm":
            predict_kv_blocks(self.model, self.layout, self._capacity_inputs())
        elif weights > self._usable_bytes():
            self._blocks_beside_weights(weights, 1)

    def _stage_memory(self, stage: int) -> tuple[int, int]:
        """Bytes of the weights, and of a KV block, on one device of a stage."""
        weights, per_token = self._drafter_bytes()
        weights += self._kept_bytes(stage)
        weights += self._residency.weight_bytes(self.model, self.layout, stage)
        per_token += self._residency.kv_layers(self.model, self.layout, stage) * self._token_bytes()
        return weights, self.serving.block_size * per_token

    def _drafter_bytes(self) -> tuple[int, int]:
        """Bytes of a drafter's weights on one device, and of what it keeps there per token."""
        plan = self.speculation
        return (0, 0) if plan is None else (plan.weights_bytes, plan.kv_bytes_per_token(self.serving.kv_cache_dtype))

    def _kept_bytes(self, stage: int) -> int:
        """Bytes of low-rank adapters, and of the states of as many sequences as may run, on one device of a stage."""
        adapters = 0 if self.adapters is None else self.adapters.stage_bytes(self.model, self.layout, stage)
        return adapters + self.serving.max_num_seqs * state_bytes(self.model, self.layout, stage)

    @property
    def _residency(self) -> Residency:
        here: Residency = self.placement or EVERYTHING
        moved = self.offloading is not None and self.offloading.kv_blocks is not None
        return WithoutKv(here) if moved else here

    def _token_bytes(self) -> int:
        """Bytes of a token's keys and values in one block, on one rank."""
        return kv_bytes_per_token_layer(self.model, self.layout.tp, self.serving.kv_cache_dtype)

    def _blocks_left(self, stage: tuple[int, int]) -> float:
        """KV blocks that fit beside the weights of a stage."""
        weights, block = stage
        return (self._usable_bytes() - weights) / block if block else math.inf

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
        drafter_weights, drafter_kv = self._drafter_bytes()
        return CapacityInputs.of_accelerator(
            self.accelerator,
            added_weights_bytes=drafter_weights + max(map(self._kept_bytes, range(self.layout.pp))),
            drafter_kv_bytes_per_token=drafter_kv,
            gpu_memory_utilization=serving.gpu_memory_utilization,
            max_num_batched_tokens=serving.max_num_batched_tokens,
            max_num_seqs=serving.max_num_seqs,
            block_size=serving.block_size,
            kv_cache_dtype=serving.kv_cache_dtype,
            max_model_len=serving.max_model_len,
            residency=self._residency,
        )

    def _latency_source(
        self, libraries: Libraries, model: ModelSpec, layout: ParallelLayout, source: str, plan: SpeculationPlan | None
    ) -> LatencySource:
        """Build what times the operators of the model, or of the drafter of ``plan``, at the clock of the devices."""
        choice = LatencyChoice(
            spec=self.serving.latency,
            model=self.model,
            hardware=self.spec.hardware,
            accelerator=self.accelerator,
            is_catalogued=is_catalogued(find_accelerator(self.spec.hardware, libraries.accelerators)),
            kv_cache_dtype=self.serving.kv_cache_dtype,
            libraries=libraries,
        )
        full = choice.source(model, layout, source)
        roofline = RooflineSource(model, layout, self.accelerator, self.serving.kv_cache_dtype)
        if plan is not None:
            full = plan.completed(full, roofline)
        elif self.adapters is not None:
            full = with_adapters(full, self.adapters, model, layout, self.accelerator)
        return full if self.clock == 1.0 else at_clock(full, roofline, self.clock)


def _computing_memory(builder: OffloadBuilder) -> ComputingMemory | None:
    """Return what a memory draws that computes some of the operators, if one does."""
    assert builder.offload is not None
    for helper in builder.offload.helpers.values():
        if isinstance(helper.device, PimDevice):
            channels, idle_w, active_w, _ = helper.device.power
            is_host = helper.where == "cpu"
            return ComputingMemory(channels, channels / helper.num_channels, idle_w, active_w, is_host)
    return None
