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
        num_decodes: Sequences that compute one token, and the drafts behind it that they verify.
        decode_kv_tokens: Sum over these of the KV length that their attention reads, the new tokens included. It is
            read once however many drafts look at it.
        max_decode_kv_tokens: The longest of them.
        num_tokens: New tokens of the whole batch, before padding.
        num_drafts: How many of them are drafts that decodes verify.
        draft_pairs: (query, key) pairs that their attention computes beyond one per KV token: under causal attention a
            decode of q tokens and KV length n has ``q * n - q * (q - 1) / 2 - n`` of them.
    """

    prefills: tuple[Chunk, ...]
    num_decodes: int
    decode_kv_tokens: int
    max_decode_kv_tokens: int
    num_tokens: int
    num_drafts: int = 0
    draft_pairs: int = 0

    def only_prefills(self) -> BatchShape:
        """Return the batch without its decodes."""
        return BatchShape(self.prefills, 0, 0, 0, sum(chunk.query_len for chunk in self.prefills))

    def only_decodes(self) -> BatchShape:
        """Return the batch without its prompt chunks."""
        return self._replace(prefills=(), num_tokens=self.num_decodes + self.num_drafts)

    @property
    def num_sequences(self) -> int:
        """Rows that lm_head and sampler see, one per sequence and per draft.

        vLLM samples partial prefills too and discards the token.
        """
        return self.num_decodes + len(self.prefills) + self.num_drafts
