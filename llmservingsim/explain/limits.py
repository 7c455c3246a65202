"""What limited a run: the section ``limits`` of summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmservingsim.explain.busiest import busiest_link, busiest_memory
from llmservingsim.explain.covers import Cover
from llmservingsim.explain.device_time import PARTS, Surroundings, device_time, hold_ups
from llmservingsim.explain.phases import phases
from llmservingsim.explain.request_time import RequestTimes
from llmservingsim.explain.verdict import verdict
from llmservingsim.instance import Instance
from llmservingsim.report import Measured
from llmservingsim.resolve import System
from llmservingsim.serving import RejectReason
from llmservingsim.serving.hold_ups import HoldUp
from llmservingsim.units import NS_PER_S

_FULL = ("max_kv_usage", RejectReason.NEVER_FITS.value)
"""Parts of the reasons for which requests are rejected because of KV blocks."""


class Observed(NamedTuple):
    """What the section is derived from.

    Attributes:
        system: What served.
        measured: Of the requests.
        traffic: What `llmservingsim.memory_traffic` returned.
    """

    system: System
    measured: Measured
    traffic: Mapping[str, Any]


def summarise_limits(observed: Observed) -> dict[str, Any]:
    """Return where devices' and requests' time went, what was busiest, and a verdict."""
    system, measured, traffic = observed
    end_ns = measured.recorder.end_ns
    instances = system.instances
    spent = _device_times(system, end_ns)
    covers = [hold_ups(instance.engine, end_ns) for instance in instances]
    times = RequestTimes(measured.table, covers, measured.recorder.sent_ns)
    everyone = np.ones(len(measured.table.records), dtype=bool)
    per_instance = [
        {
            "index": instance.index,
            "device_time": _device_shares(parts, len(instance.ranks) * end_ns),
            "requests": times.summarise(measured.table.instance == instance.index),
            "kv_cache": _kv_cache(measured, instance, cover, end_ns)
            | {"mean_wait_s": times.mean_wait_s("queued_for_kv_blocks", measured.table.instance == instance.index)},
        }
        for instance, parts, cover in zip(instances, spent, covers, strict=True)
    ]
    total = {part: sum(parts[part] for parts in spent) for part in PARTS}
    devices = sum(len(instance.ranks) for instance in instances)
    found: dict[str, Any] = {
        "device_time": _device_shares(total, devices * end_ns),
        "requests": times.summarise(everyone),
        "classes": _classes(measured, times),
        "kv_cache": _all_kv_caches(measured, per_instance)
        | {"mean_wait_s": times.mean_wait_s("queued_for_kv_blocks", everyone)},
        "busiest_link": busiest_link(system, end_ns),
        "busiest_memory": busiest_memory(system, traffic, end_ns),
        "instances": per_instance,
    }
    return {"verdict": verdict(found)} | found


def _device_times(system: System, end_ns: int) -> list[dict[str, float]]:
    groups = {i.index: owner.members for owner in system.owners for i in owner.members}
    starting, stopped = phases(system, end_ns, "starting"), phases(system, end_ns, "stopped")
    transfers = system.transfers
    blocks = transfers is not None and not transfers.load_kv_async
    return [
        device_time(
            i,
            Surroundings(
                end_ns,
                starting[i.index],
                stopped[i.index],
                [member.engine for member in groups.get(i.index, (i,))],
                waits_for_loads=blocks and i.role == "decode",
            ),
        )
        for i in system.instances
    ]


def _device_shares(parts: Mapping[str, float], total_ns: int) -> dict[str, Any]:
    return {
        "device_s": total_ns / NS_PER_S,
        "shares": {part: spent / total_ns if total_ns else 0.0 for part, spent in parts.items()},
    }


def _kv_cache(measured: Measured, instance: Instance, covers: Mapping[int, Cover], end_ns: int) -> dict[str, Any]:
    """How long the head of the queue lacked blocks, and how full they were."""
    blocked = covers.get(HoldUp.KV_BLOCKS)
    log, pool = instance.engine.log, instance.engine.kv.pool
    fewest = min(log.free_blocks, default=pool.num_usable)
    return {
        "blocked_share": blocked.total_ns / end_ns if blocked is not None and end_ns else 0.0,
        "peak_usage_pct": 100 * (pool.num_usable - fewest) / pool.num_usable,
        "preemptions": measured.recorder.preemptions[instance.index],
    }


def _all_kv_caches(measured: Measured, per_instance: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean share, the highest peak, and what was added up."""
    each = [entry["kv_cache"] for entry in per_instance]
    refused = [r for r in measured.recorder.records if r.status == "rejected" and _is_of_kv(r.reason)]
    return {
        "blocked_share": sum(of["blocked_share"] for of in each) / len(each),
        "peak_usage_pct": max(of["peak_usage_pct"] for of in each),
        "preemptions": sum(of["preemptions"] for of in each),
        "rejected": len(refused),
    }


def _is_of_kv(reason: str | None) -> bool:
    return reason is not None and any(word in reason for word in _FULL)


def _classes(measured: Measured, times: RequestTimes) -> list[dict[str, Any]]:
    """The same per model and priority, where there are several."""
    table = measured.table
    keys = [(record.model, detail.priority) for record, detail in zip(table.records, table.details, strict=True)]
    several = sorted(set(keys))
    if len(several) < 2:
        return []
    found = []
    for model, priority in several:
        of = np.array([key == (model, priority) for key in keys], dtype=bool)
        found.append({"model": model, "priority": priority} | times.summarise(of))
    return found
