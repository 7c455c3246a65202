"""The model of an instance as its options change it: formats of weights, adapters, states instead of keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from llmservingsim.config import InstanceSpec, LoraSpec
from llmservingsim.config.catalog import ModelSpec, find_model, quantised
from llmservingsim.errors import ConfigError, located
from llmservingsim.model import Adapters, ParallelLayout


def instance_model(spec: InstanceSpec, models: Sequence[Path]) -> ModelSpec:
    """Return the model that an instance names, in the formats that it states."""
    model = find_model(spec.model, models)
    if spec.dtype not in (None, "auto"):
        model = msgspec.structs.replace(model, dtype=spec.dtype)
    if spec.quantization is not None:
        with located("quantization"):
            model = quantised(model, spec.quantization)
    return model


def plan_adapters(spec: LoraSpec | None, model: ModelSpec, layout: ParallelLayout) -> Adapters | None:
    """Return the low-rank adapters that a section asks for."""
    if spec is None:
        return None
    adapters = Adapters(spec.max_lora_rank, spec.max_loras, spec.adapters or spec.max_loras, spec.targets)
    with located("lora"):
        adapters.widths(model, layout)
    return adapters


def check_states(spec: InstanceSpec, model: ModelSpec) -> None:
    """Raise ConfigError if states of linear attention would have to move, or be found again."""
    if all(map(model.keeps_kv, range(model.num_layers))):
        return
    for key, plain in (
        ("kv_role", "kv_both"),
        ("prefix_storage", None),
        ("preemption_mode", "recompute"),
        ("placement", None),
        ("operators", None),
    ):
        if getattr(spec, key) not in (plain, None, ()):
            raise ConfigError(
                f"{key}: {model.name} keeps states of linear attention, which are simulated where they are computed "
                f"alone; expected no {key}"
            )
