"""Engines that verify drafts, under random arrivals, pools, limits and acceptance, keep the laws of serving."""

from collections import Counter

from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmservingsim.serving import EngineConfig, Request, SchedulerConfig, Speculation, SpeculativeEngine
from llmservingsim.serving.acceptance import FixedAcceptance
from llmservingsim.serving.scheduler import VllmScheduler
from llmservingsim.workload.request import RequestSpec

MAX_MODEL_LEN = 40


@st.composite
def engine_configs(draw: st.DrawFn) -> tuple[EngineConfig, int]:
    """Little memory and tight limits; also the number of drafts."""
    drafts = draw(st.integers(1, 5))
    chunked = draw(st.booleans())
    limits = SchedulerConfig(
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(1, 24) if chunked else st.integers(MAX_MODEL_LEN, 80)),
        max_model_len=MAX_MODEL_LEN,
        long_prefill_token_threshold=draw(st.sampled_from([0, 0, 1, 3, 8])),
        enable_chunked_prefill=chunked,
        scheduler_reserve_full_isl=draw(st.booleans()),
        policy=draw(st.sampled_from(["fcfs", "priority"])),
        num_lookahead_tokens=draw(st.sampled_from([0, drafts])),
    )
    config = EngineConfig(
        scheduler=limits,
        num_gpu_blocks=draw(st.integers(3, 20)),
        block_size=draw(st.sampled_from([1, 2, 4])),
        enable_prefix_caching=draw(st.sampled_from([True, True, False])),
        recompute_last_hit=draw(st.booleans()),
        async_scheduling=draw(st.booleans()),
    )
    return config, drafts


