"""Another source's latencies with those of low-rank adapters (LoRA) beside the linear layers.

    t = launch + max(FLOPs / (peak * e_c), bytes / (bandwidth * e_m))    for each of both kernels of a layer

with 2 r k and 2 r n FLOPs per token, and the weights of every adapter that the batch uses, its inputs and outputs read
and written. Efficiencies and launch floor are those of the device's catalogue entry; nobody has measured these kernels
here. They run behind the layer, one after the other.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.latency.source import (
    ExpertLatencySource,
    ExpertWork,
    Grade,
    GradedLatencySource,
    LatencySource,
    PartialLatencySource,
)
from llmservingsim.model import Adapters, ParallelLayout
from llmservingsim.shapes import BatchShape
from llmservingsim.units import NS_PER_S


class AdapterSource:
    """A source of a model with adapters.

    Args:
        source: Of the model without.
        adapters: Beside its layers.
        model, layout: What is computed, and how it is cut over ranks.
        accelerator: What it runs on.

    Attributes:
        without: The source of the model without.
    """

    def __init__(
        self,
        source: LatencySource,
        adapters: Adapters,
        model: ModelSpec,
        layout: ParallelLayout,
        accelerator: AcceleratorSpec,
    ) -> None:
        self.without = source
        self._adapters = adapters
        self._widths = adapters.widths(model, layout)
        self._bytes = adapters.layer_bytes(model, layout)
        self._element = model.dtype_bytes
        self._launch_s = accelerator.kernel_launch_ns / NS_PER_S
        self._flops = accelerator.flops(model.dtype) * accelerator.efficiency.gemm
        self._bandwidth = accelerator.memory_bandwidth * accelerator.efficiency.memory

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the operator's time, that of its adapters included."""
        return self.without.latency_ns(operator, shape) + self._beside_ns(operator, shape)

    def graded_ns(self, operator: str, shape: BatchShape) -> tuple[int, Grade]:
        """Return the same, and where the model's part of it comes from."""
        if not isinstance(self.without, GradedLatencySource):
            return self.latency_ns(operator, shape), Grade.ROOFLINE
        time_ns, grade = self.without.graded_ns(operator, shape)
        return time_ns + self._beside_ns(operator, shape), grade

    def holds(self, operator: str) -> bool:
        """Whether the source of the model says that it holds an operator."""
        return isinstance(self.without, PartialLatencySource) and self.without.holds(operator)

    def provenance(self) -> dict[str, object]:
        """Say what the source of the model says, and that adapters are computed."""
        told = {"rank": self._adapters.rank, "targets": sorted(self._widths), "source": "roofline"}
        return {**self.without.provenance(), "adapters": told}

    def _beside_ns(self, operator: str, shape: BatchShape) -> int:
        """Return what the adapters of an operator take."""
        if operator not in self._widths or not shape.num_tokens:
            return 0
        inputs, outputs = self._widths[operator]
        rank, tokens = self._adapters.rank, shape.num_tokens
        flops = 2 * rank * tokens * (inputs + outputs)
        weights = self._adapters.active(shape.num_sequences) * self._bytes[operator]
        moved = weights + tokens * (inputs + 2 * rank + 2 * outputs) * self._element
        return round((2 * self._launch_s + max(flops / self._flops, moved / self._bandwidth)) * NS_PER_S)


class ExpertAdapterSource(AdapterSource):
    """One that also times experts, which have no adapters."""

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return the time of the experts."""
        assert isinstance(self.without, ExpertLatencySource)
        return self.without.moe_latency_ns(work)

    def graded_moe_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], Grade]:
        """Return the time of the experts, and where it comes from."""
        if not isinstance(self.without, GradedLatencySource):
            return self.moe_latency_ns(work), Grade.ROOFLINE
        return self.without.graded_moe_ns(work)


def with_adapters(
    source: LatencySource, adapters: Adapters, model: ModelSpec, layout: ParallelLayout, accelerator: AcceleratorSpec
) -> LatencySource:
    """Return a source of the model with adapters."""
    kind = ExpertAdapterSource if isinstance(source, ExpertLatencySource) else AdapterSource
    return kind(source, adapters, model, layout, accelerator)
