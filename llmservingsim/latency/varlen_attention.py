"""Attention of batches that hold a prompt chunk: one variable-length kernel for prefills and decodes together.

Such a batch does not cost the sum of its parts. FlashAttention's variable-length kernel launches a grid of
``(row blocks of the longest chunk) x (sequences) x (heads)`` tiles of 64 query rows. A tile of a decode has one
row and reads its whole context like any other, without the grouped-query packing and the splits of the
decode-only kernel, and tiles beyond the end of a shorter sequence still cost their launch. So the time is written as

    t = w . (1, launched tiles, active tiles, context summed over active tiles, longest context)

with non-negative weights ``w`` fitted to all measured mixed batches, times a ratio *measured / model* that is
interpolated between the measured points over the logarithms of (chunk, its context, decodes, their KV). The model
carries the shape, including several chunks in one batch and uneven decodes, which no grid holds; the ratio carries
what the model leaves out. At a measured point the result is the measurement.

Source of the tile counts: flash-attention 2, ``flash_fwd_kernel`` launch grid (kBlockM = 64 at head size 128).
"""

from __future__ import annotations

import math

import numpy as np

from llmservingsim.latency.tiles import TILE_ROWS, Array, LogGrid, non_negative_fit, own_context
from llmservingsim.shapes import BatchShape, Chunk

GAP_ORDER = (1, 3, 0, 2)
"""Axes along which gaps of the grid are filled: the chunk's context first, which the tiles that walk through it carry
nearly whole, so that the ratio hardly bends along it; then the decodes' KV, the chunk, and the number of decodes, along
which waves of tiles fill the device."""


class VarlenAttention:
    """Times batches with at least one prompt chunk.

    Args:
        rows: Measured points, shape ``[points, 5]``: chunk, its context, decodes, KV of each, time. Every chunk > 0.
    """

    def __init__(self, rows: Array) -> None:
        features = _grid_features(rows)
        self._weights: list[float] = non_negative_fit(features / rows[:, 4:5]).tolist()
        ratio = np.log(rows[:, 4] / (features @ np.array(self._weights)))
        self._log_ratio = LogGrid(rows[:, :4], ratio, GAP_ORDER)
        self._measured_second_tile = any(TILE_ROWS < chunk < 2 * TILE_ROWS for chunk in self._log_ratio.axes[0])

    def covers(self, shape: BatchShape) -> bool:
        """Whether the batch's corner values lie within the measured grid."""
        return self._log_ratio.covers(self._anchor(shape))

    def at(self, shape: BatchShape) -> float:
        """Return the time of a batch."""
        model = sum(w * f for w, f in zip(self._weights, _batch_features(shape), strict=True))
        return model * math.exp(self._log_ratio.at(self._anchor(shape)))

    def of_verification(self, shape: BatchShape) -> float:
        """Return the time of a batch of decodes that verify drafts.

        More than one query per sequence takes this kernel in FlashAttention 2, which packs query heads and splits
        contexts for single queries only. A tile has room for the few rows of a verification, so each is what a decode
        is in a mixed batch; the longest stands for the chunk that such a batch has.
        """
        rows = -(-shape.draft_pairs // shape.decode_kv_tokens) + 1
        smallest = int(self._log_ratio.axes[0][0])
        if rows > TILE_ROWS:
            mean = shape.decode_kv_tokens // shape.num_decodes
            chunks = (Chunk(rows, max(0, mean - rows)),) * shape.num_decodes
            return self.at(BatchShape(chunks, 0, 0, 0, shape.num_tokens))
        rows = min(max(rows, smallest), TILE_ROWS)
        longest = shape.max_decode_kv_tokens
        others, others_kv = shape.num_decodes - 1, shape.decode_kv_tokens - longest
        chunk = Chunk(rows, max(0, longest - rows))
        return self.at(BatchShape((chunk,), others, others_kv, longest if others else 0, shape.num_tokens))

    def _anchor(self, shape: BatchShape) -> tuple[float, float, float, float]:
        """Return the grid point that stands for a batch: its most expensive chunk, and the mean of its decodes.

        Where nothing was measured between one tile and two, a chunk that needs the second takes the ratio of two full
        ones. On bundles that have such points this brings the error of leaving them out from 5.8 to 1.7 %.
        """
        query, context = max(shape.prefills, key=own_context) if len(shape.prefills) > 1 else shape.prefills[0]
        if TILE_ROWS < query < 2 * TILE_ROWS and not self._measured_second_tile:
            query = 2 * TILE_ROWS
        mean_kv = shape.decode_kv_tokens / shape.num_decodes if shape.num_decodes else 0.0
        return query, context, shape.num_decodes, mean_kv


def _batch_features(shape: BatchShape) -> tuple[float, float, float, float, float]:
    """Return (1, launched tiles, active tiles, summed context, longest context), all per head."""
    active = float(shape.num_decodes)
    context_sum = float(shape.decode_kv_tokens)
    longest = shape.max_decode_kv_tokens
    most_blocks = 0
    for chunk in shape.prefills:
        blocks = -(-chunk.query_len // TILE_ROWS)
        most_blocks = max(most_blocks, blocks)
        active += blocks
        context_sum += own_context(chunk)
        longest = max(longest, chunk.context_len + chunk.query_len)
    return 1.0, most_blocks * (shape.num_decodes + len(shape.prefills)), active, context_sum, longest


def _grid_features(rows: Array) -> Array:
    """`_batch_features` of measured points, shape ``[points, 5]``."""
    query, context, decodes, kv = rows[:, :4].T
    blocks = np.ceil(query / TILE_ROWS)
    own = blocks * context + np.maximum(query, query * (query + TILE_ROWS) / (2 * TILE_ROWS))
    longest = np.maximum(context + query, np.where(decodes > 0, kv, 0))
    ones = np.ones(len(rows))
    return np.stack([ones, blocks * (1 + decodes), blocks + decodes, own + decodes * kv, longest], axis=1)
