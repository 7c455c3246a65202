"""Attention of batches with prompt chunks, for a model with heads that nobody measured.

The tiles of `llmservingsim.latency.varlen_attention` count per head. Over the heads of several bundles

    t = w . (1, launched tiles * h, active tiles * h, context of tiles * h * d / 128, longest context * d / 128) * ratio

with h query heads of size d per rank and weights w that are not negative, fitted to the rows of all bundles. Launched
tiles count where mixed batches were measured; elsewhere they are the active ones. The ratio *measured / model* is
interpolated over the logarithms of h and of the coordinates that the rows have: (chunk, its context, decodes, their KV)
where batches were measured mixed, (number of chunks, chunk) where prompt chunks were measured alone. There a decode of
a mixed batch adds tiles, or a kernel of its own, as `KernelAttention` says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.latency.tiles import TILE_ROWS, LogGrid, non_negative_fit, own_context
from llmservingsim.model import ParallelLayout
from llmservingsim.model.weights import kv_heads_per_rank
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.units import NS_PER_S, NS_PER_US

Floats = NDArray[np.float64]

_USUAL_HEAD = 128.0
_MIXED_COLUMNS = 5


class Heads(NamedTuple):
    """Attention heads of one rank.

    Attributes:
        query, kv: How many.
        size: Elements of one.
        window: Keys that a query sees at most, None for all.
    """

    query: int
    kv: int
    size: int
    window: int | None = None

    @classmethod
    def of(cls, model: ModelSpec, layout: ParallelLayout, attention: str = "attention") -> Heads:
        """Return those of one rank of a model, with the window of one of its attentions."""
        kv = kv_heads_per_rank(model, layout.tp)
        return cls(model.num_heads // layout.tp, kv, model.head_dim, model.window_of(attention))


class ChunkRows(NamedTuple):
    """Measured batches with prompt chunks of one number of heads.

    Attributes:
        heads: Of the rank.
        rows: As in ``attention.csv`` (chunk, context, decodes, KV, us) or in ``prefills.csv`` (chunks, chunk, context,
            us).
        tiles_per_decode: That a decode adds to a mixed batch, per query head; 0 if it has a kernel of its own.
        owners: Models whose bundles have these rows.
    """

    heads: Heads
    rows: Floats
    tiles_per_decode: float
    owners: frozenset[str] = frozenset()

    @property
    def is_mixed(self) -> bool:
        """Whether chunks were measured beside decodes."""
        return int(self.rows.shape[1]) == _MIXED_COLUMNS

    @property
    def seconds(self) -> Floats:
        """What the batches took."""
        return np.asarray(self.rows[:, -1] * NS_PER_US / NS_PER_S)


class TileAttention:
    """Times batches with at least one prompt chunk, in seconds.

    Where some bundles measured mixed batches and others did not, the former alone are taken.

    Args:
        tables: Measured batches, at least one table.
    """

    def __init__(self, tables: Sequence[ChunkRows]) -> None:
        self.is_mixed = any(table.is_mixed for table in tables)
        self.tables = [table for table in tables if table.is_mixed == self.is_mixed]
        features = np.concatenate([self._features(table) for table in self.tables])
        times = np.concatenate([table.seconds for table in self.tables])
        self.weights: list[float] = non_negative_fit(features / times[:, None]).tolist()
        ratios = np.log(times / (features @ np.array(self.weights)))
        places = np.concatenate([self._places(table) for table in self.tables])
        if not self.is_mixed:
            is_first = places[:, -1] == places[:, -1].min()
            places, ratios = places[is_first, :3], ratios[is_first]
        self._ratio = mean_grid(places, ratios, (0, 4, 2, 1, 3) if self.is_mixed else (0, 1, 2))
        self._packs = any(0 < table.tiles_per_decode < 1 for table in self.tables)
        self._has_own_kernel = not any(table.tiles_per_decode for table in self.tables)

    def seconds(self, heads: Heads, shape: BatchShape) -> float:
        """Return the time of a batch; with `has_own_kernel` that of its prompt chunks alone."""
        chunks = _seen(shape.prefills, heads.window)
        count, keys = shape.num_decodes, _keys(shape, heads.window)
        per_decode = self.tiles_per_decode(heads)
        beside = (count * per_decode, keys * per_decode, shape.max_decode_kv_tokens if per_decode else 0)
        model = sum(w * f for w, f in zip(self.weights, self._of_batch(heads, chunks, beside), strict=True))
        return model * math.exp(self._ratio.at(self._place(heads, chunks, count, keys)))

    @property
    def has_own_kernel(self) -> bool:
        """Whether decodes of a mixed batch run in a kernel of their own, before or after that of the chunks."""
        return bool(self._has_own_kernel)

    def tiles_per_decode(self, heads: Heads) -> float:
        """Tiles that a decode adds to a mixed batch, per query head."""
        if self._has_own_kernel:
            return 0.0
        return heads.kv / heads.query if self._packs else 1.0

    def predicted(self, table: ChunkRows) -> Floats:
        """Return the times of measured batches, seconds."""
        places = self._places(table)[:, : None if self.is_mixed else 3]
        return np.asarray(self._features(table) @ np.array(self.weights) * np.exp(self._ratio.at_each(places)))

    def _place(self, heads: Heads, chunks: Sequence[Chunk], decodes: int, keys: float) -> tuple[float, ...]:
        works = [own_context(chunk) for chunk in chunks]
        most = max(range(len(chunks)), key=works.__getitem__)
        if not self.is_mixed:
            return heads.query, sum(works) / works[most], chunks[most].query_len
        return heads.query, *chunks[most], decodes, keys / decodes if decodes else 0.0

    def _places(self, table: ChunkRows) -> Floats:
        """Coordinates of measured batches; the last column of chunks measured alone is their context."""
        return np.column_stack([np.full(len(table.rows), table.heads.query), table.rows[:, :-1]])

    def _of_batch(self, heads: Heads, chunks: Sequence[Chunk], beside: tuple[float, float, float]) -> Sequence[float]:
        """Features of a batch; ``beside`` are tiles, context and longest of its decodes, 0 if these are elsewhere."""
        decode_tiles, decode_keys, longest_decode = beside
        blocks = [-(-chunk.query_len // TILE_ROWS) for chunk in chunks]
        launched = max(blocks) * (len(chunks) + decode_tiles) * self.is_mixed
        context = sum(own_context(chunk) for chunk in chunks) + decode_keys
        longest = max(longest_decode, *(chunk.context_len + chunk.query_len for chunk in chunks))
        return _scaled(heads, launched, sum(blocks) + decode_tiles, context, longest)

    def _features(self, table: ChunkRows) -> Floats:
        rows, heads = table.rows, table.heads
        if self.is_mixed:
            query, context, decodes, kv = rows[:, :4].T
            count = np.ones_like(query)
        else:
            count, query, context = rows[:, :3].T
            decodes = kv = np.zeros_like(query)
        blocks = np.ceil(query / TILE_ROWS)
        launched = blocks * (count + decodes) * self.is_mixed
        own = blocks * context + np.maximum(query, query * (query + TILE_ROWS) / (2 * TILE_ROWS))
        longest = np.maximum(context + query, np.where(decodes > 0, kv, 0))
        return np.stack(
            _scaled(heads, launched, count * blocks + decodes, count * own + decodes * kv, longest),
            axis=1,
        )


def mean_grid(places: Floats, values: Floats, order: Sequence[int]) -> LogGrid:
    """Return a grid of the means of values at equal places; gaps are filled along the first axis of ``order`` first."""
    distinct, which = np.unique(places, axis=0, return_inverse=True)
    means = np.bincount(which.ravel(), values) / np.bincount(which.ravel())
    return LogGrid(distinct, means, order)


def _scaled(heads: Heads, launched: Any, active: Any, context: Any, longest: Any) -> Sequence[Any]:
    """Put heads to the features of one of them, which are numbers or arrays."""
    count, width = heads.query, heads.size / _USUAL_HEAD
    ones = launched * 0 + 1.0
    return ones, launched * count, active * count, context * count * width, longest * width


def _seen(chunks: Sequence[Chunk], window: int | None) -> Sequence[Chunk]:
    """Leave out the context that a window hides from every query of a chunk."""
    if window is None:
        return chunks
    return [chunk._replace(context_len=min(chunk.context_len, window)) for chunk in chunks]


def _keys(shape: BatchShape, window: int | None) -> float:
    keys = shape.decode_kv_tokens
    return keys if window is None else min(keys, shape.num_decodes * window)
