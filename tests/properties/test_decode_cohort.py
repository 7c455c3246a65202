"""Moving decodes together changes nothing: every batch and every token equal those of the plain rules.

Requests arrive and are given up at any time.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass
from itertools import count

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.serving import SCHEDULERS, Engine, EngineConfig, Request, SchedulerConfig
from llmservingsim.serving.hold_ups import Refusal
from llmservingsim.serving.kv import BlockPool
from llmservingsim.workload import RequestSpec

_TURNS_MAX = 20_000


@dataclass(frozen=True)
class Scenario:
    """An engine and what it is asked."""

    config: EngineConfig
    requests: tuple[RequestSpec, ...]
    step_ns: int


@st.composite
def scenarios(draw: st.DrawFn, *, tight: bool = False) -> Scenario:
    block_size = draw(st.sampled_from([1, 2, 4, 16]))
    max_num_seqs = draw(st.integers(1, 8))
    config = EngineConfig(
        scheduler=SchedulerConfig(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=draw(st.sampled_from([max(2, max_num_seqs // 2), max_num_seqs, 16, 64])),
            max_model_len=draw(st.sampled_from([24, 64])),
            long_prefill_token_threshold=draw(st.sampled_from([0, 3, 8])),
            scheduler_reserve_full_isl=tight or draw(st.booleans()),
            policy=draw(st.sampled_from(["fcfs", "priority"])),
        ),
        num_gpu_blocks=-(-42 // block_size) + 2 if tight else draw(st.integers(4, 64)) * (16 // block_size) // 2 + 2,
        block_size=block_size,
        enable_prefix_caching=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
    )
    step_ns = draw(st.sampled_from([1, 10, 1000]))
    requests, arrival_ns = [], 0
    for index in range(draw(st.integers(1, 14))):
        arrival_ns += 0 if tight else draw(st.sampled_from([0, 0, 3, 25, 400, 5000]))
        prompt, output = draw(st.integers(1, 40)), draw(st.integers(1, 40))
        ids = None
        if draw(st.booleans()):  # long runs of one token share prefixes, prompts with outputs too
            ids = tuple([draw(st.sampled_from([1, 2]))] * (prompt + output))
        patience_ns = None if tight else draw(st.none() | st.sampled_from([1, 2, 30, 400, 2000, 30_000]))
        priority = draw(st.integers(0, 2))
        requests.append(
            RequestSpec(index, arrival_ns, prompt, output, ids, priority=priority, abort_after_ns=patience_ns)
        )
    return Scenario(config, tuple(requests), step_ns)


def abort_due(engine: Engine, patience: list[tuple[int, int, Request]], now_ns: int) -> list[object]:
    """Give up the requests whose deadline has come, unless they have finished."""
    seen: list[object] = []
    while patience and patience[0][0] <= now_ns:
        deadline_ns, _, request = heapq.heappop(patience)
        if engine.holds(request):
            seen.append(("aborted", deadline_ns, request.request_id, engine.abort(request)))
    return seen


def run(scenario: Scenario, *, decode_cohort: bool) -> list[object]:
    """Serve the scenario with batches that take as long as their shape says; return all that can be observed."""
    config = msgspec.structs.replace(scenario.config, decode_cohort=decode_cohort)
    engine = Engine(0, config, SCHEDULERS["vllm"])
    arrivals = deque(r for r in scenario.requests if engine.reject_reason(r) is None)
    ends: deque[int] = deque()
    seen: list[object] = []
    held: list[Request] = []
    patience: list[tuple[int, int, Request]] = []
    now_ns = 0
    for turn in count():
        assert turn < _TURNS_MAX, "the engine does not come to an end"
        seen += abort_due(engine, patience, now_ns)
        engine.kv.pool.check([r.block_ids for r in held])
        while arrivals and arrivals[0].arrival_ns <= now_ns:
            spec = arrivals.popleft()
            held.append(engine.add(spec))
            if spec.abort_after_ns is not None:
                heapq.heappush(patience, (now_ns + spec.abort_after_ns, spec.request_id, held[-1]))
        while (batch := engine.next_batch(now_ns)) is not None:
            shape = batch.shape
            work = 1 + shape.num_tokens + shape.decode_kv_tokens // 7 + shape.max_decode_kv_tokens
            ends.append(max(now_ns, ends[-1] if ends else 0) + scenario.step_ns * work)
            seen.append((batch.index, shape, engine.kv.pool.num_free))
        coming = [arrivals[0].arrival_ns] if arrivals else []
        coming += [patience[0][0]] if patience else []
        if not ends and not coming:
            break
        if coming and (not ends or min(coming) < ends[0]):
            now_ns = min(coming)
            continue
        now_ns = ends.popleft()
        outcome = engine.complete(now_ns)
        finished, gaps = [r.request_id for r in outcome.finished], sorted(outcome.token_gaps_ns.items())
        seen.append((now_ns, finished, outcome.num_sampled, gaps, engine.num_running, engine.num_waiting))
        engine.kv.pool.check([r.block_ids for r in held])
    assert not engine.holds_requests
    seen.append(
        [
            (
                r.request_id,
                r.scheduled_ns,
                r.first_token_ns,
                r.last_token_ns,
                r.num_tokens,
                r.cached_tokens,
                r.num_preemptions,
            )
            for r in held
        ]
    )
    return seen


@given(scenarios())
@settings(max_examples=300, deadline=None)
def test_a_cohort_changes_no_batch_and_no_token(scenario: Scenario) -> None:
    """Batch shapes, free blocks, token times and gaps are equal with and without the cohort."""
    assert run(scenario, decode_cohort=True) == run(scenario, decode_cohort=False)


def test_a_prompt_hits_the_blocks_that_a_member_fills_while_it_decodes() -> None:
    """Blocks filled in the cohort enter the prefix index at the same iteration as by the plain rules."""
    config = EngineConfig(
        scheduler=SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=200),
        num_gpu_blocks=100,
        block_size=2,
    )
    first = RequestSpec(0, 0, 4, 60, (1,) * 64)
    for arrival_ns in range(200, 900, 50):
        later = RequestSpec(1, arrival_ns, 50, 2, (1,) * 52)
        scenario = Scenario(config, (first, later), 1)
        together, apart = (run(scenario, decode_cohort=c) for c in (True, False))
        assert together == apart
        cached_tokens = together[-1][1][2]  # type: ignore[index]
        assert cached_tokens > first.prompt_tokens


@pytest.mark.parametrize("decode_cohort", [False, True])
def test_what_a_member_filled_before_it_was_given_up_is_found(decode_cohort: bool) -> None:
    """Two batches end before the next is formed. Of 4 + 3 tokens the KV of 6 is there by then, in blocks of 1."""
    limits = SchedulerConfig(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=200)
    engine = Engine(
        0,
        EngineConfig(scheduler=limits, num_gpu_blocks=50, block_size=1, decode_cohort=decode_cohort),
        SCHEDULERS["vllm"],
    )
    request = engine.add(RequestSpec(0, 0, 4, 20, (1,) * 24))
    for now_ns in (1, 2, 3):
        while engine.next_batch(now_ns) is not None:
            pass
        engine.complete(now_ns)
        if now_ns == 2:
            engine.complete(now_ns)
            assert engine.abort(request) == 3
            later = engine.add(RequestSpec(1, now_ns, 20, 1, (1,) * 21))
    assert later.cached_tokens == 6


def test_a_refusal_that_is_remembered_is_the_one_that_looking_again_would_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the memory of the last refusal every batch and every token are the same."""
    holds = Refusal.holds
    remembered = 0

    @given(scenarios(tight=True))
    @settings(max_examples=200, deadline=None)
    def compare(scenario: Scenario) -> None:
        nonlocal remembered
        with monkeypatch.context() as patch:
            patch.setattr(Refusal, "holds", lambda *_: False)
            looked_up = run(scenario, decode_cohort=True)

            def counted(refusal: Refusal, request: Request, pool: BlockPool) -> bool:
                nonlocal remembered
                held = holds(refusal, request, pool)
                remembered += held
                return held

            patch.setattr(Refusal, "holds", counted)
            assert run(scenario, decode_cohort=True) == looked_up

    compare()
    assert remembered > 10, "the scenarios do not put the memory to use"
