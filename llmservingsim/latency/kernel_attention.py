"""Attention from kernels that were measured on batches of equal prompt chunks, and of equal decodes, apart.

Prompt chunks are timed by a model of tiles of 64 query rows times a ratio *measured / model*:

    t = w . (1, active tiles, context summed over active tiles, longest context)

with non-negative weights ``w`` fitted to all measured batches. The ratio is interpolated over the logarithms of (number
of chunks, chunk, its context). The model carries what the grid does not hold: unequal chunks, several where only one
was measured, and chunks behind a context, which are rarely measured. Where chunks differ, the most expensive one picks
the place, with as many of its kind as do the work of all.

What a mixed batch costs depends on the engine's kernels, which the database names:

- *separate* (FlashInfer, TensorRT-LLM's): chunks and decodes run in kernels of their own, one after another.
- *unpacked* (FlashAttention 2): one kernel for variable lengths, in which a decode is a tile per query head that
  walks through the whole context, without the packing and splitting of the decode-only kernel.
- *packed* (FlashAttention 3): the same, but the query heads that share keys are rows of one tile whenever lengths vary
  (``should_pack_gqa`` in hopper/heuristics.h), so a decode is a tile per key and value head.
"""

from __future__ import annotations

import math

import numpy as np

from llmservingsim.latency.tables import DecodeTable
from llmservingsim.latency.tiles import TILE_ROWS, Array, LogGrid, non_negative_fit, own_context
from llmservingsim.shapes import BatchShape, Chunk


class KernelAttention:
    """Times any batch.

    Args:
        prefills: Measured batches of equal chunks, shape ``[points, 4]``: chunks, their length, their context, time.
        decode: Times of batches of decodes alone.
        tiles_per_decode: In a mixed batch, relative to the query heads: 1 *unpacked*, one over the query heads per key
            head *packed*; 0 *separate*.
        window: How far chunks look back, None for all tokens; decodes were measured with theirs.
    """

    def __init__(
        self, prefills: Array, decode: DecodeTable, tiles_per_decode: float = 0.0, *, window: int | None = None
    ) -> None:
        self._tiles_per_decode = tiles_per_decode
        self._window = window
        features = np.array([_features_of_equal(*row) for row in prefills[:, :3].astype(int).tolist()])
        self._weights: list[float] = non_negative_fit(features / prefills[:, 3:4]).tolist()
        ratio = np.log(prefills[:, 3] / (features @ np.array(self._weights)))
        self._log_ratio = LogGrid(prefills[:, :3], ratio, order=(2, 0, 1))
        self._decode = decode

    def covers(self, shape: BatchShape) -> bool:
        """Whether the batch's chunks and mean decode lie within the measured grids."""
        if shape.prefills and not self._covers_chunks(_anchor(shape.prefills)):
            return False
        return not shape.num_decodes or self._decode.covers(shape.num_decodes, _mean_kv(shape))

    def _covers_chunks(self, anchor: tuple[float, float, float]) -> bool:
        """Where all chunks were measured behind the same context, the model is trusted with others."""
        contexts = self._log_ratio.axes[2]
        return self._log_ratio.covers(anchor if len(contexts) > 1 else (*anchor[:2], contexts[0]))

    def at(self, shape: BatchShape) -> float:
        """Return the time of a batch."""
        if not shape.prefills:
            return self._of_decodes(shape)
        prefills = self._of_prefills(shape.prefills)
        if not shape.num_decodes:
            return prefills
        if not self._tiles_per_decode:
            return prefills + self._of_decodes(shape)
        return max(self._of_decodes(shape), prefills + self._beside_prefills(shape))

    def _of_prefills(self, chunks: tuple[Chunk, ...]) -> float:
        if not chunks:
            return 0.0
        if self._window is not None:
            chunks = tuple(Chunk(chunk.query_len, min(chunk.context_len, self._window)) for chunk in chunks)
        model = sum(w * f for w, f in zip(self._weights, _features(chunks), strict=True))
        return model * math.exp(self._log_ratio.at(_anchor(chunks)))

    def _beside_prefills(self, shape: BatchShape) -> float:
        """What decodes add to a kernel that computes chunks."""
        _, per_tile, per_context, _ = self._weights
        tiles = self._tiles_per_decode * (shape.num_decodes * per_tile + shape.decode_kv_tokens * per_context)
        return tiles * math.exp(self._log_ratio.at(_anchor(shape.prefills)))

    def _of_decodes(self, shape: BatchShape) -> float:
        count = shape.num_decodes
        if not count:
            return 0.0
        decode = self._decode.at(count, _mean_kv(shape))
        if not shape.draft_pairs:
            return decode
        rows = -(-shape.draft_pairs // shape.decode_kv_tokens) + 1  # verified together: short chunks behind a context
        chunk = Chunk(rows, max(0, shape.decode_kv_tokens // count - rows))
        return max(decode, self._of_prefills((chunk,) * count))


def _mean_kv(shape: BatchShape) -> float:
    return shape.decode_kv_tokens / shape.num_decodes


def _features(chunks: tuple[Chunk, ...]) -> tuple[float, float, float, float]:
    """Return (1, active tiles, summed context, longest context), all per head."""
    tiles = float(sum(-(-chunk.query_len // TILE_ROWS) for chunk in chunks))
    context = sum(own_context(chunk) for chunk in chunks)
    return 1.0, tiles, context, float(max(chunk.context_len + chunk.query_len for chunk in chunks))


def _features_of_equal(count: int, query: int, context: int) -> tuple[float, float, float, float]:
    """The same of so many chunks of one kind."""
    one, tiles, summed, longest = _features((Chunk(query, context),))
    return one, count * tiles, count * summed, longest


def _anchor(chunks: tuple[Chunk, ...]) -> tuple[float, float, float]:
    if len(chunks) == 1:
        return 1.0, *chunks[0]
    works = [own_context(chunk) for chunk in chunks]
    most = max(range(len(chunks)), key=works.__getitem__)
    return sum(works) / works[most], *chunks[most]
