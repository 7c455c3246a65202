"""Chats that find their history in the prefix cache, priorities that overtake, models on unequal machines."""

from collections.abc import Callable
from typing import Any

import pytest

from llmservingsim import simulate
from llmservingsim.workload import (
    ArrivalSpec,
    FixedLength,
    GeneratorSpec,
    ModelShare,
    PrefixSpec,
    PriorityShare,
    RequestSpec,
    SessionSpec,
    UniformLength,
    generate,
)

MS = 1_000_000
SMALL, LARGER = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B"

Clusters = Callable[..., dict[str, Any]]


def config(**serving: Any) -> dict[str, Any]:
    options = {"latency": {"source": "constant_latency:Constant"}, "enforce_eager": True, "async_scheduling": False}
    return {
        "nodes": [{"instances": [{"model": SMALL, "hardware": "H100", "num_gpu_blocks": 1001}]}],
        "serving": options | serving,
    }


def test_a_chat_finds_its_history_in_the_cache() -> None:
    """40 tokens and 10 more leave the KV of 49, 3 full blocks of 16; 50 + 40 and 10 more that of 99, 6 blocks.

    Each call takes 10 iterations, then the user thinks for 5 ms.
    """
    chat = GeneratorSpec(
        3, FixedLength(40), FixedLength(10), sessions=SessionSpec(turns=3), think_time="5ms", token_ids=True
    )
    records = simulate(config(), chat).requests
    assert [(r.prompt_tokens, r.cached_tokens) for r in records] == [(40, 0), (90, 48), (140, 96)]
    assert [(r.arrival_ns // MS, (r.finish_ns or 0) // MS) for r in records] == [(0, 10), (15, 25), (30, 40)]


def test_sessions_find_the_system_prompt_of_others() -> None:
    """64 shared tokens are 4 blocks; later sessions find them, with nothing else in common."""
    chat = GeneratorSpec(
        6,
        FixedLength(40),
        FixedLength(10),
        arrival=ArrivalSpec("fixed", {"request_rate": 1}),
        sessions=SessionSpec(turns=2),
        prefix=PrefixSpec(1, 64),
        token_ids=True,
    )
    records = simulate(config(), chat).requests
    assert [r.cached_tokens for r in records] == [0, 112, 64, 112, 64, 112]  # 104 + 9 tokens are 7 blocks


def test_generated_clients_wait_for_their_answers() -> None:
    """Two clients of two calls: 3 ms of answer, 2 ms of thought, 3 ms of answer."""
    load = GeneratorSpec(4, FixedLength(10), FixedLength(3), clients=2, think_time="2ms")
    records = simulate(config(), load).requests
    assert [(r.arrival_ns // MS, (r.finish_ns or 0) // MS) for r in records] == [(0, 3), (5, 8)] * 2


def test_urgent_requests_overtake_under_the_priority_policy_alone() -> None:
    """One seat and 60 requests at once: by priority, those of the urgent tenth all come first."""
    load = GeneratorSpec(
        60, FixedLength(10), FixedLength(2), priorities=(PriorityShare(0, 1), PriorityShare(5, 9)), seed=4
    )
    priorities = [item.priority for item in generate(load) if isinstance(item, RequestSpec)]
    assert set(priorities) == {0, 5}
    served = {}
    for policy in ("fcfs", "priority"):
        records = simulate(config(max_num_seqs=1, scheduling_policy=policy), load).requests
        served[policy] = [r.request_id for r in sorted(records, key=lambda r: r.finish_ns or 0)]
    assert served["fcfs"] == list(range(60))
    assert served["priority"] == sorted(range(60), key=lambda r: (priorities[r], r))


def test_each_model_is_served_by_its_own_machines(clusters: Clusters) -> None:
    """The small model on an H100 and on a TPU, the larger one on an A100."""
    data = clusters(3, router="round_robin")
    machines = [(SMALL, "H100"), (SMALL, "TPU-v6e-1"), (LARGER, "A100")]
    for instance, (model, hardware) in zip(data["nodes"][0]["instances"], machines, strict=True):
        instance.update(model=model, hardware=hardware)
    load = GeneratorSpec(
        40,
        UniformLength(20, 60),
        UniformLength(5, 20),
        arrival=ArrivalSpec("poisson", {"request_rate": 20}),
        models=(ModelShare(SMALL, 3), ModelShare(LARGER, 1)),
    )
    result = simulate(data, load)
    assert {(r.model, r.instance) for r in result.requests} == {(SMALL, 0), (SMALL, 1), (LARGER, 2)}
    assert result.summary["requests"]["finished"] == 40


@pytest.mark.parametrize(("hardware", "bandwidth"), [("A100", 2039), ("TPU-v5e-1", 819)])
def test_on_a_slower_machine_the_same_calls_take_longer(clusters: Clusters, hardware: str, bandwidth: int) -> None:
    """Decoding reads the weights: times per token go by the memories, 3,350 GB/s of an H100, to within a quarter."""
    data = clusters(2, router="round_robin")
    data["nodes"][0]["instances"][1]["hardware"] = hardware
    fast, slow = simulate(data, GeneratorSpec(2, FixedLength(20), FixedLength(40))).requests
    assert (fast.instance, slow.instance) == (0, 1)
    assert (slow.tpot_ms or 0) / (fast.tpot_ms or 1) == pytest.approx(3350 / bandwidth, rel=0.25)
