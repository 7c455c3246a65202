"""Least squares of relative errors over a few positive figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 40
_ENOUGH = 1e-7
_NUDGE = 1e-5
_FARTHEST = 2.0
SCATTER = 0.05
"""Relative scatter of a measured time."""
DOUBT = 1.1
"""How far a figure may lie from its start before that needs evidence: a factor of e^1.1 = 3 either way."""


def fit_positive(predict: Callable[[Floats], Floats], start: Sequence[float], measured: Floats) -> Floats:
    """Return the positive figures with which ``predict`` comes closest to what was measured.

    Minimises, over the logarithms of the figures,

        sum (log(predicted / measured) / SCATTER)^2 + sum (log(figure / start) / DOUBT)^2

    The second sum keeps a figure near its start where nothing measured depends on it; thousands of points outweigh it.
    Levenberg and Marquardt's method (Marquardt, SIAM J. Appl. Math. 11(2), 1963), with differences for derivatives.

    Args:
        predict: Of all figures at once, shape ``[figures]``, all predictions, shape ``[points]``.
        start: Likely figures, greater than 0.
        measured: Greater than 0, shape ``[points]``.
    """
    origin = np.log(np.asarray(start, dtype=np.float64))
    target = np.log(measured)

    def residuals(place: Floats) -> Floats:
        off = (np.log(predict(np.exp(place))) - target) / SCATTER
        return np.concatenate([off, (place - origin) / DOUBT])

    place, damping = origin, 1e-2
    here = residuals(place)
    for _ in range(_STEPS):
        slopes = np.stack([(residuals(place + nudge) - here) / _NUDGE for nudge in _NUDGE * np.eye(len(place))], axis=1)
        step, there, damping = _downhill(residuals, (place, here, slopes), damping)
        before, after = float(here @ here), float(there @ there)
        place, here = place + step, there
        if before - after <= _ENOUGH * before:
            break
    return np.asarray(np.exp(place))


def _downhill(
    residuals: Callable[[Floats], Floats], at: tuple[Floats, Floats, Floats], damping: float
) -> tuple[Floats, Floats, float]:
    """Return a step that lowers the sum of squares, the residuals there and the next damping; 0 if there is none."""
    place, here, slopes = at
    curvature, gradient = slopes.T @ slopes, slopes.T @ here
    for _ in range(10):
        damped = curvature + damping * np.diag(np.diag(curvature))
        step = np.clip(np.linalg.solve(damped, -gradient), -_FARTHEST, _FARTHEST)
        there = residuals(place + step)
        if there @ there < here @ here:
            return step, there, max(damping / 4, 1e-9)
        damping *= 4
    return np.zeros_like(place), here, damping
