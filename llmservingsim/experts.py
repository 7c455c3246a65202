"""The experts of an instance: what the file says about them, as layouts and builders take it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from llmservingsim.config import ExpertSpec
from llmservingsim.config.catalog import ModelSpec
from llmservingsim.config.quantities import All2AllBackend
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


def expert_parts(asked: bool | Literal["auto"], size: int | None, model: ModelSpec, ranks: int) -> int:
    """Return into how many parts the experts are divided, 1 without expert parallelism.

    Args:
        asked: ``enable_expert_parallel``.
        size: ``expert_parallel_size``.
        model: What is served.
        ranks: Devices of a pipeline stage, over all instances that share the experts.

    Raises:
        ConfigError: If the model has no experts, or the keys contradict each other.
    """
    if not model.num_experts:
        if asked is True or (size or 1) > 1:
            key = "enable_expert_parallel" if asked is True else "expert_parallel_size"
            raise ConfigError(f"{key}: {model.name} has no experts; expected {key} only for a mixture of experts")
        return 1
    if size is None:
        return ranks if asked else 1
    return size


def plan_routing(
    spec: ExpertSpec,
    all2all_backend: All2AllBackend,
    model: ModelSpec,
    layout: ParallelLayout,
    seed: int,
    base: Path,
) -> ExpertRouting | None:
    """Build what tells where tokens go, one for every `IterationBuilder`; None for a dense model.

    Args:
        spec: The section ``experts``.
        all2all_backend: How tokens travel between instances.
        model: What is served.
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
    redundant = layout.redundant_experts
    options = dict(spec.options or {})
    if isinstance(options.get("path"), str):
        options["path"] = base / options["path"]
    methods = ("split", "shares") if redundant else ("split",)
    with located("experts"):
        router = make_plugin("expert_router", spec.routing, EXPERT_ROUTERS, (geometry,), methods, options)
    if redundant:
        held = place_copies(np.asarray(router.shares(), dtype=np.float64), redundant, layout.ep)
    else:
        held = place_experts(spec.placement, model.num_experts, layout.ep)
    return ExpertRouting(geometry, router, held, all2all_backend)


def instance_seed(seed: int, index: int) -> int:
    """Return a seed of its own for each instance of a run."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
