"""Times between calls and limits of patience, drawn in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import ConfigError, WorkloadError
from llmservingsim.units import TIME_MAX_NS, parse_time_ns
from llmservingsim.workload.spec import DurationSpec, ExponentialDuration, LognormalDuration, UniformDuration

_BLOCK = 1024


def draw_durations(spec: DurationSpec, key: str, rng: np.random.Generator) -> Iterator[int]:
    """Return an endless iterator over times in ns.

    Args:
        spec: Their distribution.
        key: That states it, for messages.
        rng: The only source of chance.

    Raises:
        WorkloadError: At once, if a time has no unit or if the distribution contradicts itself.
    """
    try:
        match spec:
            case str():
                return repeat(parse_time_ns(spec))
            case ExponentialDuration():
                mean_ns = parse_time_ns(spec.mean)
                return _blocks(lambda: rng.exponential(mean_ns, _BLOCK))
            case UniformDuration():
                low_ns, high_ns = parse_time_ns(spec.min), parse_time_ns(spec.max)
                if low_ns > high_ns:
                    raise ConfigError(f"min {spec.min} is above max {spec.max}")
                return _blocks(lambda: rng.uniform(low_ns, high_ns, _BLOCK))
            case LognormalDuration():
                return _lognormal(spec, rng)
    except ConfigError as error:
        raise WorkloadError(f"generator: {key}: {error}") from None


def _lognormal(spec: LognormalDuration, rng: np.random.Generator) -> Iterator[int]:
    if (spec.mean is None) == (spec.median is None):
        raise ConfigError("expected either mean or median of a lognormal time")
    middle_ns = parse_time_ns(spec.median if spec.mean is None else spec.mean)
    if middle_ns == 0:
        raise ConfigError("expected a lognormal time of more than 0")
    mu = math.log(middle_ns) - (0.0 if spec.mean is None else spec.sigma**2 / 2)
    return _blocks(lambda: rng.lognormal(mu, spec.sigma, _BLOCK))


def _blocks(draw: Callable[[], NDArray[np.float64]]) -> Iterator[int]:
    while True:
        yield from np.rint(np.minimum(draw(), TIME_MAX_NS / 2)).astype(np.int64).tolist()
