"""Rows of request_metrics.csv against every token's time, written down one by one by the plain rules."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmservingsim import Run
from llmservingsim.serving import Engine, Request, SpeculativeEngine
from llmservingsim.serving.batch_log import note_batch, note_batches
from llmservingsim.serving.cohort import DecodeCohort
from llmservingsim.workload import RequestSpec

MS = 1_000_000
PHASES = ("queueing_ms", "prefill_ms", "transfer_stall_ms", "transfer_ms", "decode_ms")
INSTANCE = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", "max_num_seqs": 6, "max_num_batched_tokens": 64}
DRAFTS = {
    "speculative_config": {
        "method": "eagle",
        "num_speculative_tokens": 3,
        "acceptance": {"policy": "fixed", "rate": 0.6},
    }
}
SYSTEMS: dict[str, list[dict[str, Any]]] = {
    "one": [{}],
    "synchronous": [{"async_scheduling": False}],
    "stages": [{"pipeline_parallel_size": 2}],
    "three": [{}, {}, {"tensor_parallel_size": 2}],
    "drafts": [DRAFTS],
    "split": [{"kv_role": "kv_producer"}, {"kv_role": "kv_consumer"}],
    "split, drafts": [{"kv_role": "kv_producer"}, {"kv_role": "kv_consumer"} | DRAFTS],
}
Times = dict[int, list[int]]

requests = st.lists(
    st.tuples(st.integers(1, 100), st.integers(1, 60), st.integers(0, 20), st.none() | st.integers(1, 200)),
    min_size=1,
    max_size=14,
)


def serve(
    patch: pytest.MonkeyPatch, spec: dict[str, Any], asked: list[RequestSpec], *, cohort: bool
) -> tuple[Run, Any, Times]:
    """Return a run, its result, and per request when each of its messages came; these only without a cohort."""
    times: dict[tuple[int, int], list[int]] = defaultdict(list)
    now = [0]
    if not cohort:
        patch.setattr(DecodeCohort, "can_join", lambda *_: False)
    complete = Engine.complete

    def completing(self: Engine, now_ns: int) -> Any:
        now[0] = now_ns
        return complete(self, now_ns)

    patch.setattr(Engine, "complete", completing)
    for kind in (Engine, SpeculativeEngine):
        append = kind.__dict__["_append"]

        def appending(self: Engine, request: Request, generation: int, append: Any = append) -> int:
            times[self.index, request.request_id].append(now[0])
            sampled: int = append(self, request, generation)
            return sampled

        patch.setattr(kind, "_append", appending)
    run = Run(spec, asked)
    result = run.execute()
    seen: Times = {}
    twice = spec["kv_transfer"]["first_token"] == "decode"
    is_split = "kv_role" in spec["nodes"][0]["instances"][0]
    for record in result.requests:
        sides = range(len(run.system.instances))
        heard = [side for side in sides if not (is_split and twice and side == 0 and record.output_tokens)]
        seen[record.request_id] = [t for side in heard for t in times[side, record.request_id]]
    return run, result, seen


@given(
    system=st.sampled_from(sorted(SYSTEMS)),
    drawn=requests,
    blocks=st.integers(14, 40),
    mode=st.sampled_from(["pull", "push"]),
    first_token=st.sampled_from(["prefill", "decode"]),
    shared=st.booleans(),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_rows_are_what_the_times_of_all_tokens_say(
    system: str, drawn: list[Any], blocks: int, mode: str, first_token: str, shared: bool
) -> None:
    """Phases add up, gaps have these statistics, and together they are the run's; a cohort changes nothing."""
    spec = {
        "nodes": [{"instances": [INSTANCE | {"num_gpu_blocks": blocks} | one for one in SYSTEMS[system]]}],
        "kv_transfer": {"mode": mode, "first_token": first_token},
        "slo": {"ttft": "20ms", "itl": "4ms", "itl_p99": "3ms"},
    }
    asked = [
        RequestSpec(
            i,
            at * MS,
            prompt,
            output,
            tuple(range(prompt + output)) if shared else None,
            abort_after_ns=None if patience is None else patience * MS,
        )
        for i, (prompt, output, at, patience) in enumerate(drawn)
    ]
    with pytest.MonkeyPatch.context() as patch:
        run, plain, times = serve(patch, spec, asked, cohort=False)
    with pytest.MonkeyPatch.context() as patch:
        _, together, _ = serve(patch, spec, asked, cohort=True)
    assert together.request_metrics == plain.request_metrics
    assert together.summary | {"wall_s": 0} == plain.summary | {"wall_s": 0}
    counted: Counter[int] = Counter()
    for row, record in zip(plain.request_metrics, plain.requests, strict=True):
        gaps = np.diff(times[row.request_id])
        counted.update(gaps.tolist())
        if row.status == "finished":
            assert sum(round(getattr(row, phase) * MS) for phase in PHASES) == record.finish_ns - record.arrival_ns
            assert times[row.request_id][-1] == record.finish_ns
            assert all(getattr(row, phase) >= 0 for phase in PHASES)
        found = (row.itl_mean_ms, row.itl_p50_ms, row.itl_p90_ms, row.itl_p99_ms, row.itl_max_ms)
        if not len(gaps):
            assert found == (None,) * 5
            continue
        expected = [gaps.mean(), *np.percentile(gaps, [50, 90, 99, 100])]
        assert found == pytest.approx([value / MS for value in expected], abs=1e-6)
        good = record.finish_ns is not None and gaps.max() <= 4 * MS
        assert (row.slo or {})["itl"] == good
    assert counted == run.recorder.token_gaps_ns
    instances = plain.summary["instances"]
    for key in ("finished", "aborted", "rejected"):
        assert sum(one["requests"][key] for one in instances) == plain.summary["requests"][key]
    for key in ("prompt", "cached", "output"):
        assert sum(one["tokens"][key] for one in instances) == plain.summary["tokens"][key]
    assert sum(one["preemptions"] for one in instances) == plain.summary["preemptions"]
    assert all(0 <= one["busy_pct"] <= 100 for one in instances)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), max_size=30), st.booleans())
@settings(max_examples=200, deadline=None)
def test_runs_hold_the_batches_that_were_noted(steps: list[tuple[int, int]], neighbours: bool) -> None:
    """Each step leaves a distance and notes so many batches, together or one by one."""
    runs = Request(0, 0, 1).token_batches
    noted: list[int] = []
    at = 0
    for distance, count in steps:
        first = at + distance
        at = first + count - 1
        noted += range(first, at + 1)
        if neighbours:
            note_batches(runs, first, at)
        else:
            for index in range(first, at + 1):
                note_batch(runs, index)
    found = []
    for place in range(0, len(runs), 3):
        first, last, step = runs[place : place + 3]
        found += range(first, last + 1, step or 1)
    assert found == noted
