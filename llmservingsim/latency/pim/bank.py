"""A memory that computes, timed from the numbers of the device."""

from __future__ import annotations

from llmservingsim.config.catalog import ModelSpec, PimSpec
from llmservingsim.errors import ConfigError, one_of
from llmservingsim.latency.pim.attention import attention_time
from llmservingsim.latency.pim.channel import Channel
from llmservingsim.latency.pim.device import PimDevice
from llmservingsim.latency.pim.gemv import MatrixTimes
from llmservingsim.latency.pim.heads import spread_heads
from llmservingsim.model import ParallelLayout
from llmservingsim.shapes import BatchShape


class BankPim(PimDevice):
    """Attention, projections and feed-forward layers on MAC units beside the banks, or in the channels' controllers.

    `llmservingsim.latency.pim.attention` and `llmservingsim.latency.pim.gemv` state the formulas.

    Args:
        spec: What the memory is made of.
        model, layout: What is computed, and how it is cut over ranks.
        channels: Of the memory.
    """

    def __init__(self, spec: PimSpec, model: ModelSpec, layout: ParallelLayout, channels: int) -> None:
        channel = Channel(spec)
        heads = spread_heads(model, layout, channels)
        super().__init__(spec, model, heads, channels, attention_time(channel, heads, model.dtype_bytes))
        self._matrices = MatrixTimes(channel, channels, model, layout)
        self.operators = self._matrices.operators | {"attention"}

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the time of an operator; that of attention with its decodes spread evenly over the groups.

        Raises:
            ConfigError: The device cannot compute it, or the batch has prompt chunks whose attention it would be.
        """
        if operator == "attention":
            return super().latency_ns(operator, shape)
        if operator not in self.operators:
            raise ConfigError(f"{self._spec.name} does not compute {operator!r}; expected {one_of(self.operators)}")
        return self._matrices.latency_ns(operator, shape.num_sequences if operator == "lm_head" else shape.num_tokens)

    def provenance(self) -> dict[str, object]:
        """Name the device, what attention costs, and the numbers that nobody published."""
        return {
            "source": "memory that computes",
            **super().provenance(),
            "unit_place": self._spec.unit_place,
            "assumed": self._spec.assumptions(),
        }
