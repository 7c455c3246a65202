"""Latency sources whose iterations can be timed by hand."""

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.model import ParallelLayout
from llmservingsim.shapes import BatchShape

ITERATION_NS = 1_000_000
TOKEN_NS = 1_000


class Constant:
    """Every iteration takes a millisecond."""

    def __init__(self, model: ModelSpec, layout: ParallelLayout, accelerator: AcceleratorSpec) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return ITERATION_NS if operator == "embedding" else 0

    def provenance(self) -> dict[str, object]:
        return {"source": "constant"}


class PerToken(Constant):
    """Every token takes a microsecond."""

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return TOKEN_NS * shape.num_tokens if operator == "embedding" else 0
