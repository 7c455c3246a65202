"""Attention in a user's table: decodes over (sequences, KV length), prompt chunks over (tokens, context)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from llmservingsim.errors import ProfileError
from llmservingsim.latency.operator_rows import OperatorRow
from llmservingsim.latency.tables import DecodeTable
from llmservingsim.shapes import BatchShape, Chunk


class AttentionTable:
    """Attention as one kernel per prompt chunk and one for all decodes, which run one after the other.

    A row whose tokens equal its sequences times decodes of one token each; any other row times one prompt chunk.

    Args:
        rows: Of one name in the table.
        path: Of the table, for messages.

    Attributes:
        decode_points: (sequences, KV length of each) of the rows of decodes.
        chunk_points: (tokens, context) of the rows of prompt chunks.

    Raises:
        ProfileError: A row has no KV length, or is neither.
    """

    def __init__(self, rows: Iterable[OperatorRow], path: Path) -> None:
        decodes: dict[int, list[tuple[int, float]]] = {}
        chunks: dict[int, list[tuple[int, float]]] = {}
        for row in rows:
            kv = _kv(row, path)
            if row.tokens == (row.sequences or 1):
                decodes.setdefault(row.tokens, []).append((kv, row.time_ns))
            else:
                chunks.setdefault(row.tokens, []).append((kv - row.tokens, row.time_ns))
        self.decode_points = [(count, kv) for count, row in decodes.items() for kv, _ in row]
        self.chunk_points = [(tokens, context) for tokens, row in chunks.items() for context, _ in row]
        self._only_count = next(iter(decodes)) if len(decodes) == 1 else 0
        self._decodes = _table(decodes)
        self._chunks = _table(chunks)
        self._longest = max(chunks, default=0)

    @property
    def times_decodes(self) -> bool:
        """Whether there are rows of decodes."""
        return self._decodes is not None

    @property
    def times_chunks(self) -> bool:
        """Whether there are rows of prompt chunks."""
        return self._chunks is not None

    def decode_ns(self, shape: BatchShape) -> tuple[float, bool]:
        """Return the time of the decodes of a batch, and whether it lies within the table.

        Where all rows have the same number of sequences, a batch is timed by how many keys it reads altogether.
        """
        assert self._decodes is not None
        count, keys = shape.num_decodes, shape.decode_kv_tokens
        if not count:
            return 0.0, True
        inside = self._decodes.covers(count, keys / count)
        count = self._only_count or count
        return self._decodes.at(count, keys / count), inside

    def chunk_ns(self, chunk: Chunk) -> tuple[float, bool]:
        """Return the time of a prompt chunk, and whether it lies within the table.

        Beyond the longest chunk the time grows with the (query, key) pairs.
        """
        assert self._chunks is not None
        tokens, context = chunk
        if tokens <= self._longest:
            return self._chunks.at(tokens, context), self._chunks.covers(tokens, context)
        growth = _pairs(tokens, context) / _pairs(self._longest, context)
        return self._chunks.at(self._longest, context) * growth, False


def _kv(row: OperatorRow, path: Path) -> int:
    """Return the KV length of a row of attention."""
    sequences = row.sequences or 1
    if sequences not in (1, row.tokens):
        raise ProfileError(
            f"{path}:{row.line}: {row.operator}: expected decodes (as many tokens as sequences) or one prompt chunk "
            f"(1 sequence), got {row.tokens} tokens of {sequences} sequences"
        )
    least = row.tokens // sequences
    if row.kv is None or row.kv < least:
        raise ProfileError(
            f"{path}:{row.line}: {row.operator}: expected a kv of at least {least}, because the KV length of a "
            f"sequence counts its new tokens, got {row.kv or 'none'}"
        )
    return row.kv


def _table(points: dict[int, list[tuple[int, float]]]) -> DecodeTable | None:
    if not points:
        return None
    columns = {key: sorted(found) for key, found in points.items()}
    return DecodeTable({key: ([x for x, _ in found], [t for _, t in found]) for key, found in columns.items()})


def _pairs(tokens: int, context: int) -> int:
    """(query, key) pairs of a chunk under causal attention."""
    return tokens * context + tokens * (tokens + 1) // 2
