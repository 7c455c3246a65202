"""Projections and feed-forward layers on all channels of a memory that computes.

A weight matrix is spread over all channels: cut into ``parts`` along its inputs, whose partial sums the controllers add
as they read them out, and over the remaining channels along its outputs. The cut is the power of two that makes a
product with one vector shortest; it stays, because weights do not move. A batch of m tokens reads the weights
``ceil(m / vectors_per_read)`` times, and opens their rows once for as many tokens as the buffer holds. Channels work at
the same time and alike, so the time is that of one:

    t = (command + CWL + CL + reads + rows + operands) / (1 - tRFC / tREFI)

with the terms of `llmservingsim.latency.pim.channel`. ``act_fn`` runs in the controllers, which read its inputs over
the bus and write its outputs.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.latency.pim.channel import Channel
from llmservingsim.model import ParallelLayout, Work, model_operators
from llmservingsim.model.weights import operator_weights, vocab_per_rank
from llmservingsim.units import NS_PER_S

_ELEMENTWISE = "act_fn"


class Matrix(NamedTuple):
    """Weights of an operator on one rank.

    Attributes:
        inputs, outputs: Columns and rows.
        element_bytes: Of one weight, a fraction where it has fewer than eight bits.
    """

    inputs: int
    outputs: int
    element_bytes: float


def matrices(model: ModelSpec, layout: ParallelLayout) -> dict[str, Matrix]:
    """Return the matrices of a rank by operator: those that the model has of the projections, the MLP and the head."""
    inputs = {
        "qkv_proj": model.hidden_size,
        "o_proj": model.attention_output_size // layout.tp,
        "gate_up_proj": model.hidden_size,
        "down_proj": model.intermediate_size // layout.tp,
    }
    present = {operator.name for operator in model_operators(model)}
    found = {
        name: Matrix(width, operator_weights(model, name, layout).linear // width, model.linear_bits / 8)
        for name, width in inputs.items()
        if name in present
    }
    return found | {"lm_head": Matrix(model.hidden_size, vocab_per_rank(model, layout.tp), model.dtype_bytes)}


class MatrixTimes:
    """Times operators other than attention on all channels.

    Args:
        channel: One of them.
        channels: How many there are.
        model, layout: What is computed, and how it is cut over ranks.
    """

    def __init__(self, channel: Channel, channels: int, model: ModelSpec, layout: ParallelLayout) -> None:
        self._channel = channel
        self._channels = channels
        self._model = model
        self._layout = layout
        self._matrices = matrices(model, layout)
        described = {operator.name: operator for operator in model_operators(model)}
        self._elementwise = described.get(_ELEMENTWISE)
        self._parts = cache(self._best_parts)

    @property
    def operators(self) -> frozenset[str]:
        """What can be timed."""
        return frozenset(self._matrices) | ({_ELEMENTWISE} if self._elementwise else set())

    def latency_ns(self, operator: str, vectors: int) -> int:
        """Return the time of an operator for so many tokens, or sequences for the head."""
        if vectors == 0:
            return 0
        if operator == _ELEMENTWISE:
            return self._elementwise_ns(vectors)
        matrix = self._matrices[operator]
        return round(self.product_ns(matrix, vectors, self._parts(matrix)))

    def product_ns(self, matrix: Matrix, vectors: int, parts: int) -> float:
        """Return the time of the product of a matrix, cut into so many parts along its inputs, with vectors."""
        channel, spec, fp = self._channel, self._channel.spec, self._model.dtype_bytes
        inputs = -(-matrix.inputs // parts)
        outputs_per_unit = -(-matrix.outputs // ((self._channels // parts) * spec.units))
        row_accesses = -(-inputs * matrix.element_bytes // spec.access_bytes)
        accesses = outputs_per_unit * row_accesses
        passes = -(-vectors // max(1, spec.buffer_bytes // (inputs * fp)))
        rounds = 1 if channel.in_controller else passes * -(-accesses // channel.accesses_per_round)
        operands = channel.operands(inputs * fp, outputs_per_unit * spec.units * fp, outputs_per_unit, vectors)
        busy_ns = (
            spec.command_ns
            + channel.turnaround_ns()
            + accesses * channel.access_ns(vectors, matrix.element_bytes)
            + rounds * channel.open_ns(matrix.element_bytes)
            + channel.operand_ns(operands)
        )
        return busy_ns * channel.refresh

    def _best_parts(self, matrix: Matrix) -> int:
        powers = [1 << n for n in range(self._channels.bit_length()) if 1 << n <= matrix.inputs]
        return min(powers, key=lambda parts: self.product_ns(matrix, 1, parts))

    def _elementwise_ns(self, tokens: int) -> int:
        assert self._elementwise is not None
        cost = self._elementwise.cost(self._model, Work(tokens), self._layout)
        seconds = cost.total_bytes / (self._channels * self._channel.spec.channel_bandwidth)
        return round(self._channel.spec.command_ns + seconds * NS_PER_S * self._channel.refresh)
