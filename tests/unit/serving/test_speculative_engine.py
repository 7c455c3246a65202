"""What an engine with drafts schedules, step by step. Blocks have 4 tokens."""

from typing import Any

import pytest
from serving_driver import BLOCK, STEP_NS, limits, rows

from llmservingsim.serving import EngineConfig, Outcome, Request, Speculation, SpeculativeEngine, Verification
from llmservingsim.serving.scheduler import VllmScheduler
from llmservingsim.shapes import BatchShape
from llmservingsim.workload.request import RequestSpec


class Scripted:
    """Accepts as listed, step by step; 0 afterwards."""

    def __init__(self, *accepted: int) -> None:
        self.accepted = accepted
        self.seen: list[Verification] = []

    def num_accepted(self, verification: Verification) -> int:
        self.seen.append(verification)
        script = self.accepted
        return min(verification.num_drafts, script[verification.step] if verification.step < len(script) else 0)


class SpeculativeDriver:
    """An engine with k = 3 drafts and its clock."""

    def __init__(self, *accepted: int, usable: int = 1000, drafts: int = 3, **options: Any) -> None:
        keys = ("async_scheduling", "enable_prefix_caching", "recompute_last_hit")
        own = {"async_scheduling": False, **{k: options.pop(k) for k in keys if k in options}}
        config = EngineConfig(scheduler=limits(**options), num_gpu_blocks=usable + 1, block_size=BLOCK, **own)
        self.policy = Scripted(*accepted)
        self.engine = SpeculativeEngine(0, config, VllmScheduler, Speculation(drafts, self.policy, 0))
        self.now_ns = 0
        self.shapes: list[BatchShape] = []

    def ask(self, number: int, prompt: int, output: int, *, ids: tuple[int, ...] | None = None) -> Request:
        return self.engine.add(RequestSpec(number, self.now_ns, prompt, output, ids))

    def launch(self) -> list[tuple[int, int]] | None:
        batch = self.engine.next_batch(self.now_ns)
        if batch is None:
            return None
        self.shapes.append(batch.shape)
        return rows(batch)

    def end(self) -> Outcome:
        self.now_ns += STEP_NS
        return self.engine.complete(self.now_ns)

    def step(self) -> tuple[list[tuple[int, int]] | None, int]:
        launched = self.launch()
        return launched, self.end().num_sampled


def test_a_verification_computes_the_token_and_its_drafts_and_gives_what_is_accepted_and_one() -> None:
    run = SpeculativeDriver(0, 2, 3)
    request = run.ask(0, prompt=10, output=20)
    assert [run.step() for _ in range(4)] == [([(0, 10)], 1), ([(0, 4)], 1), ([(0, 4)], 3), ([(0, 4)], 4)]
    assert (request.num_tokens, request.num_computed_tokens, request.num_output_placeholders) == (19, 18, 0)
    contexts = [shape.decode_kv_tokens for shape in run.shapes[1:]]
    assert contexts == [10 + 4, 11 + 4, 14 + 4]
    assert [shape.draft_pairs for shape in run.shapes[1:]] == [3 * kv - 6 for kv in contexts]
    assert [shape.num_sequences for shape in run.shapes] == [1, 4, 4, 4]


def test_the_policy_sees_where_a_draft_stands_and_not_how_long_the_answer_is() -> None:
    run = SpeculativeDriver(0, 2, 3)
    run.ask(5, prompt=10, output=20)
    for _ in range(4):
        run.step()
    seen = [(v.request_id, v.step, v.num_prompt_tokens, v.num_tokens, v.num_drafts) for v in run.policy.seen]
    assert seen == [(5, 0, 10, 11, 3), (5, 1, 10, 12, 3), (5, 2, 10, 15, 3)]
    assert set(Verification._fields) == {
        *("request_id", "step", "num_prompt_tokens", "num_tokens", "num_drafts", "seed"),
    }


def test_drafts_behind_the_end_are_computed_and_dropped() -> None:
    """Three tokens are missing; four are verified, as vLLM never cuts drafts to what an answer lacks."""
    run = SpeculativeDriver(3)
    request = run.ask(0, prompt=4, output=4)
    assert [run.step() for _ in range(2)] == [([(0, 4)], 1), ([(0, 4)], 3)]
    assert (request.num_tokens, run.engine.holds_requests) == (8, False)
    assert run.engine.speculation.counts.num_accepted_tokens == 3


