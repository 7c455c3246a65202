"""Whatever the mode and the layouts: every request ends, what was sent arrives, and no block stays held."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmservingsim import Run
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec

MS = 1_000_000
KV_BYTES = 32_768
"""Per token of Llama-3.2-1B: 2 * 8 heads * 64 * 2 bytes * 16 blocks."""

Drawn = list[tuple[int, int, int]]


class QuarterOfAMillisecond:
    """Latencies by which a block takes 60 us and sampling 40."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return {"attention": 60_000, "sampler": 40_000}.get(operator, 0)

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


layouts = st.tuples(st.sampled_from([1, 2, 4]), st.sampled_from([1, 2, 3]))
drawn_requests = st.lists(
    st.tuples(st.integers(1, 150), st.integers(1, 40), st.integers(0, 30)), min_size=1, max_size=25
)
any_layout = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["pull", "push", "push_layerwise"]),
        "first_token": st.sampled_from(["decode", "prefill"]),
        "get_finished": st.sampled_from(["at_launch", "at_end"]),
        "proxy_latency": st.sampled_from(["0ns", "300us"]),
    }
)
one_rank = st.one_of(any_layout, any_layout.map(lambda made: made | {"mode": "pull", "load_kv_async": False}))


def instance(role: str, blocks: int, layout: tuple[int, int], **options: object) -> dict[str, Any]:
    tp, pp = layout
    return {
        "model": "meta-llama/Llama-3.2-1B",
        "hardware": "H100",
        "kv_role": role,
        "num_gpu_blocks": blocks,
        "tensor_parallel_size": tp,
        "pipeline_parallel_size": pp,
        **options,
    }


def config(instances: list[dict[str, Any]], kv_transfer: dict[str, Any], **serving: object) -> dict[str, Any]:
    return {
        "nodes": [{"instances": instances}],
        "network": {"topology": "Switch", "bandwidth": "2GB/s", "latency": "500ns", "model": "flow"},
        "serving": {"latency": {"source": f"{__name__}:QuarterOfAMillisecond"}, "enforce_eager": True, **serving},
        "kv_transfer": kv_transfer,
    }


def run(spec: dict[str, Any], drawn: Drawn, *, shared: bool) -> Run:
    """Serve requests given as (prompt, output, arrival in ms)."""
    requests = [
        RequestSpec(i, at * MS, p, o, tuple(range(p + o)) if shared else None) for i, (p, o, at) in enumerate(drawn)
    ]
    made = Run(spec, requests)
    made.execute()
    return made


def check_ends(made: Run, drawn: Drawn) -> None:
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    assert [(r.status, r.output_tokens) for r in records] == [("finished", output) for _, output, _ in drawn]
    for record, (_, _, at) in zip(records, drawn, strict=True):
        assert at * MS <= (record.scheduled_ns or 0) <= (record.first_token_ns or 0) <= (record.finish_ns or 0)
    check_at_rest(made)
    sampled = sum(output for _, output, _ in drawn)
    assert made.recorder.output_tokens == sampled


def check_at_rest(made: Run) -> None:
    for one in made.system.instances:
        pool = one.engine.kv.pool
        pool.check([])
        assert (pool.num_held, one.engine.holds_requests, one.engine.num_waiting) == (0, False, 0)
    owner = made.system.transfers
    assert owner is not None
    assert owner.describe_waiting() == []


