"""Which operators a pass runs, and how often a step runs each."""

from __future__ import annotations

from collections import Counter

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.model import OperatorKind, block_operators, end_operators, model_operators, start_operators

START = tuple(op.name for op in start_operators())
END = tuple(op.name for op in end_operators())


def block_names(model: ModelSpec) -> tuple[str, ...]:
    """Operators of a block without experts; where all have experts, what stands before them."""
    layer = next((i for i in range(model.num_layers) if not model.is_moe_layer(i)), 0)
    return tuple(op.name for op in block_operators(model, layer) if op.kind is not OperatorKind.MOE)


def step_names(model: ModelSpec) -> tuple[str, ...]:
    """What a whole step of a shot ``step`` runs: every block as `block_names` says."""
    return (*START, *block_names(model) * model.num_layers, *END)


def calls(model: ModelSpec) -> Counter[str]:
    """How often a step of the model runs each operator."""
    return Counter(op.name for op in model_operators(model))
