"""Speculative decoding of an instance: what the file says about it, as engines, builders and memory take it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from llmservingsim.config import ExpertSpec, InstanceSpec, SpeculativeSpec
from llmservingsim.config.catalog import ModelSpec, find_model
from llmservingsim.config.catalog.model import ModelFamily
from llmservingsim.defaults import Serving
from llmservingsim.errors import ConfigError, located
from llmservingsim.experts import plan_routing
from llmservingsim.latency import BundleSource, DrafterBundleSource, LatencySource, RooflineSource
from llmservingsim.model import (
    EH_PROJ,
    ParallelLayout,
    block_operators,
    check_layout,
    end_operators,
    kv_bytes_per_token,
    rotary_cache_bytes,
    weight_bytes,
)
from llmservingsim.model.weights import operator_weights
from llmservingsim.serving import AcceptancePolicy, SchedulerConfig, Speculation
from llmservingsim.serving.acceptance import make_acceptance
from llmservingsim.trace import DrafterBuilder, IterationBuilder, SpeculativeBuilder
from llmservingsim.units import parse_time_ns

_ONE_BLOCK = ("eagle", "mtp")


@dataclass(frozen=True, slots=True)
class SpeculationPlan:
    """The speculative decoding of one instance.

    Attributes:
        spec: What the user wrote.
        policy: Decides which drafts are accepted.
        drafter: What one forward step of the drafter runs; None where drafts are searched.
        layout: How it is cut.
        num_copies: Modules of this shape that take turns, one per draft (MTP); 1 otherwise.
    """

    spec: SpeculativeSpec
    policy: AcceptancePolicy
    drafter: ModelSpec | None
    layout: ParallelLayout
    num_copies: int

    @property
    def uses_hidden_states(self) -> bool:
        """Whether the drafter goes on from the model's hidden states, and shares its embedding and head."""
        return self.spec.method in _ONE_BLOCK

    @property
    def weights_bytes(self) -> int:
        """Of the drafter on each rank, its rotary table included; what it shares with the model is not its own."""
        if self.drafter is None:
            return 0
        own = weight_bytes(self.drafter, self.layout)
        if not self.uses_hidden_states:
            return own + rotary_cache_bytes(self.drafter)
        untied = msgspec.structs.replace(self.drafter, tie_word_embeddings=False)
        shared = ("embedding", "lm_head")
        own = weight_bytes(untied, self.layout)
        own -= sum(operator_weights(untied, name, self.layout).size_bytes(untied) for name in shared)
        return self.num_copies * (own + operator_weights(untied, EH_PROJ.name).size_bytes(untied))

    def kv_bytes_per_token(self, kv_cache_dtype: str) -> int:
        """Bytes that a token keeps for the drafter on each rank."""
        if self.drafter is None:
            return 0
        return self.num_copies * kv_bytes_per_token(self.drafter, self.layout, 0, kv_cache_dtype)

    def limits(self, limits: SchedulerConfig) -> SchedulerConfig:
        """Change a scheduler's limits as vLLM does: room for tokens written ahead, and for a drafter's own tokens."""
        reserved = limits.max_num_seqs if self.spec.method == "draft_model" else 0
        return msgspec.structs.replace(
            limits,
            max_num_batched_tokens=limits.max_num_batched_tokens - reserved,
            num_lookahead_tokens=self.spec.num_speculative_tokens if self.drafter is not None else 0,
        )

    def speculation(self, seed: int) -> Speculation:
        """Build the engine's part; ``seed`` is the instance's."""
        return Speculation(self.spec.num_speculative_tokens, self.policy, seed)

    def completed(self, source: LatencySource, roofline: RooflineSource) -> LatencySource:
        """Let a bundle of the model time its drafter too, and a roofline what the bundle does not hold."""
        if self.drafter is None or not self.uses_hidden_states or not isinstance(source, BundleSource):
            return source
        operators = (EH_PROJ, *block_operators(self.drafter), *end_operators())
        return DrafterBundleSource(source, roofline, dict.fromkeys(operator.name for operator in operators))

    def builder(self, target: IterationBuilder, source: LatencySource | None) -> SpeculativeBuilder:
        """Put the drafter's nodes behind the model's.

        Args:
            target: Builds the model's.
            source: Of the drafter's latencies.
        """
        if self.drafter is None or source is None:
            return SpeculativeBuilder(target, None, parse_time_ns(self.spec.search_time))
        experts = plan_routing(ExpertSpec(), "allgather_reducescatter", self.drafter, self.layout, 0, Path())
        drafter = DrafterBuilder(
            self.drafter,
            self.layout,
            target.member_ranks,
            source,
            target.capture_sizes,
            experts=experts,
            joins_hidden_states=self.uses_hidden_states,
            num_passes=self.spec.num_speculative_tokens,
            num_extra_tokens=0 if self.uses_hidden_states else 1,
        )
        return SpeculativeBuilder(target, drafter)


