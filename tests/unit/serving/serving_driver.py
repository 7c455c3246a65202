"""Small engines, and a clock of 10 ns per iteration, for the tests of this folder. Blocks have 4 tokens."""

from typing import Any

from llmservingsim.serving import Batch, Engine, EngineConfig, Outcome, Request, RequestStatus, SchedulerConfig
from llmservingsim.serving.kv import KVCacheManager
from llmservingsim.serving.scheduler import VllmScheduler
from llmservingsim.workload.request import RequestSpec

BLOCK = 4
STEP_NS = 10


def limits(**changed: Any) -> SchedulerConfig:
    """Limits that are never reached, but for those stated."""
    return SchedulerConfig(**{"max_num_seqs": 100, "max_num_batched_tokens": 1000, "max_model_len": 10_000, **changed})


class Driver:
    """An engine with its clock. ``usable`` counts blocks without the null block; the rest goes to the scheduler."""

    def __init__(
        self, *, usable: int = 1000, asynchronous: bool = False, prefix_caching: bool = True, **changed: Any
    ) -> None:
        config = EngineConfig(
            scheduler=limits(**changed),
            num_gpu_blocks=usable + 1,
            block_size=BLOCK,
            enable_prefix_caching=prefix_caching,
            async_scheduling=asynchronous,
            decode_cohort=False,  # these tests look at requests one by one
        )
        self.engine = Engine(0, config, VllmScheduler)
        self.now_ns = 0
        self.requests: dict[int, Request] = {}

    def ask(
        self, request_id: int, prompt: int, output: int = 5, *, ids: tuple[int, ...] | None = None, priority: int = 0
    ) -> Request:
        """Send a request now."""
        spec = RequestSpec(request_id, self.now_ns, prompt, output, ids, priority=priority)
        assert self.engine.reject_reason(spec) is None
        request = self.engine.add(spec)
        self.requests[request_id] = request
        return request

    def launch(self) -> list[tuple[int, int]] | None:
        """Form a batch, as (request, tokens) in order."""
        batch = self.engine.next_batch(self.now_ns)
        return None if batch is None else rows(batch)

    def end(self) -> Outcome:
        """Let the oldest batch in flight end."""
        self.now_ns += STEP_NS
        return self.engine.complete(self.now_ns)

    def step(self) -> list[tuple[int, int]] | None:
        """Form a batch and let it end."""
        launched = self.launch()
        if launched is not None:
            self.end()
        self.check()
        return launched

    def waiting(self) -> list[int]:
        """Ids of the waiting requests that the scheduler knows, in order."""
        return [r.request_id for r in self.engine.scheduler.waiting()]

    def check(self) -> None:
        """Hold the pool against the requests' block lists."""
        scheduler = self.engine.scheduler
        self.engine.kv.pool.check(r.block_ids for r in [*scheduler.running, *scheduler.waiting()])


def rows(batch: Batch) -> list[tuple[int, int]]:
    """(request, tokens) in the batch's order."""
    return [(s.request.request_id, s.num_tokens) for s in batch.scheduled]


def running(scheduler: VllmScheduler, request_id: int, priority: int = 0) -> Request:
    """Put a request into the running list whose first block is full and whose next token needs another."""
    request = Request(request_id, request_id, BLOCK + 1, priority)
    assert scheduler.kv.allocate(request, BLOCK)
    request.num_computed_tokens = BLOCK
    request.status = RequestStatus.RUNNING
    scheduler.running.append(request)
    return request


def scheduler_of(usable: int, **changed: Any) -> VllmScheduler:
    """A scheduler without an engine."""
    return VllmScheduler(limits(**changed), KVCacheManager(usable + 1, BLOCK))


def plan(scheduler: VllmScheduler) -> list[tuple[int, int]]:
    """What the scheduler would compute, as (request, tokens)."""
    return [(request.request_id, tokens) for request, tokens in scheduler.schedule(0)]
