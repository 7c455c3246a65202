"""What an operator asks of a device, in the device's own terms: the variables of a calibrated roofline."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.latency.source import ExpertWork
from llmservingsim.latency.systolic import SystolicArray
from llmservingsim.model import IndexedBy, Operator, OperatorKind, ParallelLayout, Work
from llmservingsim.model.weights import WeightCount, expert_weights, kv_heads_per_rank

Floats = NDArray[np.float64]
Amount = float | Floats
"""A number, or many of the same kind."""

PRODUCTS = "matrix products"
HEAD = "lm_head"
EXPERTS = "experts"
DECODES = "attention, decodes"
CHUNKS = "attention, chunks"

TILE = 128
"""Rows and columns of the tile of a product that one compute unit works on (a common one of 16-bit kernels)."""
EXPERT_ROWS = 64
"""Rows of the tile of one expert; vLLM's fused kernel takes 16 to 128, by the number of tokens."""


class Demand(NamedTuple):
    """Of one run of an operator on one rank, or, as arrays, of many.

    Attributes:
        compute_s: Its arithmetic at the device's peak.
        wave_s: What the device computes meanwhile at most without use: one tile per compute unit.
        memory_s: Its traffic at the device's bandwidth.
        cache_fill: Its traffic relative to the last-level cache; without bound where that is not known.
        inner: Inner size of a product, which one tile walks through.
        walks: Sequences times key and value heads of a decode batch, each a piece of work of its own.
        keys: Keys that a sequence of the batch has, on average.
    """

    compute_s: Amount
    wave_s: Amount
    memory_s: Amount
    cache_fill: Amount
    inner: Amount = 0.0
    walks: Amount = 0.0
    keys: Amount = 0.0


class Demands:
    """Says what operators ask of one rank's device.

    Args:
        model: What is computed.
        layout: How it is cut.
        accelerator: What it runs on.
    """

    def __init__(self, model: ModelSpec, layout: ParallelLayout, accelerator: AcceleratorSpec) -> None:
        self.model, self.layout, self.accelerator = model, layout, accelerator
        self._bandwidth = accelerator.memory_bandwidth
        self._cache = accelerator.l2_bytes or 1  # so small that nothing stays in it
        self._units = accelerator.num_compute_units
        self._array = SystolicArray.of(accelerator)
        self._kv_heads = kv_heads_per_rank(model, layout.tp)

    def of(self, operator: Operator, work: Work) -> Demand:
        """Return what an operator other than ``moe`` asks; of attention, what a batch of decodes asks."""
        cost = operator.cost(self.model, work, self.layout)
        memory, peak = self._moved(cost.total_bytes), self._peak(operator)
        if operator.kind is OperatorKind.ATTENTION:
            walks = work.sequences * self._kv_heads
            return Demand(cost.flops / peak, 0.0, *memory, 0.0, walks, work.context_tokens / work.sequences)
        if operator.kind is not OperatorKind.GEMM:
            return Demand(cost.flops / peak, 0.0, *memory)
        rows = work.sequences if operator.indexed_by is IndexedBy.SEQUENCES else work.tokens
        inner = cost.input_bytes / (rows * self.model.dtype_bytes)
        flops = self._array.product(cost, rows, self.model.dtype_bytes) if self._array else cost.flops
        wave = 2 * TILE * TILE * inner * self._units
        return Demand(flops / peak, wave / peak, *memory, inner)

    def of_experts(self, operator: Operator, work: ExpertWork) -> Demand:
        """Return what the operator ``moe`` asks; arrays of the shape of ``work.pairs``.

        What is without use is the part of an expert's tile that its tokens do not fill.
        """
        idle = Work(work.tokens, gathered_tokens=work.gathered_tokens, activated_experts=0, expert_pairs=0)
        base = operator.cost(self.model, idle, self.layout)
        expert = expert_weights(self.model, self.layout)
        flops = base.flops + 2 * expert * work.pairs
        padding = 2 * expert * EXPERT_ROWS * work.activated_experts
        moved = base.total_bytes + WeightCount(experts=expert).size_bytes(self.model) * work.activated_experts
        times, fills = self._moved(moved)
        peak = self._peak(operator)
        return Demand(flops / peak, padding / peak, times, fills)

    def _peak(self, operator: Operator) -> float:
        """Operations per second of the device in the operator's arithmetic."""
        return self.accelerator.flops(operator.arithmetic(self.model))

    def _moved(self, size: Amount) -> tuple[Amount, Amount]:
        """Time of some traffic, and the share of the cache that it fills."""
        return size / self._bandwidth, size / self._cache


def class_of(operator: Operator) -> str:
    """Return the class that an operator is fitted with: products together, the head apart, all others by name."""
    if operator.kind is OperatorKind.GEMM:
        return HEAD if operator.indexed_by is IndexedBy.SEQUENCES else PRODUCTS
    named = {OperatorKind.MOE: EXPERTS, OperatorKind.ATTENTION: DECODES}
    return named.get(operator.kind, operator.name)