def test_the_budget_cuts_drafts() -> None:
    run = SpeculativeDriver(3, 3, 3, 3, max_num_batched_tokens=6)
    for number in range(2):
        run.ask(number, prompt=3, output=20)
    assert run.step() == ([(0, 3), (1, 3)], 2)
    assert run.step() == ([(0, 4), (1, 2)], 4 + 2)
    assert run.step() == ([(0, 4), (1, 2)], 4 + 2)


def test_a_token_without_drafts_is_no_verification() -> None:
    run = SpeculativeDriver(3, 3, max_num_batched_tokens=5)
    for number in range(2):
        run.ask(number, prompt=2, output=20)
    assert run.step() == ([(0, 2), (1, 2)], 2)
    assert run.step() == ([(0, 4), (1, 1)], 4 + 1)
    assert run.engine.speculation.counts.num_drafts == 1


def test_max_model_len_cuts_drafts_and_the_answer() -> None:
    run = SpeculativeDriver(3, 3, max_model_len=10)
    request = run.ask(0, prompt=4, output=50)
    assert [run.step() for _ in range(3)] == [([(0, 4)], 1), ([(0, 4)], 4), ([(0, 1)], 1)]
    assert (request.num_tokens, run.engine.holds_requests) == (10, False)


def test_asynchronous_the_next_verification_stands_behind_all_drafts_and_is_set_right_when_one_ends() -> None:
    run = SpeculativeDriver(1, 3, async_scheduling=True)
    request = run.ask(0, prompt=10, output=30)
    assert [run.launch(), run.launch()] == [[(0, 10)], [(0, 4)]]
    assert (request.num_computed_tokens, request.num_output_placeholders) == (14, 1 + 4)
    assert run.end().num_sampled == 1
    assert (request.num_computed_tokens, request.num_output_placeholders) == (14, 4)
    assert run.launch() == [(0, 4)]
    assert (request.num_computed_tokens, request.num_output_placeholders) == (18, 8)
    assert run.end().num_sampled == 2  # one draft of three
    assert (request.num_tokens, request.num_computed_tokens, request.num_output_placeholders) == (13, 16, 4)
    assert [shape.decode_kv_tokens for shape in run.shapes[1:]] == [10 + 4, 12 + 4]


def test_asynchronous_no_iteration_is_spent_behind_a_token_that_is_surely_the_last() -> None:
    run = SpeculativeDriver(async_scheduling=True)
    run.ask(0, prompt=4, output=3)
    assert [run.launch(), run.launch()] == [[(0, 4)], [(0, 4)]]
    run.end()
    assert run.launch() == [(0, 4)]  # the second token is in flight; without a draft the third comes here
    run.end()
    assert run.launch() is None
    assert [r.request_id for r in run.end().finished] == [0]


def test_asynchronous_accepted_drafts_tell_that_the_iteration_in_flight_brings_the_last_token() -> None:
    run = SpeculativeDriver(3, 0, async_scheduling=True)
    run.ask(0, prompt=4, output=6)
    assert [run.launch(), run.launch()] == [[(0, 4)], [(0, 4)]]
    run.end()
    assert run.launch() == [(0, 4)]  # five tokens of ten are known, two more are sure
    assert run.end().num_sampled == 4
    assert run.launch() is None  # nine are known, and the tenth is in flight
    assert [r.request_id for r in run.end().finished] == [0]


def test_asynchronous_an_iteration_may_be_spent_in_vain_behind_accepted_drafts() -> None:
    run = SpeculativeDriver(3, 3, async_scheduling=True)
    run.ask(0, prompt=4, output=5)
    run.ask(1, prompt=4, output=40)
    assert [run.launch(), run.launch()] == [[(0, 4), (1, 4)], [(0, 4), (1, 4)]]
    run.end()
    assert run.launch() == [(0, 4), (1, 4)]
    assert [r.request_id for r in run.end().finished] == [0]
    assert run.end().num_sampled == 4  # those of request 1 alone
    assert run.engine.speculation.counts.num_drafts == 3


