"""What every scheduler promises to its engine, whatever it prefers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec
import pytest

from llmservingsim.plugins import find_plugin
from llmservingsim.serving import (
    SCHEDULERS,
    Engine,
    EngineConfig,
    Request,
    RequestStatus,
    Scheduler,
    SchedulerConfig,
)
from llmservingsim.serving.kv import KVCacheManager
from llmservingsim.serving.scheduler import VllmScheduler
from llmservingsim.workload.request import RequestSpec


class ShortestPromptFirst(VllmScheduler):
    """A user's own, by changing a built-in: short prompts are admitted first and preempted last."""

    def __init__(self, config: SchedulerConfig, kv: KVCacheManager) -> None:
        super().__init__(msgspec.structs.replace(config, policy="priority"), kv)

    def add(self, request: Request) -> None:
        request.priority = request.num_prompt_tokens
        super().add(request)


class OneAtATime:
    """A user's own, from nothing: the next request runs when the one before has ended."""

    def __init__(self, config: SchedulerConfig, kv: KVCacheManager) -> None:
        self.running: list[Request] = []
        self._budget, self._kv = config.max_num_batched_tokens, kv
        self._queue: deque[Request] = deque()
        self.num_waiting = 0

    def add(self, request: Request) -> None:
        self._queue.append(request)
        self.num_waiting = len(self._queue)

    def schedule(self, now_ns: int) -> list[tuple[Request, int]]:
        if not self.running and self._queue:
            request = self._queue.popleft()
            request.status, request.scheduled_ns = RequestStatus.RUNNING, now_ns
            self.running, self.num_waiting = [request], len(self._queue)
        ready = [r for r in self.running if not r.awaits_last_token]
        left = [(r, r.num_tokens + r.num_output_placeholders - r.num_computed_tokens) for r in ready]
        return [(r, min(n, self._budget)) for r, n in left if n and self._kv.allocate(r, min(n, self._budget))]

    def finish(self, request: Request) -> None:
        if request in self._queue:
            self._queue.remove(request)
            self.num_waiting = len(self._queue)
        else:
            self.running.remove(request)
        self._kv.free(request)
        request.status = RequestStatus.FINISHED

    def waiting(self) -> list[Request]:
        return list(self._queue)


Make = Callable[[SchedulerConfig, KVCacheManager], Scheduler]
ALL: dict[str, Make] = {**SCHEDULERS, "shortest_prompt_first": ShortestPromptFirst, "one_at_a_time": OneAtATime}
LIMITS = SchedulerConfig(max_num_seqs=3, max_num_batched_tokens=8, max_model_len=100)


@pytest.fixture(params=list(ALL.values()), ids=list(ALL))
def make(request: pytest.FixtureRequest) -> Make:
    result: Make = request.param
    return result


@pytest.fixture(params=[False, True], ids=["synchronous", "asynchronous"])
def asynchronous(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=["fcfs", "priority"])
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def engine_of(make: Make, *, asynchronous: bool = True, policy: str = "fcfs") -> Engine:
    """Nine blocks of four tokens, so that the requests of `specs` get into each other's way."""
    limits = msgspec.structs.replace(LIMITS, policy=policy)
    config = EngineConfig(
        scheduler=limits, num_gpu_blocks=10, block_size=4, async_scheduling=asynchronous, decode_cohort=False
    )
    return Engine(0, config, make)


def specs() -> list[RequestSpec]:
    """Twelve requests of different lengths; every other one begins with the same two blocks."""
    shapes = [(13, 9), (3, 14), (8, 6), (17, 1), (1, 12), (6, 20)] * 2
    found = []
    for i, (prompt, output) in enumerate(shapes):
        ids = tuple(t if i % 2 and t < 8 else 1000 * (i + 1) + t for t in range(prompt + output))
        found.append(RequestSpec(i, 0, prompt, output, ids, priority=i % 3))
    return found


def serve(engine: Engine) -> tuple[list[Request], list[list[tuple[int, int]]]]:
    """Serve `specs`, arriving one per iteration; return the requests and every batch as (request, tokens)."""
    arrivals = deque(specs())
    requests: list[Request] = []
    batches: list[list[tuple[int, int]]] = []
    in_flight = now_ns = 0
    while arrivals or engine.holds_requests:
        if arrivals:
            requests.append(engine.add(arrivals.popleft()))
        while (batch := engine.next_batch(now_ns)) is not None:
            batches.append([(s.request.request_id, s.num_tokens) for s in batch.scheduled])
            in_flight += 1
        assert in_flight, f"nothing runs, yet {engine.describe_waiting()}"
        now_ns += 10
        engine.complete(now_ns)
        in_flight -= 1
        assert len(batches) < 2000, "the scheduler goes round in circles"
    return requests, batches


