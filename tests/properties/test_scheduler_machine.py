"""Engines under random arrivals, aborts, pools, limits and policies keep the laws of serving after every step.

The engine under test schedules every request by name; its twin moves decodes together, and must do the same.
"""

from collections import Counter

import msgspec
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmservingsim.serving import Batch, Engine, EngineConfig, Request, RequestStatus, SchedulerConfig
from llmservingsim.serving.scheduler import VllmScheduler
from llmservingsim.workload.request import RequestSpec

MAX_MODEL_LEN = 40


@st.composite
def engine_configs(draw: st.DrawFn) -> EngineConfig:
    """Little memory and tight limits, so that everything happens often."""
    chunked = draw(st.booleans())
    return EngineConfig(
        scheduler=SchedulerConfig(
            max_num_seqs=draw(st.integers(1, 6)),
            # vLLM asks for at least max_model_len where a prompt may not be split
            max_num_batched_tokens=draw(st.integers(1, 24) if chunked else st.integers(MAX_MODEL_LEN, 80)),
            max_model_len=MAX_MODEL_LEN,
            long_prefill_token_threshold=draw(st.sampled_from([0, 0, 1, 3, 8])),
            enable_chunked_prefill=chunked,
            scheduler_reserve_full_isl=draw(st.booleans()),
            policy=draw(st.sampled_from(["fcfs", "priority"])),
        ),
        num_gpu_blocks=draw(st.integers(3, 20)),
        block_size=draw(st.sampled_from([1, 2, 4])),
        enable_prefix_caching=draw(st.sampled_from([True, True, False])),
        async_scheduling=draw(st.booleans()),
    )


