"""Roofline: an operator takes as long as its arithmetic or its traffic, the longer of both, and at least a launch.

    t = max(FLOPs / (peak * efficiency), bytes / (bandwidth * efficiency), launch floor)

Source of the model: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009. FLOPs and bytes come from
`llmservingsim.model`, peaks and efficiencies from the catalogue entry. On a systolic array the FLOPs of a matrix
product are those of whole tiles (`llmservingsim.latency.systolic`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.errors import ConfigError, one_of
from llmservingsim.latency.source import ExpertWork, Grade
from llmservingsim.latency.systolic import SystolicArray
from llmservingsim.model import (
    EH_PROJ,
    IndexedBy,
    Operator,
    OperatorCost,
    OperatorKind,
    ParallelLayout,
    Work,
    kv_dtype_bytes,
    model_operators,
)
from llmservingsim.model.weights import WeightCount, expert_weights
from llmservingsim.shapes import BatchShape
from llmservingsim.units import NS_PER_S


class RooflineSource:
    """Operator latencies of one rank, from a model and a catalogue entry alone.

    Args:
        model: What is computed.
        layout: How it is cut over ranks.
        accelerator: What it runs on.
        kv_cache_dtype: Of cached keys and values, ``auto`` for the model's.
    """

    def __init__(
        self, model: ModelSpec, layout: ParallelLayout, accelerator: AcceleratorSpec, kv_cache_dtype: str = "auto"
    ) -> None:
        self._model = model
        self._layout = layout
        self._accelerator = accelerator
        self._kv_bytes = kv_dtype_bytes(model, kv_cache_dtype)
        self._array = SystolicArray.of(accelerator)
        efficiency = accelerator.efficiency
        self._bandwidth = accelerator.memory_bandwidth * efficiency.memory
        operators = model_operators(model)
        self._operators: dict[str, Operator] = {operator.name: operator for operator in (*operators, EH_PROJ)}
        self._flops = {name: self._reached_flops(operator) for name, operator in self._operators.items()}

    def _reached_flops(self, operator: Operator) -> float:
        """Operations per second that an operator's kernels reach."""
        efficiency = self._accelerator.efficiency
        share = efficiency.attention if operator.kind is OperatorKind.ATTENTION else efficiency.gemm
        return self._accelerator.flops(operator.arithmetic(self._model)) * share

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the longer of compute and memory time."""
        compute_s, memory_s = self.bounds_s(operator, shape)
        if not compute_s and not memory_s:
            return 0
        return max(round(max(compute_s, memory_s) * NS_PER_S), self.launch_ns)

    def graded_ns(self, operator: str, shape: BatchShape) -> tuple[int, Grade]:
        """Return the same, and that it was computed."""
        return self.latency_ns(operator, shape), Grade.ROOFLINE

    def graded_moe_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], Grade]:
        """Return what `moe_latency_ns` does, and that it was computed."""
        return self.moe_latency_ns(work), Grade.ROOFLINE

    @property
    def launch_ns(self) -> int:
        """No kernel takes less."""
        return self._accelerator.kernel_launch_ns

    def bounds_s(self, operator: str, shape: BatchShape) -> tuple[float, float]:
        """Return what an operator takes if arithmetic, and if memory bandwidth, were its only limit, in seconds."""
        if operator not in self._operators:
            raise ConfigError(f"operator {operator!r} is unknown; {self._model.name} has {one_of(self._operators)}")
        described = self._operators[operator]
        work = _work(shape, self._model.window_of(operator), self._kv_bytes)
        cost = described.cost(self._model, work, self._layout)
        return self._computed(described, cost, work) / self._flops[operator], cost.total_bytes / self._bandwidth

    def _computed(self, operator: Operator, cost: OperatorCost, work: Work) -> float:
        """FLOPs that the device spends."""
        if self._array is None or operator.kind is not OperatorKind.GEMM or not cost.flops:
            return cost.flops
        rows = work.sequences if operator.indexed_by is IndexedBy.SEQUENCES else work.tokens
        return self._array.product(cost, rows, self._model.dtype_bytes)

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return the longer of compute and memory time of experts that compute so many pairs."""
        times = np.rint(np.maximum(*self.moe_bounds_s(work)) * NS_PER_S).astype(np.int64)
        return np.asarray(np.maximum(times, self._accelerator.kernel_launch_ns), dtype=np.int64)

    def moe_bounds_s(self, work: ExpertWork) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return compute and memory time of experts, in seconds.

        Arithmetic grows with the pairs, the weights that are read with the activated experts; router, shared experts
        and hidden states are there in any case.
        """
        idle = Work(work.tokens, gathered_tokens=work.gathered_tokens, activated_experts=0, expert_pairs=0)
        base = self._operators["moe"].cost(self._model, idle, self._layout)
        expert = expert_weights(self._model, self._layout)
        pairs = work.pairs
        if self._array is not None:
            slices = self._layout.expert_slices
            pairs = self._array.expert_pairs(self._model, slices, pairs, work.activated_experts)
        flops = base.flops + 2 * expert * pairs
        moved = base.total_bytes + WeightCount(experts=expert).size_bytes(self._model) * work.activated_experts
        return flops / self._flops["moe"], moved / self._bandwidth

    def provenance(self) -> dict[str, object]:
        """Name the catalogue entry and the efficiencies."""
        efficiency = self._accelerator.efficiency
        stated: dict[str, object] = {
            "source": "roofline",
            "accelerator": self._accelerator.name,
            "efficiency": {k: getattr(efficiency, k) for k in ("gemm", "memory", "attention", "link")},
        }
        if self._array is not None:
            stated["array"] = dict(self._array._asdict())
        return stated


def _work(shape: BatchShape, window: int | None, kv_element_bytes: int) -> Work:
    """Describe a batch as the model room wants it."""
    chunks = Work.of_requests(((c.query_len, c.context_len + c.query_len) for c in shape.prefills), window)
    kv, drafts = shape.decode_kv_tokens, shape.draft_pairs
    if window is not None and kv > shape.num_decodes * window:
        drafts = drafts * shape.num_decodes * window // kv
        kv = shape.num_decodes * window
    return Work(
        tokens=shape.num_tokens,
        sequences=shape.num_sequences,
        attended_pairs=chunks.attended_pairs + kv + drafts,
        context_tokens=chunks.context_tokens + kv,
        kv_element_bytes=kv_element_bytes,
    )