def plan_speculation(
    spec: InstanceSpec,
    serving: Serving,
    model: ModelSpec,
    layout: ParallelLayout,
    models: Sequence[Path],
    base: Path,
) -> SpeculationPlan | None:
    """Read ``speculative_config``; None if there is none, or no draft.

    Args:
        spec: The instance.
        serving: Its options, completed.
        model: What is served.
        layout: How it is cut.
        models: Directories of model files.
        base: Where relative paths start.

    Raises:
        ConfigError: If it contradicts itself, the model or the instance's other options.
        ModelError: If the drafter is not found.
        PluginError: If the acceptance policy is not found or cannot be built.
    """
    asked = serving.speculative_config
    if asked is None or not asked.num_speculative_tokens:
        return None
    with located("speculative_config"):
        _check_options(asked, serving, layout)
        drafter, copies = _drafter(asked, spec, model, models)
        tp = asked.draft_tensor_parallel_size or layout.tp
        if tp not in (1, layout.tp):
            raise ConfigError(f"draft_tensor_parallel_size: expected 1 or {layout.tp}, as the instance's, got {tp}")
        parts = layout.ep if drafter is not None and drafter.num_experts and tp == layout.tp else 1
        cut = ParallelLayout(tp, ep=parts if asked.method == "mtp" else 1)
        if drafter is not None:
            check_layout(drafter, cut)
        with located("acceptance"):
            policy = make_acceptance(asked.acceptance or {}, asked.num_speculative_tokens, base)
    return SpeculationPlan(asked, policy, drafter, cut, copies)


def _check_options(asked: SpeculativeSpec, serving: Serving, layout: ParallelLayout) -> None:
    """Raise for options of the instance that do not go together with drafts."""
    if layout.pp > 1:
        raise ConfigError("drafts are not simulated with pipeline stages yet; expected pipeline_parallel_size 1")
    if layout.dp > 1:
        raise ConfigError("drafts are not simulated in a data-parallel group yet; expected no data_parallel_group")
    if asked.method == "ngram" and serving.async_scheduling:
        raise ConfigError(
            "method: ngram cannot be scheduled asynchronously; expected async_scheduling false or ngram_gpu"
        )
    reserved = serving.max_num_seqs if asked.method == "draft_model" else 0
    budget = serving.max_num_batched_tokens - reserved
    if asked.num_speculative_tokens >= budget:
        kept = f", less one token of the drafter for each of max_num_seqs {reserved}" if reserved else ""
        raise ConfigError(
            f"num_speculative_tokens: {asked.num_speculative_tokens} drafts and the token before them exceed "
            f"max_num_batched_tokens {serving.max_num_batched_tokens}{kept}; expected at most {max(0, budget - 1)}"
        )


def _drafter(
    asked: SpeculativeSpec, spec: InstanceSpec, model: ModelSpec, models: Sequence[Path]
) -> tuple[ModelSpec | None, int]:
    """Return what one forward step runs, and how many modules of this shape there are."""
    if asked.method == "mtp":
        return _prediction_module(model, asked.num_speculative_tokens)
    if asked.method == "eagle" and asked.model is None:
        return _block_like(model), 1
    if asked.model is None:
        return None, 1
    with located("model"):
        found = find_model(asked.model, models)
        if spec.dtype not in (None, "auto"):
            found = msgspec.structs.replace(found, dtype=spec.dtype)
        if found.vocab_size != model.vocab_size:
            raise ConfigError(
                f"{found.name} has a vocabulary of {found.vocab_size}, {model.name} one of {model.vocab_size}; "
                "expected a drafter with the same"
            )
    return found, 1


def _prediction_module(model: ModelSpec, num_drafts: int) -> tuple[ModelSpec, int]:
    """Return the model's own module for further tokens: a block like its last one."""
    modules = model.num_nextn_predict_layers
    if not modules:
        raise ConfigError(
            f"method: {model.name} has no module for multi-token prediction (num_nextn_predict_layers of its "
            "config.json is 0 or missing); expected eagle, draft_model or ngram"
        )
    if num_drafts > modules and num_drafts % modules:
        raise ConfigError(f"num_speculative_tokens: expected a multiple of the {modules} modules of {model.name}")
    is_moe = model.is_moe_layer(model.num_layers - 1)
    shape = msgspec.structs.replace(
        model, num_layers=1, first_dense_layers=0, mlp_only_layers=(), moe_layer_step=1, moe_layer_offset=0
    )
    return (shape if is_moe else _block_like(model)), modules


def _block_like(model: ModelSpec) -> ModelSpec:
    """Return one dense block of a model's shape."""
    if model.is_mla or model.intermediate_size < 1:
        raise ConfigError(f"model: {model.name} has no dense block to take as the head's; expected its config.json")
    return msgspec.structs.replace(
        model,
        family=ModelFamily.DENSE,
        num_layers=1,
        num_experts=0,
        experts_per_token=0,
        moe_intermediate_size=0,
        num_shared_experts=0,
        shared_expert_size=0,
    )
