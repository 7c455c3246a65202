"""Energy as a function of time, exact for power that is constant between some instants."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.units import NS_PER_S

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Curve(NamedTuple):
    """Joules spent until each instant; linear between them, so the power there is constant.

    Attributes:
        times_ns: Instants, rising from 0, shape ``[instants]``.
        joules: Spent until then, shape ``[instants]``.
    """

    times_ns: Floats
    joules: Floats

    def until(self, times_ns: Floats | Ints) -> Floats:
        """Return what was spent until each of some times."""
        return np.interp(times_ns, self.times_ns, self.joules)

    @property
    def total_j(self) -> float:
        """What was spent until the end."""
        return float(self.joules[-1])

    @staticmethod
    def of(times_ns: Floats | Ints, watts: Floats) -> Curve:
        """Integrate power that is ``watts[i]`` from ``times_ns[i]`` to ``times_ns[i + 1]``."""
        times = np.asarray(times_ns, dtype=np.float64)
        spent = watts * np.diff(times) / NS_PER_S
        return Curve(times, np.concatenate([[0.0], np.cumsum(spent)]))

    @staticmethod
    def constant(watts: float, end_ns: int) -> Curve:
        """Return the energy of power that never changes."""
        return Curve.of(np.array([0.0, end_ns]), np.array([watts]))

    @staticmethod
    def of_spans(begin_ns: Ints, end_ns: Ints, joules: Floats, last_ns: int) -> Curve:
        """Return the energy of spans that do not overlap, in order, each of which spends its part evenly.

        What spans of no length spend is spread over the whole time, up to ``last_ns``.
        """
        has_length = end_ns > begin_ns
        spread = float(joules[~has_length].sum())
        begin, end, part = begin_ns[has_length], end_ns[has_length], joules[has_length]
        times = np.concatenate([[0.0], np.column_stack([begin, end]).ravel(), [last_ns]])
        spent = np.column_stack([np.zeros(len(part)), part]).ravel()
        cumulated = np.cumsum(np.concatenate([[0.0], spent, [0.0]]))
        return Curve(times, cumulated + (spread * times / last_ns if last_ns else 0.0))