class Watched:
    """A scheduler that is held to its contract at every call."""

    def __init__(self, inner: Scheduler, config: SchedulerConfig, kv: KVCacheManager) -> None:
        self._inner, self._config, self._kv = inner, config, kv
        self._held = 0
        self.running = inner.running

    @property
    def num_waiting(self) -> int:
        return self._inner.num_waiting

    def waiting(self) -> list[Request]:
        return self._inner.waiting()

    def add(self, request: Request) -> None:
        self._inner.add(request)
        self._held += 1
        self._check()

    def schedule(self, now_ns: int) -> list[tuple[Request, int]]:
        before = {r.request_id: (r.num_computed_tokens, r.num_preemptions) for r in self.running}
        batch = self._inner.schedule(now_ns)
        self.running = self._inner.running
        assert all(tokens >= 1 for _, tokens in batch)
        assert sum(tokens for _, tokens in batch) <= self._config.max_num_batched_tokens
        assert len({r.request_id for r, _ in batch}) == len(batch)
        for request, tokens in batch:
            assert request in self.running
            assert request.status is RequestStatus.RUNNING
            assert 0 <= request.scheduled_ns <= now_ns
            end = request.num_computed_tokens + tokens
            assert end <= request.num_tokens + request.num_output_placeholders
            assert len(request.block_ids) >= self._kv.blocks_for(end)
            computed, preemptions = before.get(request.request_id, (0, -1))
            if preemptions == request.num_preemptions:
                assert request.num_computed_tokens == computed, "the engine raises num_computed_tokens"
        self._check()
        return batch

    def finish(self, request: Request) -> None:
        self._inner.finish(request)
        self.running = self._inner.running
        self._held -= 1
        assert request.status is RequestStatus.FINISHED
        assert request.block_ids == []
        self._check()

    def _check(self) -> None:
        waiting = self.waiting()
        assert self.num_waiting == len(waiting)
        assert len(self.running) + len(waiting) == self._held
        assert len(self.running) <= self._config.max_num_seqs
        assert not {id(r) for r in self.running} & {id(r) for r in waiting}
        self._kv.pool.check(r.block_ids for r in [*self.running, *waiting])


def watched(make: Make) -> Make:
    return lambda config, kv: Watched(make(config, kv), config, kv)


def test_every_request_is_served_to_its_end_within_the_limits(make: Make, asynchronous: bool, policy: str) -> None:
    engine = engine_of(watched(make), asynchronous=asynchronous, policy=policy)
    requests, _ = serve(engine)
    assert [r.num_tokens for r in requests] == [s.prompt_tokens + s.output_tokens for s in specs()]
    assert all(r.arrival_ns <= r.scheduled_ns < r.first_token_ns <= r.last_token_ns for r in requests)
    assert (engine.num_running, engine.num_waiting, engine.kv.pool.num_held) == (0, 0, 0)


def test_the_same_requests_give_the_same_batches(make: Make, asynchronous: bool, policy: str) -> None:
    first, second = (serve(engine_of(make, asynchronous=asynchronous, policy=policy))[1] for _ in range(2))
    assert first == second


def test_whoever_gives_up_leaves_whether_it_runs_or_waits(make: Make, asynchronous: bool, policy: str) -> None:
    """Every third request is given up: one at a time, in the order of their ids, at the end of every second batch."""
    engine = engine_of(watched(make), asynchronous=asynchronous, policy=policy)
    requests = [engine.add(spec) for spec in specs()]
    to_abort = deque(requests[::3])
    in_flight = now_ns = 0
    gone = []
    while engine.holds_requests:
        while engine.next_batch(now_ns) is not None:
            in_flight += 1
        assert in_flight, f"nothing runs, yet {engine.describe_waiting()}"
        now_ns += 10
        engine.complete(now_ns)
        in_flight -= 1
        if now_ns % 20 == 0 and to_abort and (request := to_abort.popleft()).status is not RequestStatus.FINISHED:
            engine.abort(request)
            gone.append(request)
        assert now_ns < 20_000, "the scheduler goes round in circles"
    lengths = [r.num_tokens == s.prompt_tokens + s.output_tokens for r, s in zip(requests, specs(), strict=True)]
    assert lengths == [r not in gone for r in requests]
    assert gone
    assert (engine.num_running, engine.num_waiting, engine.kv.pool.num_held) == (0, 0, 0)


def test_without_requests_nothing_is_scheduled(make: Make) -> None:
    scheduler = make(LIMITS, KVCacheManager(10, 4))
    assert scheduler.schedule(0) == []
    assert (scheduler.running, scheduler.waiting(), scheduler.num_waiting) == ([], [], 0)


def test_a_batch_holds_the_blocks_of_its_tokens_before_it_is_launched(make: Make) -> None:
    kv = KVCacheManager(10, 4)
    scheduler = make(LIMITS, kv)
    scheduler.add(Request(0, 0, 6))
    ((request, tokens),) = scheduler.schedule(7)
    assert (tokens, request.num_computed_tokens, request.scheduled_ns) == (6, 0, 7)
    assert kv.pool.num_held == len(request.block_ids) == 2


def test_the_requests_of_this_suite_run_out_of_blocks_and_find_cached_ones() -> None:
    requests, _ = serve(engine_of(VllmScheduler))
    assert sum(r.num_preemptions for r in requests) > 0
    assert sum(r.cached_tokens for r in requests) > 0


def test_a_scheduler_of_ones_own_is_found_by_its_dotted_name_and_does_what_it_says() -> None:
    found = find_plugin("scheduler", f"{__name__}:ShortestPromptFirst", SCHEDULERS)
    assert found is ShortestPromptFirst
    scheduler = found(msgspec.structs.replace(LIMITS, max_num_seqs=1), KVCacheManager(10, 4))
    for request_id, prompt in enumerate([7, 3, 5]):
        scheduler.add(Request(request_id, 0, prompt))
    assert [r.request_id for r in scheduler.waiting()] == [1, 2, 0]
    assert [(r.request_id, n) for r, n in scheduler.schedule(0)] == [(1, 3)]
