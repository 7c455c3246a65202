"""Rows of measured kernels: one time for each shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fastest(columns: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Stack columns, the last of which is a time, and keep the fastest row of each shape, in the order of the shapes.

    A database may hold several kernels for the same shape, between which an engine chooses; TensorRT-LLM's for few
    tokens and for many differ by up to four times. Shape ``[shapes, columns]``.
    """
    rows = np.stack(columns, axis=1).astype(np.float64)
    shapes, where = np.unique(rows[:, :-1], axis=0, return_inverse=True)
    times = np.full(len(shapes), np.inf)
    np.minimum.at(times, where.ravel(), rows[:, -1])
    return np.column_stack([shapes, times])
