"""The experts of an instance: what the file says about them, as layouts and builders take it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from llmservingsim.config import ExpertSpec, InstanceSpec
from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ConfigError, located
from llmservingsim.model import ParallelLayout
from llmservingsim.plugins import make_plugin
from llmservingsim.trace.experts import (
    EXPERT_ROUTERS,
    ExpertGeometry,
    ExpertRouting,
    place_copies,
    place_experts,
)


def expert_parts(spec: InstanceSpec, model: ModelSpec, ranks: int) -> int:
    """Return into how many parts the experts are divided, 1 without expert parallelism.

    Args:
        spec: Of the instance, defaults merged.
        model: What it serves.
        ranks: Devices of a pipeline stage, over all instances that share the experts.

    Raises:
        ConfigError: If the model has no experts, or two keys contradict each other.
    """
    asked, size = spec.enable_expert_parallel, spec.expert_parallel_size
    if not model.num_experts:
        if asked is True or (size or 1) > 1:
            key = "enable_expert_parallel" if asked is True else "expert_parallel_size"
            raise ConfigError(f"{key}: {model.name} has no experts; expected {key} only for a mixture of experts")
        return 1
    if size is not None:
        if asked is False and size > 1:
            raise ConfigError(f"expert_parallel_size: {size} contradicts enable_expert_parallel false")
        return size
    return ranks if asked else 1


def redundant_experts(spec: InstanceSpec, model: ModelSpec) -> int:
    """Return the further copies of experts that the instance has."""
    return spec.experts.num_redundant_experts if spec.experts is not None and model.num_experts else 0


def plan_routing(
    spec: InstanceSpec, model: ModelSpec, layout: ParallelLayout, seed: int, base: Path
) -> ExpertRouting | None:
    """Build what tells where tokens go, one for every `IterationBuilder`; None for a dense model.

    Args:
        spec: Of the instance, defaults merged.
        model: What it serves.
        layout: How it is cut.
        seed: For policies that draw.
        base: Where relative paths start.

    Raises:
        ConfigError: If an option is wrong.
        PluginError: If the router is unknown, or cannot be built.
    """
    if not model.num_experts:
        return None
    layers = tuple(layer for layer in range(model.num_layers) if model.is_moe_layer(layer))
    geometry = ExpertGeometry(layers, model.num_experts, model.experts_per_token, seed)
    experts = spec.experts or ExpertSpec()
    redundant = layout.redundant_experts
    options = dict(experts.options or {})
    if isinstance(options.get("path"), str):
        options["path"] = base / options["path"]
    methods = ("split", "shares") if redundant else ("split",)
    with located("experts"):
        router = make_plugin("expert_router", experts.routing, EXPERT_ROUTERS, (geometry,), methods, options)
    if redundant:
        held = place_copies(np.asarray(router.shares(), dtype=np.float64), redundant, layout.ep)
    else:
        held = place_experts(experts.placement, model.num_experts, layout.ep)
    return ExpertRouting(geometry, router, held, spec.all2all_backend or "allgather_reducescatter")


def instance_seed(seed: int, index: int) -> int:
    """Return a seed of its own for each instance of a run."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
