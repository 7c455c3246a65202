"""One to three sentences on what limited a run, by rules that `docs/concepts/limits.md` states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llmservingsim.explain.request_time import PARTS

BLOCKED_SHARE = 0.05
"""From this share of the time on, a queue without KV blocks is worth a sentence."""
WAITING_SHARE = 0.1
"""From this share of the requests' time on, what they waited for is."""


class _Kind(NamedTuple):
    """Parts of the device time that mean the same to a reader."""

    parts: tuple[str, ...]
    limit: str
    told: str


_KINDS = (
    _Kind(("bandwidth_bound",), "memory bandwidth", "computes below the ridge of the roofline, bound by its memory"),
    _Kind(("compute_bound",), "arithmetic", "computes above the ridge of the roofline"),
    _Kind(("other_compute",), "compute", "computes"),
    _Kind(("communication",), "communication", "waits for collectives and messages"),
    _Kind(("memory_fetch", "kv_recall"), "memory fetch", "waits for what lies in other memories"),
    _Kind(("offload",), "memory that computes", "waits for operators on other devices"),
    _Kind(
        ("slower_ranks", "in_step", "pipeline_bubble"),
        "uneven work",
        "waits for slower ranks, other stages or other members of a group",
    ),
    _Kind(("kv_transfer",), "KV transfers", "waits for KV caches from other instances"),
    _Kind(("idle_kv_blocks",), "KV blocks", "is idle because the requests that wait lack KV blocks"),
    _Kind(("idle_max_num_seqs",), "max_num_seqs", "is idle because no more requests may run"),
    _Kind(("idle_token_budget",), "max_num_batched_tokens", "is idle because no request fits the token budget"),
    _Kind(("unknown",), "what the backend does not tell apart", "waits, and the backend does not say for what"),
)
_UNUSED = ("idle", "starting")

_WAITED = {
    "queued_at_router": "held at the router",
    "queued_for_kv_blocks": "queueing for KV blocks",
    "queued_for_max_num_seqs": "queueing because max_num_seqs ran",
    "queued_for_token_budget": "queueing because max_num_batched_tokens were spent",
    "queued_for_kv_transfer": "queueing for KV from another instance",
    "queued_for_kv_recall": "queueing for KV from a lower tier",
    "transfer_stall_kv_blocks": "computed, until the decode side had KV blocks",
    "transfer_stall": "computed, until their KV began to cross",
    "transfer": "while their KV crossed",
    "preempted": "preempted",
}


def verdict(limits: Mapping[str, Any]) -> list[str]:
    """Return the sentences, derived from the numbers in the section alone."""
    if not limits["device_time"]["device_s"]:
        return ["Nothing ran."]
    told = [_of_devices(limits["device_time"]["shares"])]
    if limits["requests"]["finished"]:
        told += _of_blocks(limits)
        told += _of_requests(limits["requests"]["shares"])
    return told


def _of_devices(shares: Mapping[str, float]) -> str:
    """The largest share, stopped instances apart; where mostly nothing was to be done, also the largest of the rest."""
    running = 1 - shares["stopped"]
    if running <= 0:
        return "Nothing ran."
    unused = sum(shares[part] for part in _UNUSED) / running
    found = {kind: sum(shares[part] for part in kind.parts) / running for kind in _KINDS}
    kind = max(found, key=lambda one: found[one])
    share = found[kind]
    if unused <= share:
        return f"Limited by {kind.limit}: {_percent(share)} of device time {kind.told}."
    text = f"Not limited by the devices: {_percent(unused)} of device time has nothing to do"
    if share:
        text += f"; of the rest, {_percent(share / (1 - unused))} {kind.told}"
    return f"{text}."


def _of_blocks(limits: Mapping[str, Any]) -> list[str]:
    """How full the KV cache was, if that held anybody up."""
    blocks, shares = limits["kv_cache"], limits["requests"]["shares"]
    told = []
    longest = max(limits["instances"], key=lambda entry: entry["kv_cache"]["blocked_share"])
    if longest["kv_cache"]["blocked_share"] >= BLOCKED_SHARE:
        whose = f"the queue of instance {longest['index']}" if len(limits["instances"]) > 1 else "the queue"
        told.append(
            f"{whose} lacked KV blocks {_percent(longest['kv_cache']['blocked_share'])} of the time, and requests "
            f"waited {blocks['mean_wait_s']:.3g} s for them on average, {_percent(shares['queued_for_kv_blocks'])} of "
            "theirs"
        )
    if blocks["preemptions"]:
        told.append(
            f"{blocks['preemptions']:,} preemptions made {limits['requests']['recomputed_tokens']:,} tokens be "
            "computed again"
        )
    text = "; ".join(told)
    return [f"{text[0].upper()}{text[1:]}."] if told else []


def _of_requests(shares: Mapping[str, float]) -> list[str]:
    """What requests waited for longest, unless that has been said."""
    part = max(_WAITED, key=lambda one: shares[one])
    if shares[part] < WAITING_SHARE or part == "queued_for_kv_blocks":
        return []
    return [f"Requests spent {_percent(shares[part])} of their time {_WAITED[part]}."]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


assert set(_WAITED) < set(PARTS)
