"""The shape of a batch: the type that travels from the serving room to the rooms that time it."""

from __future__ import annotations

from typing import NamedTuple


class Chunk(NamedTuple):
    """A piece of a prompt: ``query_len`` new tokens after ``context_len`` that have their KV already."""

    query_len: int
    context_len: int


class BatchShape(NamedTuple):
    """What the operators' latencies depend on.

    Attributes:
        prefills: Prompt chunks of more than one token, in batch order.
        num_decodes: Sequences that compute one token.
        decode_kv_tokens: Sum over these of the KV length that their attention reads, the new token included.
        max_decode_kv_tokens: The longest of them.
        num_tokens: New tokens of the whole batch, before padding.
    """

    prefills: tuple[Chunk, ...]
    num_decodes: int
    decode_kv_tokens: int
    max_decode_kv_tokens: int
    num_tokens: int

    @property
    def num_sequences(self) -> int:
        """Rows that lm_head and sampler see: vLLM samples partial prefills too and discards the token."""
        return self.num_decodes + len(self.prefills)
