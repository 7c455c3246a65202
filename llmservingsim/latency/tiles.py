"""Tiles of attention kernels, and ratios to a model of them that are interpolated between measured points."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from llmservingsim.shapes import Chunk

TILE_ROWS = 64
_FLOOR = 8.0  # contexts below this are alike to a kernel; keeps the logarithm finite at 0

Array = NDArray[np.float64]


class LogGrid:
    """Values at scattered points of a grid, interpolated linearly over the logarithms of the coordinates.

    Gaps are filled along the axes; beyond the grid the nearest value holds.

    Args:
        points: Shape ``[points, axes]``.
        values: Shape ``[points]``.
        order: Axes along which gaps are filled, the first one first.
        is_logarithmic: Whether logarithms count, instead of the coordinates themselves.
    """

    def __init__(self, points: Array, values: Array, order: Sequence[int], *, is_logarithmic: bool = True) -> None:
        self._position: Callable[[float], float] = _log if is_logarithmic else float
        self.axes, tensor = _tensor(points, values, order, self._position)
        self._is_logarithmic = is_logarithmic
        self._positions = [[self._position(v) for v in axis] for axis in self.axes]
        self._strides = [math.prod(tensor.shape[i + 1 :]) for i in range(tensor.ndim)]
        self._values: list[float] = tensor.ravel().tolist()

    def covers(self, point: Sequence[float]) -> bool:
        """Whether a point lies within the grid."""
        return all(axis[0] <= v <= axis[-1] for axis, v in zip(self.axes, point, strict=True))

    def at(self, point: Sequence[float]) -> float:
        """Interpolate between the corners of the cell around a point."""
        corners = [(0, 1.0)]
        for axis, stride, value in zip(self._positions, self._strides, point, strict=True):
            position = self._position(value)
            low = max(0, min(bisect_right(axis, position), len(axis) - 1) - 1)
            share = min(1.0, max(0.0, (position - axis[low]) / (axis[low + 1] - axis[low]))) if len(axis) > 1 else 0.0
            below = [(index + low * stride, weight * (1.0 - share)) for index, weight in corners if share < 1.0]
            above = [(index + (low + 1) * stride, weight * share) for index, weight in corners if share > 0.0]
            corners = below + above
        values = self._values
        return sum(weight * values[index] for index, weight in corners)

    def at_each(self, points: Array) -> Array:
        """Interpolate at many points, shape ``[points, axes]``: what `at` says of each."""
        places = np.log2(points + _FLOOR) if self._is_logarithmic else points
        index, weight = np.zeros((1, len(points)), dtype=np.intp), np.ones((1, len(points)))
        for axis, stride, place in zip(self._positions, self._strides, places.T, strict=True):
            if len(axis) == 1:
                continue
            known = np.array(axis)
            low = np.clip(np.searchsorted(known, place, side="right") - 1, 0, len(axis) - 2)
            share = np.clip((place - known[low]) / (known[low + 1] - known[low]), 0.0, 1.0)
            index = np.concatenate([index + low * stride, index + (low + 1) * stride])
            weight = np.concatenate([weight * (1.0 - share), weight * share])
        return np.asarray((weight * np.array(self._values)[index]).sum(axis=0))


def own_context(chunk: Chunk) -> float:
    """Context summed over the tiles of a chunk: each walks through what came before and its own diagonal."""
    query, context = chunk
    blocks = -(-query // TILE_ROWS)
    return blocks * context + max(query, query * (query + TILE_ROWS) / (2 * TILE_ROWS))


def non_negative_fit(scaled: Array) -> Array:
    """Fit weights >= 0 so that ``scaled @ weights`` is near 1, dropping the most negative weight until none is left."""
    kept = list(range(scaled.shape[1]))
    target = np.ones(len(scaled))
    while True:
        weights = np.linalg.lstsq(scaled[:, kept], target, rcond=None)[0]
        if (weights >= 0).all():
            full = np.zeros(scaled.shape[1])
            full[kept] = weights
            return full
        del kept[int(np.argmin(weights))]


def _log(value: float) -> float:
    return math.log2(value + _FLOOR)


def _tensor(
    points: Array, values: Array, order: Sequence[int], position: Callable[[float], float]
) -> tuple[list[list[float]], Array]:
    """Lay scattered grid points into a full tensor over the union of their coordinates; fill the gaps."""
    axes = [np.unique(points[:, i]) for i in range(points.shape[1])]
    tensor = np.full([len(a) for a in axes], np.nan)
    tensor[tuple(np.searchsorted(axis, points[:, i]) for i, axis in enumerate(axes))] = values
    for spread in (False, True):
        for _ in order:
            for axis in order:
                _fill(tensor, axis, np.array([position(v) for v in axes[axis]]), nearest=spread)
            if not np.isnan(tensor).any():
                break
    return [a.tolist() for a in axes], tensor


def _fill(tensor: Array, axis: int, positions: Sequence[float] | Array, *, nearest: bool) -> None:
    """Fill gaps between known values along one axis linearly; with ``nearest`` also those beyond the last one."""
    values = np.moveaxis(tensor, axis, -1)
    known = ~np.isnan(values)
    count = values.shape[-1]
    index = np.arange(count)
    low = np.maximum.accumulate(np.where(known, index, -1), axis=-1)
    high = np.minimum.accumulate(np.where(known, index, count)[..., ::-1], axis=-1)[..., ::-1]
    if nearest:
        low, high = np.where(low < 0, high, low), np.where(high == count, low, high)
    usable = (low >= 0) & (high < count) & ~known
    below, above = np.clip(low, 0, count - 1), np.clip(high, 0, count - 1)
    where = np.asarray(positions)
    span = where[above] - where[below]
    share = np.divide(where[index] - where[below], span, out=np.zeros_like(span), where=span > 0)
    low_value, high_value = (np.take_along_axis(values, i, axis=-1) for i in (below, above))
    values[usable] = (low_value + share * (high_value - low_value))[usable]