class EngineMachine(RuleBasedStateMachine):
    """One engine and a second that is told the same; arrivals, aborts, launches and ends of batches in any order."""

    @initialize(config=engine_configs())
    def create(self, config: EngineConfig) -> None:
        note(repr(config))
        self.config = config
        self.engine = Engine(0, msgspec.structs.replace(config, decode_cohort=False), VllmScheduler)
        self.twin = Engine(0, config, VllmScheduler)
        self.now_ns = 0
        self.in_flight = 0
        self.specs: list[RequestSpec] = []
        self.accepted = 0
        self.finished: list[Request] = []
        self.live: dict[int, tuple[Request, Request]] = {}
        self.aborted: list[Request] = []

    @rule(
        prompt=st.integers(1, 12) | st.integers(1, MAX_MODEL_LEN),
        output=st.integers(1, 16),
        shared=st.integers(0, 60),
        family=st.integers(0, 1),
        priority=st.integers(0, 2),
    )
    def arrive(self, prompt: int, output: int, shared: int, family: int, priority: int) -> None:
        """Tokens up to ``shared`` are the family's, whether in the prompt or in the output."""
        number = len(self.specs)
        ids = [family * 1000 + i if i < shared else 10_000 + 100 * number + i for i in range(prompt + output)]
        spec = RequestSpec(number, self.now_ns, prompt, output, tuple(ids), priority=priority)
        self.specs.append(spec)
        if self.engine.reject_reason(spec) is None:
            self.accepted += 1
            self.live[number] = self.engine.add(spec), self.twin.add(spec)
        else:
            assert prompt >= MAX_MODEL_LEN or prompt + output - 1 > self.capacity()

    @precondition(lambda self: self.live)
    @rule(place=st.integers(0, 100))
    def abort(self, place: int) -> None:
        """It leaves at once if the engine is at a boundary, else when it comes to one."""
        number = list(self.live)[place % len(self.live)]
        request, twin = self.live.pop(number)
        known = request.num_tokens - request.num_prompt_tokens
        assert self.engine.abort(request) == self.twin.abort(twin) == known
        self.aborted.append(request)
        assert (request.status is RequestStatus.FINISHED) == (not self.in_flight)
        assert self.engine.kv.pool.num_free == self.twin.kv.pool.num_free

    @rule()
    def launch(self) -> None:
        idle = not self.in_flight
        held = {(r.request_id, r.num_preemptions): r.num_computed_tokens for r in self.engine.scheduler.running}
        batch = self.engine.next_batch(self.now_ns)
        twin = self.twin.next_batch(self.now_ns)
        if batch is None:
            assert twin is None
            assert not (idle and self.engine.holds_requests), "an idle engine holds admissible work"
            return
        assert twin is not None
        assert all(r.status is RequestStatus.FINISHED for r in self.aborted), "at a boundary whoever gave up is gone"
        assert batch.shape == twin.shape, "moving decodes together gave another batch"
        assert self.engine.kv.pool.num_free == self.twin.kv.pool.num_free
        assert (self.engine.num_running, self.engine.num_waiting) == (self.twin.num_running, self.twin.num_waiting)
        self.in_flight += 1
        self.check_batch(batch, held)

    def check_batch(self, batch: Batch, held: dict[tuple[int, int], int]) -> None:
        limits = self.config.scheduler
        tokens = [s.num_tokens for s in batch.scheduled]
        assert min(tokens) >= 1
        assert sum(tokens) == batch.shape.num_tokens <= limits.max_num_batched_tokens
        assert batch.shape.num_sequences == len(tokens) == len({s.request.request_id for s in batch.scheduled})
        for request, num_tokens, _, samples in batch.scheduled:
            assert request.status is RequestStatus.RUNNING
            assert num_tokens <= (limits.long_prefill_token_threshold or num_tokens)
            assert samples == (request.num_output_placeholders > 0)
            before = held.get((request.request_id, request.num_preemptions))
            if before is not None:
                assert request.num_computed_tokens == before + num_tokens
            else:
                assert (request.num_computed_tokens - num_tokens) % self.config.block_size == 0  # its hits

    @precondition(lambda self: self.in_flight)
    @rule(duration_ns=st.integers(0, 3))
    def end(self, duration_ns: int) -> None:
        self.now_ns += duration_ns
        self.in_flight -= 1
        outcome = self.engine.complete(self.now_ns)
        twin = self.twin.complete(self.now_ns)
        assert [r.request_id for r in outcome.finished] == [r.request_id for r in twin.finished]
        assert (outcome.num_sampled, outcome.token_gaps_ns) == (twin.num_sampled, twin.token_gaps_ns)
        assert all(r.status is RequestStatus.FINISHED for r in self.aborted)
        for request in outcome.finished:
            del self.live[request.request_id]
            spec = self.specs[request.request_id]
            assert request.num_tokens == min(spec.prompt_tokens + spec.output_tokens, MAX_MODEL_LEN)
            assert request.arrival_ns <= request.scheduled_ns <= request.first_token_ns <= request.last_token_ns
            assert request.last_token_ns == self.now_ns
            assert request.cached_tokens < spec.prompt_tokens
            self.finished.append(request)

    @invariant()
    def requests_in_are_finished_or_gone_or_held(self) -> None:
        engine = self.engine
        ended = len(self.finished) + sum(r.status is RequestStatus.FINISHED for r in self.aborted)
        assert self.accepted == ended + engine.num_running + engine.num_waiting
        assert (engine.num_running, engine.num_waiting) == (self.twin.num_running, self.twin.num_waiting)
        assert engine.num_running <= self.config.scheduler.max_num_seqs
        assert engine.holds_requests == (ended < self.accepted)

    @invariant()
    def a_block_counts_its_holders(self) -> None:
        scheduler = self.engine.scheduler
        self.engine.kv.pool.check(r.block_ids for r in [*scheduler.running, *scheduler.waiting(), *self.finished])
        self.twin.kv.pool.check(r.block_ids for r in self.twin.scheduler.running)
        gone = [r for r in self.aborted if r.status is RequestStatus.FINISHED]
        for request in [*scheduler.waiting(), *self.finished, *gone]:
            assert not request.block_ids

    @invariant()
    def running_requests_have_the_blocks_of_their_computed_tokens_and_no_more(self) -> None:
        for request in self.engine.scheduler.running:
            assert len(request.block_ids) == self.engine.kv.blocks_for(request.num_computed_tokens)
            assert len(set(request.block_ids)) == len(request.block_ids)
            assert request.num_computed_tokens < request.num_tokens + request.num_output_placeholders
            assert request.num_computed_tokens < MAX_MODEL_LEN
            assert 0 <= request.num_output_placeholders <= (2 if self.config.async_scheduling else 1)

    @invariant()
    def only_blocks_full_of_the_same_tokens_are_shared(self) -> None:
        block_size = self.config.block_size
        holders = Counter(b for r in self.engine.scheduler.running for b in r.block_ids)
        contents: dict[int, tuple[int, ...]] = {}
        for request in self.engine.scheduler.running:
            ids = self.specs[request.request_id].token_ids or ()
            for place, block in enumerate(request.block_ids):
                if holders[block] > 1:
                    end = (place + 1) * block_size
                    assert end <= request.num_computed_tokens
                    assert end <= request.num_tokens
                    assert contents.setdefault(block, ids[:end]) == ids[:end]

    def capacity(self) -> int:
        return (self.config.num_gpu_blocks - 1) * self.config.block_size

    def teardown(self) -> None:
        """When nothing else arrives everything finishes, in a bounded number of steps."""
        if not hasattr(self, "engine"):
            return
        # A step gives at least one token, and at worst each of these is lost to a preemption by each other request.
        tokens = sum(min(s.prompt_tokens + s.output_tokens, MAX_MODEL_LEN) for s in self.specs)
        for _ in range(20 + tokens * (1 + len(self.specs))):
            if not self.engine.holds_requests and not self.in_flight:
                break
            for _ in range(2):
                self.launch()
            if self.in_flight:
                self.end(1)
            self.a_block_counts_its_holders()
            self.only_blocks_full_of_the_same_tokens_are_shared()
        assert len(self.finished) + len(self.aborted) == self.accepted, "the engine goes round in circles"
        assert self.engine.kv.pool.num_held == 0
        assert not any(self.engine.describe_waiting())


TestEngine = EngineMachine.TestCase
TestEngine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
