"""Aborts, limits, sessions, clients, stages, groups and KV transfers in one run: nothing is lost, nothing is left."""

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmservingsim import Run
from llmservingsim.latency import ExpertWork
from llmservingsim.report import RequestRecord
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec, Session

MS = 1_000_000
DENSE, LARGER, EXPERTS = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-3B", "Qwen/Qwen3-30B-A3B"


class MillisecondAndTokens:
    """Latencies by which an iteration takes 1 ms and 1 us per token, or that for each stage."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return MS + 1000 * shape.num_tokens if operator in ("embedding", "lm_head") else 0

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.zeros(work.pairs.shape, dtype=np.int64)

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


CLUSTERS: dict[str, list[dict[str, Any]]] = {
    "one": [{"model": DENSE}],
    "two models": [{"model": DENSE}, {"model": LARGER}, {"model": DENSE, "hardware": "A100"}],
    "stages": [{"model": DENSE, "pipeline_parallel_size": 2}],
    "group": [{"model": EXPERTS, "data_parallel_group": "g"}] * 2,
    "prefill and decode": [{"model": DENSE, "kv_role": role} for role in ("kv_producer", "kv_consumer", "kv_both")],
}


def config(cluster: str, blocks: int, *, asynchronous: bool, policy: str) -> dict[str, Any]:
    return {
        "nodes": [{"instances": [{"hardware": "H100", **instance} for instance in CLUSTERS[cluster]]}],
        "network": {"topology": "Switch", "bandwidth": "1GB/s", "latency": "500ns"},
        "serving": {
            "latency": {"source": f"{__name__}:MillisecondAndTokens"},
            "enforce_eager": True,
            "async_scheduling": asynchronous,
            "scheduling_policy": policy,
            "num_gpu_blocks": blocks,
            "max_num_seqs": 6,
            "max_num_batched_tokens": 128,
        },
    }


calls = st.lists(
    st.tuples(st.integers(1, 150), st.integers(1, 30), st.none() | st.integers(1, 60_000)), min_size=1, max_size=3
)
workloads = st.lists(st.tuples(calls, st.integers(0, 30), st.booleans(), st.integers(0, 2)), min_size=1, max_size=12)


def sessions(drawn: list[tuple[Any, int, bool, int]], cluster: str) -> list[Session]:
    """Sessions of up to three calls; about half of them share their tokens."""
    made, number = [], 0
    for session_calls, at_ms, shared, priority in sorted(drawn, key=lambda session: session[1]):
        specs = []
        for prompt, output, patience_us in session_calls:
            specs.append(
                RequestSpec(
                    number,
                    at_ms * MS,
                    prompt,
                    output,
                    tuple(range(prompt + output)) if shared else None,
                    priority=priority,
                    model=(DENSE if shared else LARGER) if cluster == "two models" else None,
                    abort_after_ns=None if patience_us is None else patience_us * 1000,
                )
            )
            number += 1
        made.append(Session(tuple(specs), (3 * MS,) * len(specs)))
    return made


class Circumstances(NamedTuple):
    """What a run is put under."""

    blocks: int
    asynchronous: bool
    policy: str
    admission: tuple[int, str] | None
    ttft_ms: int | None
    ends_session: bool
    clients: int | None


circumstances = st.builds(
    Circumstances,
    blocks=st.integers(13, 40),
    asynchronous=st.booleans(),
    policy=st.sampled_from(["fcfs", "priority"]),
    admission=st.none() | st.sampled_from([(1, "queue"), (2, "reject"), (3, "queue")]),
    ttft_ms=st.none() | st.integers(1, 20),
    ends_session=st.booleans(),
    clients=st.none() | st.integers(1, 4),
)


@pytest.mark.parametrize("cluster", CLUSTERS)
@given(drawn=workloads, under=circumstances)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_call_ends_and_every_block_comes_back(
    cluster: str, drawn: list[tuple[Any, int, bool, int]], under: Circumstances
) -> None:
    blocks, asynchronous, policy, admission, ttft_ms, ends_session, clients = under
    spec = config(cluster, blocks, asynchronous=asynchronous, policy=policy)
    if admission is not None:
        spec["admission"] = {"max_waiting_per_instance": admission[0], "policy": admission[1]}
    if ttft_ms is not None or ends_session:
        ttft = None if ttft_ms is None else f"{ttft_ms}ms"
        spec["timeouts"] = {"ttft": ttft, "session": "end" if ends_session else "continue"}
    if clients is not None:
        spec["clients"] = {"max_concurrency": clients, "think_time": "2ms"}
    asked = sessions(drawn, cluster)
    made = Run(spec, asked)
    result = made.execute()
    counts = result.summary["requests"]
    assert counts["held"] == 0
    assert counts["arrived"] == counts["finished"] + counts["aborted"] + counts["rejected"] == len(result.requests)
    if not ends_session:
        assert len(result.requests) == sum(len(session.calls) for session in asked)
    for one in made.system.instances:
        one.engine.kv.pool.check([])
        assert (one.engine.num_running, one.engine.num_waiting, one.engine.holds_requests) == (0, 0, False)
    specs = {call.request_id: call for session in asked for call in session.calls}
    for record in result.requests:
        check(record, specs[record.request_id], None if ttft_ms is None else ttft_ms * MS)
    assert Run(spec, asked).execute().requests == result.requests


def check(record: RequestRecord, spec: RequestSpec, ttft_ns: int | None) -> None:
    """No limit was passed, none fired too early to be true, and what is filled in fits the status."""
    last_ns = spec.abort_after_ns
    times = [t for t in (record.scheduled_ns, record.first_token_ns, record.finish_ns) if t is not None]
    assert [record.arrival_ns, *times] == sorted([record.arrival_ns, *times])
    if record.status == "finished":
        assert record.output_tokens == spec.output_tokens
        assert record.finish_ns is not None
        assert last_ns is None or record.finish_ns - record.arrival_ns <= last_ns
    elif record.status == "aborted":
        assert record.finish_ns is None
        assert record.output_tokens < spec.output_tokens
        assert record.reason == ("ttft" if last_ns is None or record.reason == "ttft" else "abort_after_ns")
        assert record.reason != "ttft" or record.first_token_ns is None
    else:
        assert times == []
    if record.first_token_ns is not None and ttft_ns is not None:
        assert record.first_token_ns - record.arrival_ns <= ttft_ns
    assert (record.first_token_ns is not None) == (record.output_tokens > 0) or record.status == "rejected"
