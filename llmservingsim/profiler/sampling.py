"""Repeats a measurement until its noise is small.

The value of an operator is the median over passes. Its noise is the standard error of that median over the median:
1.2533 sigma / sqrt(n) for normal errors (Kenney and Keeping, Mathematics of Statistics, 1962, section 7.7), with sigma
from the interquartile range (over 1.349), which outliers do not move.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Pass = Callable[[], Mapping[str, float]]
"""Runs once; returns the microseconds of each operator."""


class Effort(NamedTuple):
    """How long one shot may be repeated.

    Attributes:
        noise: Standard error of the summed median at which to stop, relative.
        least, most: Passes.
        seconds: After which no further pass begins, once there are three.
        warmup: Passes that are not counted.
    """

    noise: float = 0.01
    least: int = 7
    most: int = 200
    seconds: float = 2.0
    warmup: int = 2


class Samples(NamedTuple):
    """What the passes of one operator say, in microseconds.

    Attributes:
        median: The value.
        mean, low, high: Of all passes.
        spread: Interquartile range over the median.
        noise: Relative standard error of the median.
        passes: How many.
    """

    median: float
    mean: float
    low: float
    high: float
    spread: float
    noise: float
    passes: float

    @classmethod
    def of(cls, times: list[float]) -> Samples:
        """Summarise the times of all passes."""
        first, median, third = np.quantile(times, [0.25, 0.5, 0.75]).tolist()
        spread = (third - first) / median if median else 0.0
        noise = 1.2533 * spread / 1.349 / math.sqrt(len(times))
        return cls(median, float(np.mean(times)), min(times), max(times), spread, noise, len(times))


def measure(run_pass: Pass, effort: Effort) -> dict[str, Samples]:
    """Repeat a pass until the sum of its operators is known well enough, or the effort is spent."""
    started_s = time.perf_counter()
    for _ in range(effort.warmup):
        run_pass()
        if time.perf_counter() - started_s > effort.seconds:
            break
    times: dict[str, list[float]] = {}
    totals: list[float] = []
    started_s = time.perf_counter()
    while len(totals) < effort.most:
        found = run_pass()
        for name, time_us in found.items():
            times.setdefault(name, []).append(time_us)
        totals.append(sum(found.values()))
        if len(totals) >= 3 and time.perf_counter() - started_s > effort.seconds:
            break
        if len(totals) >= effort.least and Samples.of(totals).noise <= effort.noise:
            break
    return {name: Samples.of(sampled) for name, sampled in times.items()}
