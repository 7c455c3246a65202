"""Who spent how much energy when: accelerators by what they executed, the rest of a server by what it is made of.

Energy of a server is cut in two. What its parts draw all the time, and what its CPU draws more while anybody computes,
is *overhead*: while graphs are executed on its devices it is shared by these, per device; else it is idle energy. What
moving bytes costs belongs to the graph that moved them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from llmservingsim.activity import Activity
from llmservingsim.power.accelerators import DeviceEnergy, Uptime, device_energy
from llmservingsim.power.curve import Curve, Floats
from llmservingsim.power.models import PowerModel
from llmservingsim.power.server import COMPONENTS, ServerPower
from llmservingsim.units import NS_PER_S

POOL = -1
"""Number of what stands beside all servers."""


@dataclass(frozen=True, slots=True)
class StageRun:
    """One pipeline stage of one instance, and what it executed.

    Attributes:
        instance: Which.
        devices: Server -> how many of the stage's devices stand there.
        activity: What they executed.
        sent_bytes: What each graph sent over links between accelerators, all devices together, shape ``[graphs]``.
        model: What a device draws; None where nobody knows.
        uptimes: When the instance was not stopped.
        stopped_w: What a device draws otherwise.
        channels: Of a memory that computes, how many a nanosecond of ``activity.offload_ns`` stands for.
    """

    instance: int
    devices: Mapping[int, int]
    activity: Activity
    sent_bytes: Floats
    model: PowerModel | None
    uptimes: Sequence[Uptime]
    stopped_w: float = 0.0
    channels: float = 1.0

    @property
    def num_devices(self) -> int:
        """Of the stage."""
        return sum(self.devices.values())

    @property
    def home(self) -> int:
        """The server whose memory and links it uses: that of its first device."""
        return next(iter(self.devices))


class Load(NamedTuple):
    """Bytes that moved beside the graphs of instances, or that graphs moved without a record of which.

    Attributes:
        server: Whose, or `POOL`.
        component: ``dram``, ``cxl``, ``storage`` or ``link``.
        num_bytes: How many.
        span_ns: When; None: while the graphs did that access memory, else while any graph ran there.
    """

    server: int
    component: str
    num_bytes: int
    span_ns: tuple[int, int] | None = None


@dataclass
class Ledger:
    """Energy of a run, in joules.

    Attributes:
        end_ns: Of the run.
        components: Server, or `POOL` -> component -> energy. What nobody knows is not in it.
        graph_j: Per stage, what each of its graphs cost, its share of overhead included, shape ``[graphs]``.
        device_j: Per stage, what its devices drew, at work or not.
        loads_j: Per load with a span, its energy.
        server_curves, device_curves: Power over time, of servers without their devices, and of stages.
    """

    end_ns: int
    components: dict[int, dict[str, float]]
    graph_j: list[Floats] = field(default_factory=list)
    device_j: list[float] = field(default_factory=list)
    loads_j: list[float] = field(default_factory=list)
    server_curves: dict[int, list[Curve]] = field(default_factory=dict)
    device_curves: list[Mapping[int, tuple[int, Curve]]] = field(default_factory=list)

    @property
    def total_j(self) -> float:
        """Of everything."""
        return sum(sum(parts.values()) for parts in self.components.values())

    def by_component(self) -> dict[str, float]:
        """Of all servers together, in the order of `COMPONENTS`."""
        known = [c for c in COMPONENTS if any(c in parts for parts in self.components.values())]
        return {c: sum(parts.get(c, 0.0) for parts in self.components.values()) for c in known}

    def until_j(self, times_ns: Floats, server: int | None = None) -> Floats:
        """Return what was spent until each of some times, by one server or by all."""
        spent = np.zeros(len(times_ns))
        for number, curves in self.server_curves.items():
            if server in (None, number):
                for curve in curves:
                    spent += curve.until(times_ns)
        for stage in self.device_curves:
            for number, (count, curve) in stage.items():
                if server in (None, number):
                    spent += count * curve.until(times_ns)
        return spent

    def devices_until_j(self, stages: Sequence[int], times_ns: Floats) -> Floats:
        """Return what the devices of some stages had spent until each of some times."""
        spent = np.zeros(len(times_ns))
        for stage in stages:
            for count, curve in self.device_curves[stage].values():
                spent += count * curve.until(times_ns)
        return spent

    def book(self, server: int, component: str, joules: float) -> None:
        """Add energy to a component."""
        parts = self.components.setdefault(server, {})
        parts[component] = parts.get(component, 0.0) + joules


def account(
    stages: Sequence[StageRun], servers: Mapping[int, ServerPower], loads: Sequence[Load], end_ns: int
) -> Ledger:
    """Work out who spent what.

    Args:
        stages: Everything that computed.
        servers: What they are made of; `POOL` is what stands beside them.
        loads: What else moved.
        end_ns: Of the run.
    """
    ledger = Ledger(end_ns, {number: {} for number in servers})
    ledger.server_curves = {number: [] for number in servers}
    for stage in stages:
        _add_devices(ledger, stage)
    for number, server in servers.items():
        here = [k for k, stage in enumerate(stages) if number == POOL or number in stage.devices]
        _add_overhead(ledger, number, server, stages, here)
        _add_traffic(ledger, number, server, stages, [load for load in loads if load.server == number])
    ledger.loads_j = [
        load.num_bytes * servers[load.server].j_per_byte.get(load.component, 0.0) for load in loads if load.span_ns
    ]
    return ledger


def _add_devices(ledger: Ledger, stage: StageRun) -> None:
    graphs = np.zeros(len(stage.activity.begin_ns))
    ledger.device_j.append(0.0)
    ledger.graph_j.append(graphs)
    ledger.device_curves.append({})
    if stage.model is None:
        return
    found: DeviceEnergy = device_energy(
        stage.activity, stage.num_devices, stage.model, stage.uptimes, stage.stopped_w, ledger.end_ns
    )
    for server, count in stage.devices.items():
        ledger.book(server, "npu", count * found.curve.total_j)
    ledger.device_j[-1] = stage.num_devices * found.curve.total_j
    ledger.device_curves[-1] = {server: (count, found.curve) for server, count in stage.devices.items()}
    graphs += stage.num_devices * found.graph_j


def _add_overhead(
    ledger: Ledger, number: int, server: ServerPower, stages: Sequence[StageRun], here: Sequence[int]
) -> None:
    """Count what a server draws beside its devices, and share what it draws while they work."""
    for component, watts in server.constant_w.items():
        ledger.book(number, component, watts * ledger.end_ns / NS_PER_S)
    constant_w = sum(server.constant_w.values())
    begin = np.concatenate([np.zeros(0), *(stages[k].activity.begin_ns for k in here)])
    end = np.concatenate([np.zeros(0), *(stages[k].activity.end_ns for k in here)])
    sizes = [len(stages[k].activity.begin_ns) for k in here]
    counts = [stages[k].num_devices if number == POOL else stages[k].devices[number] for k in here]
    weight = np.repeat(np.array(counts, dtype=np.float64), sizes)
    times, at = np.unique(np.concatenate([[0.0], begin, end, [ledger.end_ns]]), return_inverse=True)
    changes = np.bincount(at[1:-1], np.concatenate([weight, -weight]), len(times))
    working = np.cumsum(changes)[:-1]  # devices: whole numbers, so nothing is left where all have ended
    drawn_w = np.where(working > 0, constant_w + server.serving_w, constant_w)
    if server.serving_w:
        serving_s = float(np.diff(times)[working > 0].sum()) / NS_PER_S
        ledger.book(number, "cpu", server.serving_w * serving_s)
    ledger.server_curves[number].append(Curve.of(times, drawn_w))
    shared = Curve.of(times, np.where(working > 0, drawn_w / np.maximum(working, 1), 0.0))
    shares = weight * (shared.until(end) - shared.until(begin))
    for k, part in zip(here, np.split(shares, np.cumsum(sizes)[:-1]), strict=True) if here else ():
        ledger.graph_j[k] += part


def _add_traffic(
    ledger: Ledger, number: int, server: ServerPower, stages: Sequence[StageRun], loads: Sequence[Load]
) -> None:
    """Count what moving bytes, and computing in memory, costs; a graph pays for its own."""
    at_home = [k for k, stage in enumerate(stages) if number in (POOL, stage.home)]
    costs = {k: _own_costs(ledger, number, server, stages[k]) for k in at_home}
    curves = ledger.server_curves[number]
    for load in loads:
        joules = load.num_bytes * server.j_per_byte.get(load.component, 0.0)
        if not joules:
            continue
        ledger.book(number, load.component, joules)
        if load.span_ns is not None:
            begin, end = np.array(load.span_ns, dtype=np.int64).reshape(2, 1)
            curves.append(Curve.of_spans(begin, end, np.array([joules]), ledger.end_ns))
        elif not _spread(joules, [stages[k].activity for k in at_home], [costs[k] for k in at_home]):
            curves.append(Curve.constant(joules * NS_PER_S / max(ledger.end_ns, 1), ledger.end_ns))
    for k, spent in costs.items():
        if spent.any():
            activity = stages[k].activity
            ledger.graph_j[k] += spent
            curves.append(Curve.of_spans(activity.begin_ns, activity.end_ns, spent, ledger.end_ns))


def _own_costs(ledger: Ledger, number: int, server: ServerPower, stage: StageRun) -> Floats:
    """Book what the graphs of a stage sent over links and computed in memories; return it, shape ``[graphs]``."""
    costs = np.zeros(len(stage.activity.begin_ns))
    if number == POOL:
        return costs
    sent = stage.sent_bytes * server.j_per_byte.get("link", 0.0)
    computed = stage.activity.offload_ns * (stage.channels * server.pim_active_w / NS_PER_S)
    for component, spent in (("link", sent), ("pim", computed)):
        if component in server.constant_w:
            ledger.book(number, component, float(spent.sum()))
            costs += spent
    return costs


def _spread(joules: float, activities: Sequence[Activity], costs: Sequence[Floats]) -> bool:
    """Share energy by the bytes that graphs accessed, else by their time; tell whether anybody was there to share."""
    for weights in (
        [activity.memory_bytes for activity in activities],
        [activity.end_ns - activity.begin_ns for activity in activities],
    ):
        total = sum(int(w.sum()) for w in weights)
        if total:
            for cost, weight in zip(costs, weights, strict=True):
                np.add(cost, joules * (weight / total), out=cost)
            return True
    return False
