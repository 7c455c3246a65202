"""How long an operator takes on a device: formulas whose figures are fitted to what was measured there.

All are rooflines with what a roofline leaves out (`docs/concepts/latency.md` says how each term was found):

    product:  t = launch + inner * step + (c^p + m^p)^(1/p)
    other:    t = launch + m
    decodes:  t = launch + m + walks * start + keys * pace, times a ratio (`Calibration.decodes`)

    p = 1 + overlap
    c = (FLOPs + idle * sqrt(FLOPs * wave)) / (peak * e_c)
    m = bytes / (bandwidth * e_m) * (1 - s + s / (1 + gain)),   s = 1 / (1 + (bytes / (held * cache))^4)

Source of the model: Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009. The p-norm in place of the maximum is
what is left of two limits that do not overlap perfectly: p = 1 is none overlapping, p = infinity the roofline.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec
from llmservingsim.latency.demand import DECODES, EXPERTS, HEAD, PRODUCTS, Demand
from llmservingsim.units import NS_PER_S

Floats = NDArray[np.float64]


class Form(NamedTuple):
    """A formula.

    Attributes:
        start: Likely figures by name; all greater than 0.
        seconds: Time of a demand, or of many, with figures in that order.
    """

    start: Mapping[str, float]
    seconds: Callable[[Sequence[float], Demand], Floats]


def form_of(operator_class: str, accelerator: AcceleratorSpec) -> Form:
    """Return the formula of a class of operators, its figures as the catalogue has them or a guess."""
    efficiency = accelerator.efficiency
    start = {
        "launch_ns": float(max(accelerator.kernel_launch_ns, 1)),
        "memory": efficiency.memory,
        "gain": 0.1,
        "held": 0.5,
    }
    if operator_class in (PRODUCTS, HEAD, EXPERTS):
        return Form({**start, "compute": efficiency.gemm, "step_ns": 0.01, "idle": 0.02, "overlap": 2.0}, product_s)
    if operator_class == DECODES:
        return Form({**start, "start_ns": 10.0, "pace_ns": 0.1}, decode_s)
    return Form(start, stream_s)


def product_s(figures: Sequence[float], demand: Demand) -> Floats:
    """Time of a matrix product or of experts."""
    launch_ns, memory, gain, held, compute, step_ns, idle, overlap = figures
    busy = (demand.compute_s + idle * np.sqrt(demand.compute_s * demand.wave_s)) / compute
    moved = _moved_s((memory, gain, held), demand)
    power = 1.0 + overlap
    longer, shorter = np.maximum(busy, moved), np.minimum(busy, moved)
    together = longer * (1.0 + (shorter / longer) ** power) ** (1.0 / power)
    return np.asarray((launch_ns + step_ns * demand.inner) / NS_PER_S + together)


def stream_s(figures: Sequence[float], demand: Demand) -> Floats:
    """Time of an operator that reads, computes little and writes."""
    launch_ns, *memory = figures
    return np.asarray(launch_ns / NS_PER_S + _moved_s(memory, demand))


def decode_s(figures: Sequence[float], demand: Demand) -> Floats:
    """Time of the attention of decodes: each starts once per key head and walks through its keys."""
    launch_ns, memory, gain, held, start_ns, pace_ns = figures
    beside = launch_ns + start_ns * demand.walks + pace_ns * demand.keys
    return np.asarray(beside / NS_PER_S + _moved_s((memory, gain, held), demand))


def _moved_s(figures: Sequence[float], demand: Demand) -> Floats:
    """Time of the traffic: what the last-level cache holds from one operator to the next comes quicker."""
    memory, gain, held = figures
    within = 1.0 / (1.0 + (demand.cache_fill / held) ** 4)
    return np.asarray(demand.memory_s / memory * (1.0 - within * gain / (1.0 + gain)))
