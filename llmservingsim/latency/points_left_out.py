"""How well attention predicts points that it has not seen: each left out in turn, or a whole context length at once.

Decodes are left out one by one. For batches with prompt chunks that would fit the model anew 19,000 times, so points
are left out together that are never neighbours along an axis: a point of the grid at ``(i, j, k, l)`` belongs to fold
``(i + 2 j + 3 k + 5 l) mod 11``. All neighbours of a point then stay, as if it were the only one to go, and the weights
of the model see ten elevenths of the points.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from llmservingsim.latency.bundle import KEY_BLOCK
from llmservingsim.latency.tables import DecodeTable
from llmservingsim.latency.tiles import LogGrid
from llmservingsim.latency.uneven import LONGEST, Even, UnevenBatches, made_even, uneven_shape
from llmservingsim.latency.varlen_attention import GAP_ORDER, VarlenAttention
from llmservingsim.shapes import BatchShape, Chunk

Floats = NDArray[np.float64]

FOLDS = 11
_STEPS = np.array([1, 2, 3, 5])
_FEW = 20


def decode_errors(rows: Floats) -> Floats:
    """Relative errors of decode batches, each predicted from all others.

    Args:
        rows: Sequences, KV length, time; shape ``[points, 3]``.

    Returns:
        Of the table, and of plain bilinear interpolation; shape ``[points, 2]``.
    """
    errors = []
    for row, (count, kv, time_us) in enumerate(rows.tolist()):
        others = np.delete(rows, row, axis=0).tolist()
        errors.append([DecodeTable.of_points(others, step).at(count, kv) / time_us - 1 for step in (KEY_BLOCK, 0)])
    return np.array(errors)


def mixed_errors(rows: Floats, folds: Iterable[int] = range(FOLDS)) -> Floats:
    """Relative errors of batches with a prompt chunk, each predicted without it and with all its neighbours.

    Args:
        rows: Of ``attention.csv``, shape ``[points, 5]``, every chunk > 0.
        folds: Which of the folds to leave out, one after the other.

    Returns:
        Of the model, and of plain multilinear interpolation in the same grid; shape ``[points left out, 2]``.
    """
    places = [np.unique(axis, return_inverse=True)[1].ravel() for axis in rows[:, :4].T]
    fold = (_STEPS @ np.array(places)) % FOLDS
    errors = []
    for number in folds:
        out = fold == number
        kept = rows[~out]
        model = VarlenAttention(kept)
        grid = LogGrid(kept[:, :4], kept[:, 4], GAP_ORDER, is_logarithmic=False)
        errors += [(model.at(_shape(row)) / row[4] - 1, grid.at(row[:4].tolist()) / row[4] - 1) for row in rows[out]]
    return np.array(errors)


def uneven_errors(rows: Floats, even: Even) -> dict[int, Floats]:
    """Relative errors of uneven batches whose longest context was held out of the fit.

    Args:
        rows: Of ``skew.csv``, as `read_uneven` returns them, with or without prompt chunks.
        even: Time of a batch whose decodes are equal.

    Returns:
        Longest context -> errors of its rows; contexts of a few rows are not held out.
    """
    shapes = [uneven_shape(row) for row in rows]
    scale = np.median([even(made_even(shape)) for shape in shapes] / rows[:, -2])
    lengths, counts = np.unique(rows[:, LONGEST], return_counts=True)
    errors = {}
    for length in lengths[counts > min(_FEW, counts.max() / 2)].tolist():
        out = rows[:, LONGEST] == length
        model = UnevenBatches(rows[~out], even)
        predicted = np.array([model.at(shapes[row]) for row in np.flatnonzero(out)])
        errors[int(length)] = predicted / (scale * rows[out, -1]) - 1
    return errors


def _shape(row: Floats) -> BatchShape:
    query, context, count, kv = (int(value) for value in row[:4])
    return BatchShape((Chunk(query, context),), count, count * kv, kv if count else 0, query + count)
