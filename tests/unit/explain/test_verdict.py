"""The rules of the verdict, one by one."""

from typing import Any

import pytest

from llmservingsim.explain import device_time, request_time
from llmservingsim.explain.verdict import verdict


def limits(blocked: float = 0.0, preemptions: int = 0, waited: float = 0.0, **shares: float) -> dict[str, Any]:
    """Shares of devices and requests by name; requests decode for the rest of their time, devices idle."""
    devices = dict.fromkeys(device_time.PARTS, 0.0) | {k: v for k, v in shares.items() if k in device_time.PARTS}
    requests = dict.fromkeys(request_time.PARTS, 0.0) | {k: v for k, v in shares.items() if k in request_time.PARTS}
    devices["idle"] = 1 - sum(devices.values())
    requests["decode"] = 1 - sum(requests.values())
    kv_cache = {"blocked_share": blocked, "preemptions": preemptions, "mean_wait_s": waited}
    return {
        "device_time": {"device_s": 1.0, "shares": devices},
        "requests": {"finished": 1, "shares": requests, "recomputed_tokens": 1234},
        "kv_cache": kv_cache,
        "instances": [{"index": 0, "kv_cache": {"blocked_share": 0.0}}, {"index": 1, "kv_cache": kv_cache}],
    }


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        (
            {"bandwidth_bound": 0.83, "compute_bound": 0.1},
            "Limited by memory bandwidth: 83 % of device time computes below the ridge of the roofline, bound by its "
            "memory.",
        ),
        (
            {"slower_ranks": 0.3, "in_step": 0.2, "pipeline_bubble": 0.1, "compute_bound": 0.4},
            "Limited by uneven work: 60 % of device time waits for slower ranks, other stages or other members of a "
            "group.",
        ),
        (
            {"memory_fetch": 0.2, "kv_recall": 0.2, "compute_bound": 0.35},
            "Limited by memory fetch: 40 % of device time waits for what lies in other memories.",
        ),
        (
            {"communication": 0.2, "compute_bound": 0.1},
            "Not limited by the devices: 70 % of device time has nothing to do; of the rest, 67 % waits for "
            "collectives and messages.",
        ),
        (
            {"stopped": 0.5, "compute_bound": 0.3},
            "Limited by arithmetic: 60 % of device time computes above the ridge of the roofline.",
        ),
        ({}, "Not limited by the devices: 100 % of device time has nothing to do."),
        ({"stopped": 1.0}, "Nothing ran."),
    ],
)
def test_the_largest_kind_of_device_time_limits(shares: dict[str, float], sentence: str) -> None:
    assert verdict(limits(**shares)) == [sentence]


def test_a_queue_without_blocks_is_named_from_a_twentieth_of_the_time_on() -> None:
    assert len(verdict(limits(blocked=0.049))) == 1
    _, second = verdict(limits(blocked=0.41, waited=12.0, queued_for_kv_blocks=0.3, preemptions=2))
    assert second == (
        "The queue of instance 1 lacked KV blocks 41 % of the time, and requests waited 12 s for them on average, "
        "30 % of theirs; 2 preemptions made 1,234 tokens be computed again."
    )


def test_what_requests_waited_for_is_named_from_a_tenth_of_their_time_on() -> None:
    assert len(verdict(limits(transfer_stall=0.09))) == 1
    told = verdict(limits(transfer_stall=0.11, queued_at_router=0.1))
    assert told[1:] == ["Requests spent 11 % of their time computed, until their KV began to cross."]
