"""How a model is cut over ranks."""

from __future__ import annotations

from dataclasses import dataclass

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ParallelLayout:
    """Degrees of parallelism of an instance.

    Attributes:
        tp: Tensor-parallel ranks of a pipeline stage.
        pp: Pipeline stages.
        ep: Parts into which the experts are divided. Without expert parallelism 1: every rank holds a slice of every
            expert. In a data-parallel group it counts the whole group.
        dp: Instances that share the experts (1 outside a data-parallel group).
        redundant_experts: Further copies of experts, over all parts together.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1
    redundant_experts: int = 0

    def __post_init__(self) -> None:
        for field in ("tp", "pp", "ep", "dp"):
            if getattr(self, field) < 1:
                raise ConfigError(f"parallel layout: {field} must be at least 1, got {getattr(self, field)}")
        if self.tp * self.dp % self.ep:
            raise ConfigError(f"parallel layout: ep {self.ep} must divide tp * dp = {self.tp * self.dp}")

    @property
    def expert_slices(self) -> int:
        """Ranks over which one expert's width is cut: ``tp * dp / ep``, as in vLLM."""
        return self.tp * self.dp // self.ep

    def local_experts(self, model: ModelSpec) -> int:
        """Experts, or slices of experts, that a rank holds of one block."""
        return (model.num_experts + self.redundant_experts) // self.ep

    @property
    def num_ranks(self) -> int:
        """Devices of one instance."""
        return self.tp * self.pp


ONE_RANK = ParallelLayout()
"""No parallelism at all."""


def layout_problem(model: ModelSpec, layout: ParallelLayout) -> str:
    """Say why ``model`` cannot be cut as ``layout`` says; an empty string when it can."""
    tp, kv_heads = layout.tp, model.num_kv_heads
    if model.linear_num_key_heads % tp:
        return f"tp {tp} does not divide the {model.linear_num_key_heads} key heads of its linear attention"
    if model.num_heads % tp:
        return f"tp {tp} does not divide the {model.num_heads} attention heads"
    if not model.is_mla and kv_heads % tp and tp % kv_heads:
        return f"tp {tp} neither divides the {kv_heads} KV heads nor is a multiple of them"
    widths = [] if all(map(model.is_moe_layer, range(model.num_layers))) else [model.intermediate_size]
    for width in [*widths, model.shared_expert_size]:
        if width % tp:
            return f"tp {tp} does not divide the MLP width {width}"
    if layout.pp > model.num_layers:
        return f"pp {layout.pp} exceeds the {model.num_layers} blocks"
    return _expert_problem(model, layout)


def _expert_problem(model: ModelSpec, layout: ParallelLayout) -> str:
    redundant = layout.redundant_experts
    if layout.ep > 1 and (model.num_experts + redundant) % layout.ep:
        copies = f" and {redundant} redundant ones" if redundant else ""
        return f"ep {layout.ep} does not divide the {model.num_experts} experts{copies}"
    if redundant and layout.ep == 1:
        return f"{redundant} redundant experts need expert parallelism, so that they may stand on another rank"
    if model.num_experts and model.moe_intermediate_size % layout.expert_slices:
        return f"{layout.expert_slices} slices do not divide the expert width {model.moe_intermediate_size}"
    return ""


def check_layout(model: ModelSpec, layout: ParallelLayout) -> None:
    """Raise ConfigError when ``model`` cannot be cut as ``layout`` says."""
    problem = layout_problem(model, layout)
    if problem:
        raise ConfigError(f"{model.name} cannot be cut over its ranks: {problem}")


def stage_layers(num_layers: int, pp: int) -> tuple[int, ...]:
    """Blocks of each pipeline stage.

    As vLLM 0.19's ``get_pp_indices``: what does not divide evenly goes, one each, to the stages before the last one,
    from the back (7 blocks on 3 stages: 2, 3, 2), because the first and the last stage also hold embedding and head.
    """
    even, rest = divmod(num_layers, pp)
    extra = range(pp - 1 - rest, pp - 1)
    return tuple(even + (stage in extra) for stage in range(pp))


def stage_range(num_layers: int, pp: int, stage: int) -> range:
    """Indices of the blocks of pipeline stage ``stage``."""
    counts = stage_layers(num_layers, pp)
    start = sum(counts[:stage])
    return range(start, start + counts[stage])