@given(
    drawn=drawn_requests,
    blocks=st.integers(14, 40),
    shared=st.booleans(),
    kv_transfer=one_rank,
    serving=st.fixed_dictionaries(
        {
            "async_scheduling": st.booleans(),
            "max_num_batched_tokens": st.sampled_from([48, 64, 2048]),
            "scheduler_reserve_full_isl": st.booleans(),
            "max_num_seqs": st.sampled_from([3, 40]),
            "scheduling_policy": st.sampled_from(["fcfs", "priority"]),
        }
    ),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_request_ends_and_every_block_comes_back(
    drawn: Drawn, blocks: int, shared: bool, kv_transfer: dict[str, Any], serving: dict[str, Any]
) -> None:
    """Few blocks on both sides: prompts are preempted while they are pushed, and pushes wait for blocks."""
    sides = [("kv_producer", 0), ("kv_producer", 3), ("kv_consumer", 0), ("kv_consumer", 5)]
    instances = [instance(role, blocks + more, (1, 1)) for role, more in sides]
    made = run(config(instances, kv_transfer, **serving), drawn, shared=shared)
    check_ends(made, drawn)


@given(
    drawn=st.lists(
        st.tuples(st.integers(1, 150), st.integers(1, 40), st.integers(0, 30), st.none() | st.integers(1, 60_000)),
        min_size=1,
        max_size=25,
    ),
    blocks=st.integers(14, 40),
    kv_transfer=one_rank,
    serving=st.fixed_dictionaries(
        {
            "async_scheduling": st.booleans(),
            "max_num_batched_tokens": st.sampled_from([48, 2048]),
            "max_num_seqs": st.sampled_from([3, 40]),
        }
    ),
    ttft=st.none() | st.sampled_from(["2ms", "9ms"]),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_wherever_a_request_is_given_up_every_block_comes_back(
    drawn: list[tuple[int, int, int, int | None]],
    blocks: int,
    kv_transfer: dict[str, Any],
    serving: dict[str, Any],
    ttft: str | None,
) -> None:
    """Requests as (prompt, output, arrival in ms, patience in us)."""
    sides = [("kv_producer", 0), ("kv_producer", 3), ("kv_consumer", 0), ("kv_consumer", 5)]
    spec = config([instance(role, blocks + more, (1, 1)) for role, more in sides], kv_transfer, **serving)
    spec |= {"timeouts": {"ttft": ttft}} if ttft else {}
    requests = [
        RequestSpec(i, at * MS, p, o, None, abort_after_ns=None if wait is None else wait * 1000)
        for i, (p, o, at, wait) in enumerate(drawn)
    ]
    made = Run(spec, requests)
    made.execute()
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    assert len(records) == len(drawn)
    for record, (_, output, _, wait) in zip(records, drawn, strict=True):
        assert record.status == "finished" or (record.status == "aborted" and (wait is not None or ttft))
        assert record.output_tokens == output if record.status == "finished" else record.output_tokens < output
        if ttft is not None and record.status == "finished":
            assert record.first_token_ns is not None
            assert record.first_token_ns - record.arrival_ns <= int(ttft[:-2]) * MS
    check_at_rest(made)


@given(drawn=drawn_requests, source=layouts, target=layouts, kv_transfer=any_layout, blocks=st.integers(14, 60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_unequal_layouts_lose_nothing(
    drawn: Drawn, source: tuple[int, int], target: tuple[int, int], kv_transfer: dict[str, Any], blocks: int
) -> None:
    spec = config(
        [instance("kv_consumer", blocks, target), instance("kv_producer", blocks, source)],
        kv_transfer,
        max_num_batched_tokens=64,
        max_num_seqs=16,
    )
    check_ends(run(spec, drawn, shared=False), drawn)


@given(drawn=drawn_requests, kv_transfer=one_rank, shared=st.booleans(), blocks=st.integers(14, 60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_the_links_carried_is_what_the_records_say(
    drawn: Drawn, kv_transfer: dict[str, Any], shared: bool, blocks: int
) -> None:
    """One rank on each side, so that nothing else is on the links: all bytes leave one and reach the other."""
    spec = config([instance("kv_producer", blocks, (1, 1)), instance("kv_consumer", blocks, (1, 1))], kv_transfer)
    made = run(spec, drawn, shared=shared)
    check_ends(made, drawn)
    assert made.system.transfers is not None
    records = made.system.transfers.records
    ends = made.system.backend.link_ends()  # type: ignore[attr-defined]
    carried = np.asarray(made.system.backend.link_bytes())  # type: ignore[attr-defined]
    sent = sum(int(b) for (a, _), b in zip(ends, carried, strict=True) if a == 0)
    received = sum(int(b) for (_, a), b in zip(ends, carried, strict=True) if a == 1)
    stated = sum(r.num_bytes for r in records) + made.system.transfers.wasted_bytes
    assert sent == received == stated
    assert all(r.num_bytes == r.num_tokens * KV_BYTES for r in records)
    assert all(0 <= r.hidden_bytes <= r.num_bytes for r in records)