@pytest.mark.parametrize(("lookahead", "blocks"), [(0, 2), (3, 3)])
def test_a_running_request_holds_blocks_for_what_its_drafter_writes_ahead(lookahead: int, blocks: int) -> None:
    """A prompt of 4 takes one block; then 4 + 4 tokens take two, and three more a third."""
    run = SpeculativeDriver(num_lookahead_tokens=lookahead)
    request = run.ask(0, prompt=4, output=20)
    run.step()
    assert len(request.block_ids) == 1
    run.launch()
    assert len(request.block_ids) == blocks


def test_blocks_ahead_end_at_max_model_len() -> None:
    run = SpeculativeDriver(max_model_len=9, num_lookahead_tokens=3)
    request = run.ask(0, prompt=4, output=20)
    run.step()
    run.launch()
    assert len(request.block_ids) == 3  # 8 tokens and one more, not three


def test_only_verified_tokens_are_found_by_others() -> None:
    """Tokens 4..7 are computed as drafts and refused, so their block is found only when they have come out."""
    ids = tuple(range(40))
    run = SpeculativeDriver(0, 0, 0, 0)
    request = run.ask(0, prompt=4, output=20, ids=ids)
    found = []
    for _ in range(6):
        run.step()
        found.append(request.num_cached_blocks)
    assert (request.num_tokens, found) == (10, [1, 1, 1, 1, 2, 2])


@pytest.mark.parametrize(("recompute", "cached"), [(False, 8), (True, 4)])
def test_hidden_states_of_the_last_block_found_are_computed_again(recompute: bool, cached: int) -> None:
    ids = tuple(range(40))
    run = SpeculativeDriver(recompute_last_hit=recompute)
    run.ask(0, prompt=12, output=1, ids=ids)
    run.step()
    second = run.ask(1, prompt=12, output=1, ids=ids)
    assert run.launch() == [(1, 12 - cached)]
    assert second.cached_tokens == cached


def test_a_preempted_request_loses_its_drafts_and_keeps_its_tokens() -> None:
    """Six blocks: two requests of 8 + 1 tokens hold two each, then want three each and one more for drafts."""
    run = SpeculativeDriver(3, 3, usable=6)
    first, second = run.ask(0, prompt=8, output=14), run.ask(1, prompt=8, output=6)
    assert run.step() == ([(0, 8), (1, 8)], 2)
    assert run.step() == ([(0, 4), (1, 4)], 8)
    assert run.step()[0] == [(0, 4)]
    assert (second.num_preemptions, second.num_tokens, second.num_spec_tokens) == (1, 13, 0)
    assert second.block_ids == []
    while run.engine.holds_requests:
        if run.launch() is not None:
            run.end()
    assert (first.num_tokens, second.num_tokens) == (22, 14)


def test_a_token_in_flight_at_a_preemption_is_kept_with_its_accepted_drafts() -> None:
    run = SpeculativeDriver(2, 2, 2, usable=7, async_scheduling=True)
    first, second = run.ask(0, prompt=8, output=16), run.ask(1, prompt=8, output=12)
    run.launch()
    run.launch()
    run.end()
    assert run.launch() == [(0, 4)]  # 12 + 4 tokens; the other has lost its blocks, with a verification in flight
    assert (second.num_preemptions, second.num_tokens) == (1, 9)
    run.end()
    assert (second.num_tokens, second.num_computed_tokens, second.num_output_placeholders) == (12, 0, 0)
    for _ in range(60):
        run.launch()
        if run.engine.holds_requests:
            run.end()
    assert (first.num_tokens, second.num_tokens) == (24, 20)
    run.engine.kv.pool.check([])


def test_a_request_whose_drafts_never_fit_is_refused() -> None:
    run = SpeculativeDriver(usable=3, num_lookahead_tokens=3, max_model_len=100)
    assert run.engine.reject_reason(RequestSpec(0, 0, 5, 2, None)) is None  # 6 tokens, 3 drafts, 3 ahead
    assert run.engine.reject_reason(RequestSpec(0, 0, 5, 3, None)) is not None


def test_messages_have_gaps_and_tokens_in_them_none() -> None:
    run = SpeculativeDriver(3, 1, 0)
    run.ask(0, prompt=4, output=9)
    gaps = []
    while run.engine.holds_requests:
        run.launch()
        gaps.append(run.end().token_gaps_ns)
    assert gaps == [{}, {STEP_NS: 1}, {STEP_NS: 1}, {STEP_NS: 1}, {STEP_NS: 1}]
