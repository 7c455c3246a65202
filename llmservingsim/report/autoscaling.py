"""What the number of instances was, and why: the section ``autoscaling`` of summary.json."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from llmservingsim.instance import Phase
from llmservingsim.scaled_pool import ScaledPool
from llmservingsim.units import NS_PER_S

_COUNTED: tuple[Phase, ...] = ("active", "starting", "draining")


def summarise_scaling(pools: Sequence[ScaledPool], end_ns: int) -> dict[str, Any]:
    """Return decisions, and the time that every instance and pool spent in each phase, until ``end_ns``."""
    events = sorted(
        ((event.time_ns, position, event) for position, pool in enumerate(pools) for event in pool.events),
        key=lambda entry: entry[:2],
    )
    spent = [_spent_ns(pool, end_ns) for pool in pools]
    return {
        "events": [
            {
                "time_s": time_ns / NS_PER_S,
                "model": pools[position].model,
                "role": pools[position].role,
                "from": event.before,
                "to": event.after,
                "why": event.why,
            }
            for time_ns, position, event in events
        ],
        "pools": [_pool(pool, of_pool, end_ns) for pool, of_pool in zip(pools, spent, strict=True)],
        "instances": [
            {"index": index} | {f"{phase}_s": time_ns / NS_PER_S for phase, time_ns in phases.items()}
            for of_pool in spent
            for index, phases in of_pool.items()
        ],
    }


def _pool(pool: ScaledPool, spent_ns: dict[int, dict[Phase, int]], end_ns: int) -> dict[str, Any]:
    totals_ns = {phase: sum(phases[phase] for phases in spent_ns.values()) for phase in _COUNTED}
    devices_ns = sum(len(i.ranks) * sum(spent_ns[i.index].values()) for i in pool.instances)
    most = _most_active(pool, end_ns)
    return {
        "model": pool.model,
        "role": pool.role,
        "policy": pool.policy_name,
        "instances": len(pool.instances),
        "mean_active": totals_ns["active"] / end_ns if end_ns else float(most),
        "max_active": most,
        "instance_s": {phase: time_ns / NS_PER_S for phase, time_ns in totals_ns.items()},
        "device_s": devices_ns / NS_PER_S,
    }


def _spent_ns(pool: ScaledPool, end_ns: int) -> dict[int, dict[Phase, int]]:
    """Instance -> phase -> time spent in it."""
    spent: dict[int, dict[Phase, int]] = {i.index: dict.fromkeys(_COUNTED, 0) for i in pool.instances}
    for instance in pool.instances:
        for phase, begin_ns, until_ns in pool.stretches(instance, end_ns):
            if phase != "stopped":
                spent[instance.index][phase] += until_ns - begin_ns
    return spent


def _most_active(pool: ScaledPool, end_ns: int) -> int:
    return max(_active_after_each_instant(pool, end_ns), default=0)


def _active_after_each_instant(pool: ScaledPool, end_ns: int) -> Iterator[int]:
    """How many are active, by the end of each instant at which that may have changed."""
    active: set[int] = set()
    for time_ns, changes in groupby(pool.changes, key=lambda change: change.time_ns):
        if time_ns > end_ns:
            return
        for change in changes:
            (active.add if change.phase == "active" else active.discard)(change.instance)
        yield len(active)
