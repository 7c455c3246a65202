"""Prompts computed by one instance, answers by another: times worked out by hand, and nothing lost.

An iteration takes 1 ms whatever it holds. Llama-3.2-1B keeps 2 * 8 heads * 64 * 2 bytes * 16 blocks = 32,768 bytes per
token; a link moves 1 byte per nanosecond and costs 1,000 ns.
"""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmservingsim import Run
from llmservingsim.errors import ConfigError
from llmservingsim.workload import RequestSpec

MS = 1_000_000
KV_BYTES = 32_768


def instance(role: str, **options: object) -> dict[str, Any]:
    return {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", "kv_role": role, "num_gpu_blocks": 1001, **options}


def config(*instances: dict[str, Any], **network: object) -> dict[str, Any]:
    return {
        "nodes": [{"instances": list(instances)}],
        "network": {"topology": "Switch", "bandwidth": "1GB/s", "latency": "500ns", **network},
        "serving": {"latency": {"source": "constant_latency:Constant"}, "enforce_eager": True},
        "kv_transfer": {"first_token": "prefill", "get_finished": "at_end"},
    }


def request(
    number: int, prompt: int, output: int, arrival_ns: int = 0, ids: Sequence[int] | None = None
) -> RequestSpec:
    return RequestSpec(number, arrival_ns, prompt, output, None if ids is None else tuple(ids))


def run(spec: dict[str, Any], *requests: RequestSpec) -> Run:
    made = Run(spec, list(requests))
    made.execute()
    return made


def crossing_ns(tokens: int, latency_ns: int = 1000) -> int:
    return latency_ns + tokens * KV_BYTES


def near(ns: int) -> Any:
    """A message's time drops its fraction, of a bandwidth that is not exactly 1 byte per nanosecond in binary."""
    return pytest.approx(ns, abs=2)


def test_a_request_is_prefilled_then_moved_then_decoded() -> None:
    done = run(config(instance("kv_producer"), instance("kv_consumer")), request(0, prompt=100, output=3))
    (record,) = done.recorder.records
    assert (record.instance, record.decode_instance, record.output_tokens) == (0, 1, 3)
    assert (record.scheduled_ns, record.first_token_ns) == (0, 1 * MS)
    assert record.finish_ns == near(1 * MS + crossing_ns(100) + 2 * MS)
    transfers = done.result().summary["kv_transfers"]
    assert (transfers["count"], transfers["tokens"], transfers["bytes"]) == (1, 100, 100 * KV_BYTES)
    (pair,) = transfers["pairs"].items()
    assert (pair[0], pair[1]["count"], pair[1]["bytes"]) == ("instance:0->instance:1", 1, 100 * KV_BYTES)
    assert (transfers["time_ms"]["mean"], transfers["stall_ms"]["mean"]) == (pytest.approx(3.2778), 0)
    assert (transfers["exposed_ms"]["mean"], transfers["hidden_bytes"]) == (pytest.approx(3.2778), 0)


def test_an_answer_of_one_token_needs_no_decode() -> None:
    done = run(config(instance("kv_producer"), instance("kv_consumer")), request(0, prompt=100, output=1))
    (record,) = done.recorder.records
    assert (record.decode_instance, record.finish_ns) == (None, 1 * MS)
    assert done.result().summary["kv_transfers"] is None


def test_a_full_decode_side_lets_requests_wait_and_the_prefill_side_hold_their_blocks() -> None:
    """8 blocks of 16 hold one request of 112 + 3 tokens at a time: the second crosses when the first has ended."""
    spec = config(instance("kv_producer"), instance("kv_consumer", num_gpu_blocks=9, async_scheduling=False))
    made = Run(spec, [request(0, prompt=112, output=3), request(1, prompt=112, output=3)])
    made.execute()
    first, second = made.system.transfers.records if made.system.transfers else ()
    assert (first.handed_ns, first.start_ns, second.handed_ns) == (1 * MS, 1 * MS, 1 * MS)
    assert first.end_ns == near(1 * MS + crossing_ns(112))
    assert second.start_ns == first.end_ns + 2 * MS  # two decode steps of the first
    assert [i.engine.kv.pool.num_held for i in made.system.instances] == [0, 0]


def test_two_whose_last_token_begins_a_block_do_not_wait_for_each_others_blocks() -> None:
    """Prompts of 48 and 64 tokens fill 3 and 4 of 7 blocks; their first tokens need one more each."""
    spec = config(instance("kv_producer"), instance("kv_consumer", num_gpu_blocks=8))
    done = run(spec, request(0, prompt=48, output=3), request(1, prompt=64, output=3))
    assert [r.status for r in done.recorder.records] == ["finished"] * 2


def test_what_the_decode_side_has_cached_does_not_cross_again() -> None:
    """160 tokens are 10 blocks; the second prompt shares the first 6 of them and is 7 long."""
    ids = list(range(400))
    spec = config(instance("kv_producer"), instance("kv_consumer"))
    later = [*ids[:96], *range(1000, 1020)]
    made = run(spec, request(0, 160, 4, ids=ids), request(1, 112, 4, arrival_ns=50 * MS, ids=later))
    assert made.system.transfers is not None
    assert [r.num_tokens for r in made.system.transfers.records] == [160, 112 - 96]


def test_a_wider_decode_instance_receives_its_heads_one_rank_after_the_other() -> None:
    """The one prefill rank sends each half by itself, and a send holds its slot until it has arrived."""
    spec = config(instance("kv_producer"), instance("kv_consumer", tensor_parallel_size=2))
    made = run(spec, request(0, prompt=100, output=2))
    assert made.system.transfers is not None
    (record,) = made.system.transfers.records
    assert record.num_bytes == 100 * KV_BYTES
    assert record.end_ns - record.start_ns == near(2 * 1000 + 100 * KV_BYTES)


@pytest.mark.parametrize(("model", "factor"), [("unaware", 1), ("flow", 2)])
def test_two_transfers_share_the_link_of_the_decode_instance(model: str, factor: int) -> None:
    spec = config(instance("kv_producer"), instance("kv_producer"), instance("kv_consumer"), model=model)
    made = run(spec, request(0, prompt=100, output=2), request(1, prompt=100, output=2))
    assert made.system.transfers is not None
    times = [r.end_ns - r.start_ns for r in made.system.transfers.records]
    assert times == [near(1000 + factor * 100 * KV_BYTES)] * 2


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["kv_producer"], "instance 0 is a kv_producer, but no instance of .* is a kv_consumer"),
        (["kv_both", "kv_consumer"], "instance 1 is a kv_consumer, but no instance of .* is a kv_producer"),
    ],
)
def test_one_side_alone_is_refused(roles: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Run(config(*map(instance, roles)), [request(0, 1, 1)])


def test_sides_of_different_kv_types_are_refused() -> None:
    spec = config(instance("kv_producer"), instance("kv_consumer", kv_cache_dtype="fp8"))
    with pytest.raises(ConfigError, match=r"keep their KV in different types \(auto and fp8\)"):
        Run(spec, [request(0, 1, 1)])


def test_what_no_decode_instance_can_hold_is_rejected_before_its_prompt_is_computed() -> None:
    spec = config(instance("kv_producer"), instance("kv_consumer", num_gpu_blocks=4))
    made = run(spec, request(0, prompt=40, output=9), request(1, prompt=40, output=10))
    assert sorted((r.request_id, r.status) for r in made.recorder.records) == [(0, "finished"), (1, "rejected")]


requests = st.lists(
    st.builds(
        lambda prompt, output, at: (prompt, output, at), st.integers(1, 150), st.integers(1, 40), st.integers(0, 30)
    ),
    min_size=1,
    max_size=25,
)


@given(drawn=requests, blocks=st.integers(14, 40), shared=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_request_ends_and_every_block_comes_back(
    drawn: list[tuple[int, int, int]], blocks: int, shared: bool
) -> None:
    """Few blocks on both sides: requests wait, are preempted, lose their KV while their first token is on its way."""
    spec = config(
        instance("kv_producer", num_gpu_blocks=blocks),
        instance("kv_producer", num_gpu_blocks=blocks + 3),
        instance("kv_consumer", num_gpu_blocks=blocks),
        instance("kv_consumer", num_gpu_blocks=blocks + 5),
        model="flow",
    )
    made = run(
        spec,
        *(
            request(i, prompt, output, at * MS, range(prompt + output) if shared else None)
            for i, (prompt, output, at) in enumerate(drawn)
        ),
    )
    assert {r.status for r in made.recorder.records} == {"finished"}
    assert len(made.recorder.records) == len(drawn)
    for record, (_, output, at) in zip(sorted(made.recorder.records, key=lambda r: r.request_id), drawn, strict=True):
        assert record.output_tokens == output
        assert at * MS <= (record.scheduled_ns or 0) <= (record.first_token_ns or 0) <= (record.finish_ns or 0)
    for one in made.system.instances:
        pool = one.engine.kv.pool
        assert (pool.num_held, pool.num_free) == (0, pool.num_usable)


class NoLoads:
    """A scheduler that knows nothing of KV that is elsewhere."""

    def __init__(self, *parts: object) -> None:
        self.running: list[object] = []

    def add(self, request: object) -> None: ...
    def schedule(self, now_ns: int) -> list[object]: ...
    def finish(self, request: object) -> None: ...
    def waiting(self) -> list[object]: ...


def test_a_scheduler_that_cannot_load_is_refused_on_the_decode_side() -> None:
    spec = config(instance("kv_producer"), instance("kv_consumer", scheduler=f"{__name__}:NoLoads"))
    with pytest.raises(ConfigError, match="instance 1 is a kv_consumer, but its scheduler 'NoLoads' has no methods"):
        Run(spec, [request(0, 1, 1)])


def test_routers_that_learn_hear_of_what_they_sent() -> None:
    """Each router is told of the instance that it chose itself."""
    spec = config(*[instance("kv_producer")] * 2, *[instance("kv_consumer")] * 2)
    spec |= {"router": "expected_time", "decode_router": "expected_time"}
    made = run(spec, *(request(i, 50, 5) for i in range(6)))
    assert {r.instance for r in made.recorder.records} == {0, 1}
    assert {r.decode_instance for r in made.recorder.records} == {2, 3}


def test_a_router_without_a_choice_is_neither_asked_nor_told() -> None:
    """One decode instance; or two, one of which can hold no prompt of 50: then it is asked, and told."""
    spec = config(instance("kv_producer"), instance("kv_consumer")) | {"decode_router": "expected_time"}
    assert {r.status for r in run(spec, *(request(i, 50, 5) for i in range(3))).recorder.records} == {"finished"}
    spec = config(instance("kv_producer"), instance("kv_consumer", num_gpu_blocks=3), instance("kv_consumer"))
    made = run(spec | {"decode_router": "expected_time"}, *(request(i, 50, 5) for i in range(3)))
    assert {(r.status, r.decode_instance) for r in made.recorder.records} == {("finished", 2)}


def test_preemptions_of_both_sides_count() -> None:
    """8 blocks: the first prompt holds 3 until it has crossed, so the second, of 7, loses its own on the way."""
    prefill = instance("kv_producer", num_gpu_blocks=9, max_num_batched_tokens=32, max_num_seqs=4)
    spec = config(prefill, instance("kv_consumer"))
    spec["serving"]["scheduler_reserve_full_isl"] = False
    made = run(spec, request(0, 40, 2), request(1, 100, 2))
    assert [(r.status, r.preemptions) for r in made.recorder.records] == [("finished", 0), ("finished", 1)]
