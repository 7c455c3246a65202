"""Who gets how much of an iteration's token budget."""

import pytest
from serving_driver import BLOCK, Driver, plan, running, scheduler_of

from llmservingsim.shapes import BatchShape, Chunk


def test_running_requests_come_before_waiting_ones() -> None:
    run = Driver(max_num_batched_tokens=10)
    run.ask(0, prompt=4)
    run.step()
    run.ask(1, prompt=20)
    assert run.step() == [(0, 1), (1, 9)]


def test_running_requests_are_placed_in_the_order_of_their_admission() -> None:
    run = Driver()
    for request_id in (2, 0, 1):
        run.ask(request_id, prompt=4)
    run.step()
    assert run.step() == [(2, 1), (0, 1), (1, 1)]


def test_nothing_is_placed_once_the_token_budget_is_spent() -> None:
    run = Driver(max_num_batched_tokens=2)
    for request_id in range(3):
        run.ask(request_id, prompt=1, output=2)
    assert [run.step() for _ in range(4)] == [[(0, 1), (1, 1)], [(0, 1), (1, 1)], [(2, 1)], [(2, 1)]]


def test_a_prompt_beyond_the_budget_is_split_and_goes_on_before_new_admissions() -> None:
    run = Driver(max_num_batched_tokens=10)
    run.ask(0, prompt=25)
    run.ask(1, prompt=3)
    assert [run.step() for _ in range(4)] == [[(0, 10)], [(0, 10)], [(0, 5), (1, 3)], [(0, 1), (1, 1)]]


def test_chunks_do_not_exceed_long_prefill_token_threshold() -> None:
    run = Driver(max_num_batched_tokens=10, long_prefill_token_threshold=4)
    run.ask(0, prompt=11)
    run.ask(1, prompt=6)
    assert [run.step() for _ in range(3)] == [[(0, 4), (1, 4)], [(0, 4), (1, 2)], [(0, 3), (1, 1)]]


def test_a_threshold_above_the_budget_changes_nothing() -> None:
    run = Driver(max_num_batched_tokens=10, long_prefill_token_threshold=30)
    run.ask(0, prompt=25)
    assert [run.step() for _ in range(3)] == [[(0, 10)], [(0, 10)], [(0, 5)]]


def test_without_chunked_prefill_a_prompt_beyond_the_rest_of_the_budget_stops_admission() -> None:
    run = Driver(max_num_batched_tokens=10, enable_chunked_prefill=False)
    run.ask(0, prompt=6)
    run.ask(1, prompt=6)
    run.ask(2, prompt=2)
    assert run.step() == [(0, 6)]  # 2 would fit, but waits behind 1
    assert run.step() == [(0, 1), (1, 6), (2, 2)]


def test_without_chunked_prefill_the_threshold_still_splits() -> None:
    run = Driver(max_num_batched_tokens=10, enable_chunked_prefill=False, long_prefill_token_threshold=8)
    run.ask(0, prompt=12)
    assert [run.step() for _ in range(2)] == [[(0, 8)], [(0, 4)]]


def test_no_more_than_max_num_seqs_run() -> None:
    run = Driver(max_num_seqs=2)
    for request_id in range(3):
        run.ask(request_id, prompt=4, output=2)
    assert [run.step() for _ in range(3)] == [[(0, 4), (1, 4)], [(0, 1), (1, 1)], [(2, 4)]]


def test_first_come_first_served_ignores_priorities() -> None:
    run = Driver(max_num_seqs=1)
    run.ask(0, prompt=4, output=1, priority=9)
    run.ask(1, prompt=4, output=1, priority=0)
    assert [run.step() for _ in range(2)] == [[(0, 4)], [(1, 4)]]


def test_the_priority_policy_admits_the_smallest_priority_then_the_earliest_arrival() -> None:
    run = Driver(max_num_seqs=1, policy="priority")
    run.ask(2, prompt=4, output=1, priority=5)
    run.now_ns += 1
    run.ask(0, prompt=4, output=1, priority=5)
    run.ask(1, prompt=4, output=1, priority=-1)
    assert [run.step() for _ in range(3)] == [[(1, 4)], [(2, 4)], [(0, 4)]]


def test_the_last_token_of_the_longest_sequence_is_never_computed_and_stops_nobody() -> None:
    scheduler = scheduler_of(usable=10, max_model_len=BLOCK + 1)
    running(scheduler, 0)
    running(scheduler, 1).num_computed_tokens -= 1
    assert plan(scheduler) == [(1, 1)]


def test_the_priority_policy_does_not_reorder_those_that_run() -> None:
    run = Driver(policy="priority")
    run.ask(0, prompt=4, priority=5)
    run.step()
    run.ask(1, prompt=4, priority=0)
    assert [run.step() for _ in range(2)] == [[(0, 1), (1, 4)], [(0, 1), (1, 1)]]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_shape_tells_chunks_with_their_context_from_sequences_of_one_token(asynchronous: bool) -> None:
    run = Driver(asynchronous=asynchronous, max_num_batched_tokens=10)
    run.ask(0, prompt=4)
    run.ask(1, prompt=9)
    first = run.engine.next_batch(0)
    assert first is not None
    assert first.shape == BatchShape((Chunk(4, 0), Chunk(6, 0)), 0, 0, 0, 10)
    if not asynchronous:
        run.end()
    second = run.engine.next_batch(10)
    assert second is not None
    assert second.shape == BatchShape((Chunk(3, 6),), 1, 5, 5, 4)
    assert [s.samples for s in (*first.scheduled, *second.scheduled)] == [True, False, True, True]
    assert second.shape.num_sequences == 2
