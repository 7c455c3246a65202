"""A host or an accelerator as the device beside the accelerator: a roofline over its catalogue entry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import ExpertWork
from llmservingsim.model import ParallelLayout, model_operators
from llmservingsim.shapes import BatchShape


class ProcessorDevice:
    """Every operator of the model as a roofline; one group, because all its cores work on one batch.

    Args:
        accelerator: The processor.
        model, layout: What is computed, and how it is cut over ranks.
    """

    num_groups = 1

    def __init__(self, accelerator: AcceleratorSpec, model: ModelSpec, layout: ParallelLayout) -> None:
        self._roofline = RooflineSource(model, layout, accelerator)
        self.operators = frozenset(operator.name for operator in model_operators(model))

    def attention_ns(self, requests: NDArray[np.int64], context_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the time of the decode attention of one block, shape ``[1]``, 0 without requests."""
        count, tokens = int(requests[0]), int(context_tokens[0])
        shape = BatchShape((), count, tokens, -(-tokens // max(count, 1)), count)
        return np.array([self._roofline.latency_ns("attention", shape) if count else 0], dtype=np.int64)

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return what the roofline says."""
        return self._roofline.latency_ns(operator, shape)

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return what the roofline says of experts."""
        return self._roofline.moe_latency_ns(work)

    def provenance(self) -> dict[str, object]:
        """Name the catalogue entry and the efficiencies."""
        return self._roofline.provenance()


def make_processor(accelerator: AcceleratorSpec, model: ModelSpec, layout: ParallelLayout) -> ProcessorDevice:
    """Return a processor that computes what one rank of ``layout`` would, everything for ``ParallelLayout()``."""
    return ProcessorDevice(accelerator, model, layout)