class SpeculativeMachine(RuleBasedStateMachine):
    """One engine; arrivals, launches and ends of batches in any order."""

    @initialize(drawn=engine_configs(), rate=st.sampled_from([0.0, 0.3, 0.8, 1.0]), seed=st.integers(0, 99))
    def create(self, drawn: tuple[EngineConfig, int], rate: float, seed: int) -> None:
        note(repr(drawn))
        self.config, self.drafts = drawn
        speculation = Speculation(self.drafts, FixedAcceptance(self.drafts, rate=rate), seed)
        self.engine = SpeculativeEngine(0, self.config, VllmScheduler, speculation)
        self.now_ns = 0
        self.in_flight = 0
        self.specs: list[RequestSpec] = []
        self.accepted = 0
        self.finished: list[Request] = []

    @rule(
        prompt=st.integers(1, 12) | st.integers(1, MAX_MODEL_LEN),
        output=st.integers(1, 20),
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
            self.engine.add(spec)

    @rule()
    def launch(self) -> None:
        idle = not self.in_flight
        ran = {(r.request_id, r.num_preemptions) for r in self.engine.scheduler.running}
        batch = self.engine.next_batch(self.now_ns)
        if batch is None:
            assert not (idle and self.engine.holds_requests), "an idle engine holds admissible work"
            return
        self.in_flight += 1
        shape = batch.shape
        for request in (s.request for s in batch.scheduled):
            if (request.request_id, request.num_preemptions) in ran:
                ahead = min(request.num_computed_tokens + self.config.scheduler.num_lookahead_tokens, MAX_MODEL_LEN)
                assert len(request.block_ids) >= self.engine.kv.blocks_for(ahead)
        tokens = [s.num_tokens for s in batch.scheduled]
        assert min(tokens) >= 1
        assert sum(tokens) == shape.num_tokens <= self.config.scheduler.max_num_batched_tokens
        assert shape.num_decodes + len(shape.prefills) == len(tokens)
        assert shape.num_tokens == shape.num_decodes + shape.num_drafts + sum(c.query_len for c in shape.prefills)
        assert shape.num_drafts <= self.drafts * shape.num_decodes
        assert 0 <= shape.draft_pairs <= self.drafts * shape.decode_kv_tokens
        assert (shape.num_drafts > 0) == (shape.draft_pairs > 0)
        assert shape.max_decode_kv_tokens < MAX_MODEL_LEN
        assert all(c.context_len + c.query_len < MAX_MODEL_LEN for c in shape.prefills)

    @precondition(lambda self: self.in_flight)
    @rule(duration_ns=st.integers(0, 3))
    def end(self, duration_ns: int) -> None:
        self.now_ns += duration_ns
        self.in_flight -= 1
        before = self.engine.speculation.counts.num_drafts
        outcome = self.engine.complete(self.now_ns)
        counts = self.engine.speculation.counts
        messages = sum(outcome.token_gaps_ns.values())
        assert messages <= len(outcome.batch.scheduled)
        assert outcome.num_sampled <= (1 + self.drafts) * len(outcome.batch.scheduled)
        assert counts.num_drafts - before <= len(outcome.batch.scheduled)
        assert counts.num_accepted_tokens == sum(counts.num_accepted_per_position) <= counts.num_draft_tokens
        for request in outcome.finished:
            spec = self.specs[request.request_id]
            assert request.num_tokens == min(spec.prompt_tokens + spec.output_tokens, MAX_MODEL_LEN)
            assert request.arrival_ns <= request.scheduled_ns <= request.first_token_ns <= request.last_token_ns
            assert request.last_token_ns == self.now_ns
            self.finished.append(request)

    @invariant()
    def requests_in_are_finished_or_held(self) -> None:
        engine = self.engine
        assert self.accepted == len(self.finished) + engine.num_running + engine.num_waiting
        assert engine.num_running <= self.config.scheduler.max_num_seqs
        assert engine.holds_requests == (len(self.finished) < self.accepted)

    @invariant()
    def a_block_counts_its_holders(self) -> None:
        scheduler = self.engine.scheduler
        self.engine.kv.pool.check(r.block_ids for r in [*scheduler.running, *scheduler.waiting(), *self.finished])
        for request in [*scheduler.waiting(), *self.finished]:
            assert not request.block_ids

    @invariant()
    def running_requests_have_the_blocks_of_their_tokens_and_of_those_ahead(self) -> None:
        kv, in_flight = self.engine.kv, 2 if self.config.async_scheduling else 1
        most_ahead = self.config.scheduler.num_lookahead_tokens + self.drafts * (in_flight + 1)
        for request in self.engine.scheduler.running:
            computed, expected = request.num_computed_tokens, request.num_tokens + request.num_output_placeholders
            assert computed < expected
            assert computed < MAX_MODEL_LEN
            assert kv.blocks_for(computed) <= len(request.block_ids)
            assert len(request.block_ids) <= kv.blocks_for(min(computed + most_ahead, MAX_MODEL_LEN))
            assert 0 <= request.num_output_placeholders <= in_flight * (1 + self.drafts)
            assert request.num_spec_tokens in (0, self.drafts)

    @invariant()
    def only_verified_tokens_are_found_by_others(self) -> None:
        block_size = self.config.block_size
        holders = Counter(b for r in self.engine.scheduler.running for b in r.block_ids)
        contents: dict[int, tuple[int, ...]] = {}
        for request in self.engine.scheduler.running:
            ids = self.specs[request.request_id].token_ids or ()
            assert request.num_cached_blocks * block_size <= request.num_tokens
            for place, block in enumerate(request.block_ids):
                if holders[block] > 1:
                    end = (place + 1) * block_size
                    assert end <= request.num_tokens
                    assert contents.setdefault(block, ids[:end]) == ids[:end]

    def teardown(self) -> None:
        """When nothing else arrives everything finishes, in a bounded number of steps."""
        if not hasattr(self, "engine"):
            return
        tokens = sum(min(s.prompt_tokens + s.output_tokens, MAX_MODEL_LEN) for s in self.specs)
        for _ in range(20 + tokens * (2 + len(self.specs))):
            if not self.engine.holds_requests and not self.in_flight:
                break
            for _ in range(2):
                self.launch()
            if self.in_flight:
                self.end(1)
            self.a_block_counts_its_holders()
            self.only_verified_tokens_are_found_by_others()
        assert len(self.finished) == self.accepted, "the engine goes round in circles"
        assert self.engine.kv.pool.num_held == 0
        assert not any(self.engine.describe_waiting())


TestSpeculativeEngine = SpeculativeMachine.TestCase
TestSpeculativeEngine.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
