"""Uneven batches as the profiler measured them: a table of ratios over ``skew.csv``.

`SkewModel` bounds a batch by its longest context, which is what measured servers show. The rows of ``skew.csv`` cost
more than that: in them the long contexts stand last, so that they start when the others end. This table says what
such a batch takes:

    t = (t_even + tau * excess) * ratio

``t_even`` is the time of the batch with all decodes at their mean context. ``excess`` is by how much the longest walk
through keys is longer than in the even batch, where a prompt chunk that sees more keys than any decode hides it;
``tau``, the pace of that walk, is fitted by least squares of relative errors (0 for decodes alone). The ratio is
interpolated over (longest context, decodes, longest / mean), and beside prompt chunks over the keys that the chunk
sees; it is 1 where all contexts are equal, and holds beyond the most uneven batch that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmservingsim.csv_rows import NumberTable
from llmservingsim.errors import ProfileError
from llmservingsim.latency.tiles import LogGrid
from llmservingsim.shapes import BatchShape, Chunk

Floats = NDArray[np.float64]
Even = Callable[[BatchShape], float]

_COLUMNS = ("pc", "kp", "n", "nb", "kvs", "kv_big", "t_mean_us", "t_skew_us")
LONGEST = _COLUMNS.index("kv_big")
"""Column of the rows that holds the longest context."""


def read_uneven(path: Path) -> Floats:
    """Read ``skew.csv``, shape ``[rows, 8]``: chunk, its context, decodes, long ones, KV of short and long ones, times.

    Raises:
        ProfileError: If the file is missing or malformed.
    """
    table = NumberTable(path, _COLUMNS, ends_its_lines=True)
    rows = np.stack([table.numbers(name) for name in _COLUMNS], axis=1)
    for row in np.flatnonzero(~(rows[:, 2:] > 0).all(axis=1)).tolist():
        raise table.error(row, "n", "expected decodes, KV lengths and times greater than 0")
    return rows


def uneven_shape(row: Floats) -> BatchShape:
    """Return the batch of a row."""
    chunk, context, count, long, kv, longest = (int(value) for value in row[:6])
    prefills = (Chunk(chunk, context),) if chunk else ()
    return BatchShape(prefills, count, (count - long) * kv + long * longest, longest, count + chunk)


class UnevenBatches:
    """Times batches of uneven decodes.

    Args:
        rows: As `read_uneven` returns them.
        even: Time of a batch whose decodes are equal, in us.
    """

    def __init__(self, rows: Floats, even: Even) -> None:
        self._even = even
        is_mixed = rows[:, 0] > 0
        self._kinds = [_Ratios(kind, even) if len(kind) else None for kind in (rows[~is_mixed], rows[is_mixed])]

    def at(self, shape: BatchShape) -> float:
        """Return the time of a batch in us."""
        ratios = self._kinds[bool(shape.prefills)]
        if not shape.num_decodes or ratios is None:
            return self._even(shape)
        return ratios.at(shape, self._even(made_even(shape)))


class _Ratios:
    """Of batches with prompt chunks, or of those without."""

    def __init__(self, rows: Floats, even: Even) -> None:
        shapes = [uneven_shape(row) for row in rows]
        base = np.array([even(made_even(shape)) for shape in shapes])
        times = rows[:, -1] * np.median(base / rows[:, -2])  # the rows may be sums over repetitions
        excess = np.array([_excess(shape) for shape in shapes])
        scaled = excess / times
        self._pace = max(0.0, float(scaled @ (1 - base / times) / (scaled @ scaled))) if scaled.any() else 0.0
        ratio = np.log(times / (base + self._pace * excess))
        places, place = np.unique(np.array([_place(shape) for shape in shapes]), axis=0, return_inverse=True)
        ratio = np.bincount(place.ravel(), ratio) / np.bincount(place.ravel())
        even_places = np.unique(np.column_stack([places[:, :2], np.ones(len(places)), places[:, 3:]]), axis=0)
        points = np.concatenate([places, even_places])
        order = (0, 3, 1, 2) if points.shape[1] > 3 else (0, 1, 2)
        self._log_ratio = LogGrid(points, np.concatenate([ratio, np.zeros(len(even_places))]), order)

    def at(self, shape: BatchShape, even_us: float) -> float:
        return (even_us + self._pace * _excess(shape)) * math.exp(self._log_ratio.at(_place(shape)))


def made_even(shape: BatchShape) -> BatchShape:
    """Return the batch with all decodes at their mean context."""
    return shape._replace(max_decode_kv_tokens=-(-shape.decode_kv_tokens // shape.num_decodes))


def _seen(shape: BatchShape) -> int:
    """Keys that the last token of the deepest chunk sees."""
    return max(chunk.context_len + chunk.query_len for chunk in shape.prefills)


def _excess(shape: BatchShape) -> float:
    if not shape.prefills:
        return 0.0
    seen = _seen(shape)
    return max(shape.max_decode_kv_tokens, seen) - max(shape.decode_kv_tokens / shape.num_decodes, seen)


def _place(shape: BatchShape) -> tuple[float, ...]:
    unevenness = round(shape.max_decode_kv_tokens * shape.num_decodes / shape.decode_kv_tokens, 2)
    chunk = (float(_seen(shape)),) if shape.prefills else ()
    return float(shape.max_decode_kv_tokens), float(shape.num_decodes), unevenness, *chunk


def load_uneven(path: Path, even: Even) -> UnevenBatches:
    """Read ``skew.csv`` and fit to it.

    Raises:
        ProfileError: If the file is missing, malformed or without a row of decodes alone.
    """
    rows = read_uneven(path)
    if not (rows[:, 0] == 0).any():
        raise ProfileError(f"{path}: holds no batch of decodes alone (a row with pc 0)")
    return UnevenBatches(rows, even)
