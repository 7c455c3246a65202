"""Energy of the accelerators of one pipeline stage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from llmservingsim.activity import Activity
from llmservingsim.power.curve import Curve, Floats
from llmservingsim.power.models import PowerModel
from llmservingsim.units import NS_PER_S


class Uptime(NamedTuple):
    """A time in which an instance is not stopped.

    Attributes:
        up_ns, ready_ns, down_ns: When it began to start, when it could compute, and when it stopped.
    """

    up_ns: int
    ready_ns: int
    down_ns: int


class DeviceEnergy(NamedTuple):
    """Of one accelerator of a stage.

    Attributes:
        curve: Joules over time.
        graph_j: While it executed each graph, shape ``[graphs]``.
    """

    curve: Curve
    graph_j: Floats


class _Spans(NamedTuple):
    """Power from each instant to the next."""

    times_ns: Floats
    watts: Floats


def compute_share(activity: Activity, num_devices: int) -> Floats:
    """Return the part of each graph's time in which a device computed, on average over the devices."""
    spent = np.maximum(activity.end_ns - activity.begin_ns, 1) * num_devices
    return np.asarray(np.minimum(activity.compute_ns / spent, 1.0), dtype=np.float64)


def device_energy(
    activity: Activity, num_devices: int, model: PowerModel, uptimes: Sequence[Uptime], stopped_w: float, end_ns: int
) -> DeviceEnergy:
    """Integrate the power of one device from 0 to ``end_ns``.

    Args:
        activity: Of the stage.
        num_devices: That the stage has; all are taken to do the same.
        model: What one draws.
        uptimes: When the instance was not stopped, in order.
        stopped_w: What it draws otherwise.
        end_ns: Of the run.
    """
    watts = np.asarray(model.running_w(compute_share(activity, num_devices)), dtype=np.float64)
    spent_j = watts * (activity.end_ns - activity.begin_ns) / NS_PER_S
    parts = list(_parts(activity, watts, model, uptimes, stopped_w))
    times = np.concatenate([*(part.times_ns for part in parts), [end_ns]])
    return DeviceEnergy(Curve.of(times, np.concatenate([part.watts for part in parts])), spent_j)


def _parts(
    activity: Activity, watts: Floats, model: PowerModel, uptimes: Sequence[Uptime], stopped_w: float
) -> Iterator[_Spans]:
    """Cut the run at starts and stops."""
    yield _Spans(np.array([0.0]), np.array([stopped_w]))  # of no length if it is up from the beginning
    for uptime in uptimes:
        first, last = np.searchsorted(activity.begin_ns, [uptime.ready_ns, uptime.down_ns])
        if uptime.down_ns >= (activity.end_ns[-1] if len(activity.end_ns) else 0):
            last = len(activity.begin_ns)
        graphs = np.column_stack([activity.begin_ns, activity.end_ns, watts])[first:last]
        yield _up(graphs, model, uptime)
        yield _Spans(np.array([float(uptime.down_ns)]), np.array([stopped_w]))


def _up(graphs: Floats, model: PowerModel, uptime: Uptime) -> _Spans:
    """Power while an instance is up; a start-up loads weights, so its devices wait, and then rest from it.

    Args:
        graphs: Begin and end in ns and watts, shape ``[graphs, 3]``.
        model: What a device draws.
        uptime: The time.
    """
    rests = model.resting()
    if uptime.ready_ns > uptime.up_ns:
        waiting_w = float(np.asarray(model.running_w(np.zeros(1)))[0])
        graphs = np.concatenate([[[uptime.up_ns, uptime.ready_ns, waiting_w]], graphs])
    begin, end, watts = graphs.T
    following = np.concatenate([begin[1:], [uptime.down_ns]])[: len(begin)]
    times = [begin, *(np.minimum(end + after_s * NS_PER_S, following) for after_s, _ in rests)]
    drawn = [watts, *(np.full(len(begin), rest_w) for _, rest_w in rests)]
    return _Spans(
        np.concatenate([[float(uptime.up_ns)], np.column_stack(times).ravel()]),
        np.concatenate([[rests[-1].watts], np.column_stack(drawn).ravel()]),
    )
