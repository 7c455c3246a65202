"""Low-rank adapters (LoRA; Hu et al., arXiv:2106.09685) beside the linear layers of a model.

A layer of k inputs and n outputs gets two small products per token, k x r and r x n, whose result is added. Engines
keep a fixed number of adapters of the largest rank on the device and compute them in two kernels per layer, each token
with its own (Punica, arXiv:2310.18547; vLLM's ``max_loras`` and ``max_lora_rank``). Over ranks the matrix on the side
that is cut is cut with the layer, the other one is replicated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ConfigError, nearest, one_of
from llmservingsim.model.layout import ParallelLayout, stage_range
from llmservingsim.model.operators import OperatorKind, Work, block_operators

COLUMN_PARALLEL = frozenset({"qkv_proj", "gate_up_proj"})
"""Layers that are cut over their outputs; all others over their inputs."""

_PACKED = {"qkv_proj": 3, "gate_up_proj": 2}
"""Matrices that engines run as one product, each of which has an adapter of its own."""


@dataclass(frozen=True, slots=True)
class Adapters:
    """Which layers have adapters, and how large these are.

    Attributes:
        rank: Inner width of an adapter, vLLM's ``max_lora_rank``.
        max_loras: Adapters that the device holds, and that one batch may use.
        count: Adapters that requests ask for, each as often as any other.
        targets: Names of the layers.
    """

    rank: int
    max_loras: int
    count: int
    targets: tuple[str, ...]

    def widths(self, model: ModelSpec, layout: ParallelLayout) -> Mapping[str, tuple[int, int]]:
        """Return inputs and outputs of each layer on one rank, as its adapters see them.

        Raises:
            ConfigError: If the model has no such layer.
        """
        known = {
            operator.name: operator
            for layer in range(model.num_layers)
            for operator in block_operators(model, layer)
            if operator.kind is OperatorKind.GEMM
        }
        found = {}
        for name in self.targets:
            if name not in known:
                raise ConfigError(
                    f"targets: {model.name} has no layer {name!r}{nearest(name, known)}; it has {one_of(known)}"
                )
            cost = known[name].cost(model, Work(tokens=1, sequences=1), layout)
            found[name] = cost.input_bytes // model.dtype_bytes, cost.output_bytes // model.dtype_bytes
        return found

    def active(self, sequences: int) -> float:
        """Return how many distinct adapters a batch of so many sequences uses, as expected."""
        drawn = self.count * (1 - (1 - 1 / self.count) ** sequences)
        return min(drawn, float(self.max_loras))

    def layer_bytes(self, model: ModelSpec, layout: ParallelLayout) -> dict[str, int]:
        """Return what one adapter of each layer takes on one rank."""
        return {
            name: self.rank * (_PACKED.get(name, 1) * inputs + outputs) * model.dtype_bytes
            for name, (inputs, outputs) in self.widths(model, layout).items()
        }

    def stage_bytes(self, model: ModelSpec, layout: ParallelLayout, stage: int) -> int:
        """Return what all adapters of a pipeline stage take on one rank: room for ``max_loras``, used or not."""
        per_layer = self.layer_bytes(model, layout)
        return self.max_loras * sum(
            per_layer.get(operator.name, 0)
            for layer in stage_range(model.num_layers, layout.pp, stage)
            for operator in block_operators(model, layer)
        )
