"""Where the time of an instance's devices went."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmservingsim.activity import UNKNOWN, Activity, ActivityLog
from llmservingsim.explain.covers import Cover, steps
from llmservingsim.explain.roofline import Bound, split_compute
from llmservingsim.instance import Instance
from llmservingsim.serving import Engine
from llmservingsim.serving.hold_ups import HoldUp

RUNNING = (
    "compute_bound",
    "bandwidth_bound",
    "other_compute",
    "communication",
    "memory_fetch",
    "offload",
    "slower_ranks",
    "in_step",
    "unknown",
)
"""What devices do while a graph of theirs is under way."""

HELD_UP = {
    HoldUp.KV_BLOCKS: "idle_kv_blocks",
    HoldUp.MAX_NUM_SEQS: "idle_max_num_seqs",
    HoldUp.TOKEN_BUDGET: "idle_token_budget",
    HoldUp.KV_TRANSFER: "kv_transfer",
    HoldUp.KV_RECALL: "kv_recall",
}
"""Why they do nothing though somebody waits."""

PARTS = (*RUNNING, "pipeline_bubble", *HELD_UP.values(), "idle", "starting", "stopped")
"""All of it; these add up to devices times simulated time."""


class Surroundings(NamedTuple):
    """What an instance's own logs do not tell.

    Attributes:
        end_ns: Of the run.
        starting, stopped: When it was that.
        engines: Its own, and those in lock step with it.
        waits_for_loads: Its batches wait for the KV of their prompts.
    """

    end_ns: int
    starting: Cover
    stopped: Cover
    engines: Sequence[Engine]
    waits_for_loads: bool


def device_time(instance: Instance, around: Surroundings) -> dict[str, float]:
    """Return device nanoseconds by `PARTS`."""
    found = dict.fromkeys(PARTS, 0.0)
    rows = [log.activity() for log in instance.activity]
    covers = [Cover.of(row.begin_ns, row.end_ns) for row in rows]
    everything = Cover.of([0], [around.end_ns])
    in_flight = _in_flight(around.engines)
    for stage, (log, row) in enumerate(zip(instance.activity, rows, strict=True)):
        _add_rows(found, instance, log, row, around)
        gaps = everything.without(covers[stage])
        if len(covers) > 1:
            others = Cover.of(*map(np.concatenate, zip(*covers, strict=True)))
            found["pipeline_bubble"] += gaps.overlap_ns(others) * log.num_devices
            gaps = gaps.without(others)
            found["communication"] += gaps.overlap_ns(in_flight) * log.num_devices  # hidden states between stages
            gaps = gaps.without(in_flight)
        for part, idle_ns in _idle(instance, gaps, around).items():
            found[part] += idle_ns * log.num_devices
    return found


def _add_rows(
    found: dict[str, float], instance: Instance, log: ActivityLog, row: Activity, around: Surroundings
) -> None:
    """Add what a stage did while its graphs were under way."""
    whole = (row.end_ns - row.begin_ns) * log.num_devices
    in_line = (row.started_ns - row.begin_ns) * log.num_devices
    found["kv_transfer" if around.waits_for_loads else "memory_fetch"] += float(in_line.sum())
    executed = whole - in_line
    is_dummy = row.prompt_tokens + row.decodes == 0
    found["in_step"] += float(executed[is_dummy].sum())
    own = ~is_dummy
    compute = np.minimum(row.compute_ns, executed)
    bound = split_compute(instance, log, row) if own.any() else Bound.unknown(len(own))
    for part, share in zip(RUNNING[:3], (bound.compute, bound.bandwidth, bound.other), strict=True):
        found[part] += float((compute * share)[own].sum())
    is_known = own & (row.messages_ns != UNKNOWN)
    waits = {
        "communication": row.messages_ns - row.skew_ns,
        "memory_fetch": row.access_ns,
        "offload": row.awaited_offload_ns,
        "slower_ranks": executed - compute - row.messages_ns + row.skew_ns - row.access_ns - row.awaited_offload_ns,
    }
    for part, spent in waits.items():
        found[part] += float(spent[is_known].sum())
    found["unknown"] += float((executed - compute)[own & ~is_known].sum())


def _in_flight(engines: Sequence[Engine]) -> Cover:
    """When a batch of any of some engines was in flight."""
    begins: list[int] = []
    ends: list[int] = []
    for engine in engines:
        log = engine.log
        behind = [*log.begun[1:], len(log.ended_ns)]  # the first batch of the next stretch
        for first, begin_ns, after in zip(log.begun, log.begun_ns, behind, strict=False):
            if first < after <= len(log.ended_ns):
                begins.append(begin_ns)
                ends.append(log.ended_ns[after - 1])
    return Cover.of(begins, ends)


def _idle(instance: Instance, gaps: Cover, around: Surroundings) -> dict[str, int]:
    """Divide the time in which an instance did nothing by what it lacked."""
    found = {"starting": gaps.overlap_ns(around.starting), "stopped": gaps.overlap_ns(around.stopped)}
    gaps = gaps.without(around.starting).without(around.stopped)
    left = gaps.total_ns
    for what, cover in hold_ups(instance.engine, around.end_ns).items():
        part = HELD_UP.get(HoldUp(what))
        if part is not None:
            found[part] = gaps.overlap_ns(cover)
            left -= found[part]
    return found | {"idle": left}


def hold_ups(engine: Engine, end_ns: int) -> dict[int, Cover]:
    """When the head of an engine's queue lacked what (`HoldUp`); nothing of a scheduler that does not tell."""
    log = getattr(engine.scheduler, "hold_ups", None)
    return {} if log is None else steps(log.since_ns, log.what, end_ns)
