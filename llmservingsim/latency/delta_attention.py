"""Linear attention with a gated delta rule, from kernels that were measured on prompt chunks and on decodes apart.

A decode updates the state of its sequence, whose size does not depend on how long the sequence is; a prompt goes
through chunk by chunk (Yang et al., "Gated Delta Networks", arXiv:2412.06464). A short convolution goes before each.
So decodes take a time over their number, and prompt chunks one over their tokens, whatever came before them; both run
one after the other.
"""

from __future__ import annotations

from llmservingsim.latency.tables import LinearTable
from llmservingsim.shapes import BatchShape


class DeltaAttention:
    """Times any batch.

    Args:
        chunks: Time over the tokens of all prompt chunks.
        decodes: Time over the number of decodes.
    """

    def __init__(self, chunks: LinearTable, decodes: LinearTable) -> None:
        self._chunks, self._decodes = chunks, decodes

    def covers(self, shape: BatchShape) -> bool:
        """Whether the batch lies within the measured ranges."""
        tokens, count = _tokens(shape), shape.num_decodes
        return (not tokens or self._chunks.covers(tokens)) and (not count or self._decodes.covers(count))

    def at(self, shape: BatchShape) -> float:
        """Return the time of a batch; drafts are verified like decodes of their own."""
        tokens, count = _tokens(shape), shape.num_decodes + shape.num_drafts
        return (self._chunks.at(tokens) if tokens else 0.0) + (self._decodes.at(count) if count else 0.0)


def _tokens(shape: BatchShape) -> int:
    return sum(chunk.query_len for chunk in shape.prefills)
