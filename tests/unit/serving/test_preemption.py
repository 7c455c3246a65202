"""Who loses the blocks when they run out, and how it comes back."""

import pytest
from serving_driver import Driver, plan, running, scheduler_of

from llmservingsim.serving import RequestStatus


def test_blocks_are_taken_from_the_tail_of_the_running_list() -> None:
    run = Driver(usable=4)
    for request_id in range(3):
        run.ask(request_id, prompt=4, output=8)
    run.step()
    assert run.step() == [(0, 1), (1, 1)]  # 0 takes the last free block, 1 takes 2's
    assert run.requests[2].status is RequestStatus.PREEMPTED
    assert run.requests[2].block_ids == []
    assert run.requests[2].num_computed_tokens == 0


def test_a_request_at_the_tail_gives_way_itself() -> None:
    run = Driver(usable=3)
    run.ask(0, prompt=4, output=5)
    run.ask(1, prompt=4, output=5)
    run.step()
    assert run.step() == [(0, 1)]
    assert run.requests[1].num_preemptions == 1


def test_the_head_of_the_running_list_is_never_preempted_first_come_first_served() -> None:
    run = Driver(usable=8)
    for request_id in range(8):
        run.ask(request_id, prompt=4, output=20)
    while run.engine.holds_requests:
        head = run.engine.scheduler.running[:1]
        run.step()
        assert not head or head[0].status is not RequestStatus.PREEMPTED


def test_preempted_requests_go_to_the_front_of_the_queue_and_keep_their_order() -> None:
    run = Driver(usable=4, long_prefill_token_threshold=4, scheduler_reserve_full_isl=False)
    run.ask(0, prompt=16, output=1)
    run.ask(1, prompt=4)
    run.ask(2, prompt=4)
    run.step()
    run.ask(3, prompt=4)
    run.step()
    assert run.waiting() == [2, 3]  # 1 took 2's block
    run.step()
    assert run.waiting() == [1, 2, 3]  # 0 took 1's


def test_a_preempted_request_keeps_its_generated_tokens_and_computes_them_again() -> None:
    run = Driver(usable=4)
    run.ask(0, prompt=4, output=9)
    run.ask(1, prompt=7, output=5)
    run.step()
    run.step()  # 1 computes its eighth token
    assert run.step() == [(0, 1)]  # and is its own victim for the ninth
    assert run.requests[1].num_tokens == 7 + 2
    while run.waiting():
        batch = run.step()
    assert batch == [(1, 9)]
    assert run.requests[1].num_tokens == 10


def test_a_resumed_request_recomputes_only_what_was_evicted() -> None:
    run = Driver(usable=6)
    run.ask(0, prompt=4, output=2)
    run.ask(1, prompt=4, output=2)
    run.ask(2, prompt=12, ids=tuple(range(40)), output=4)
    run.step()
    assert run.step() == [(0, 1), (1, 1)]  # the last free block, and the end of 2's prompt
    assert run.step() == [(2, 13 - 8)]
    assert run.requests[2].num_preemptions == 1


def test_first_admission_time_and_hits_survive_a_preemption() -> None:
    run = Driver(usable=6)
    run.now_ns = 500
    run.ask(0, prompt=4, output=2)
    run.ask(1, prompt=4, output=2)
    run.ask(2, prompt=12, ids=tuple(range(40)), output=4)
    run.step()
    run.step()
    run.step()
    assert run.requests[2].num_computed_tokens == 13
    assert run.requests[2].scheduled_ns == 500
    assert run.requests[2].cached_tokens == 0


def test_nothing_is_admitted_in_a_step_with_a_preemption() -> None:
    run = Driver(usable=6, policy="priority")
    run.ask(0, prompt=4, output=8)
    run.ask(1, prompt=4, output=8)
    run.ask(2, prompt=12, priority=9, output=4)
    run.step()
    run.ask(3, prompt=4)
    assert run.step() == [(0, 1), (1, 1)]
    assert run.engine.kv.pool.num_free == 2  # 3 would have fitted
    assert run.waiting() == [3, 2]
    assert run.step() == [(0, 1), (1, 1), (3, 4)]


def test_the_priority_policy_takes_from_the_largest_priority_then_the_latest_arrival() -> None:
    scheduler = scheduler_of(usable=5, policy="priority")
    for request_id, priority in enumerate([0, 5, 5, 1]):
        running(scheduler, request_id, priority)
    assert plan(scheduler) == [(0, 1), (3, 1)]  # 0 takes the free block, 1 takes from 2, then 3 from 1
    assert [r.request_id for r in scheduler.waiting()] == [1, 2]


def test_a_victim_that_was_already_placed_gives_its_tokens_back_to_the_budget() -> None:
    scheduler = scheduler_of(usable=6, policy="priority", max_num_batched_tokens=3)
    for request_id, priority in enumerate([0, 5, 1, 1]):
        running(scheduler, request_id, priority)
    assert plan(scheduler) == [(0, 1), (2, 1), (3, 1)]


def test_first_come_first_served_ignores_priorities_when_it_looks_for_a_victim() -> None:
    scheduler = scheduler_of(usable=4)
    for request_id, priority in enumerate([9, 5, 0]):
        running(scheduler, request_id, priority)
    assert plan(scheduler) == [(0, 1), (1, 1)]


@pytest.fixture
def own_victim() -> Driver:
    """Request 0, of low priority, stands first in the running list and is about to need a block of request 1."""
    run = Driver(usable=2, policy="priority")
    run.ask(0, prompt=3, output=5, priority=9)
    run.step()
    run.ask(1, prompt=2, output=3)
    assert run.step() == [(0, 1), (1, 2)]
    return run


def test_a_request_that_is_its_own_victim_ends_the_step() -> None:
    scheduler = scheduler_of(usable=3, policy="priority")
    for request_id, priority in enumerate([9, 0, 0]):
        running(scheduler, request_id, priority)
    assert plan(scheduler) == []
    assert [r.request_id for r in scheduler.waiting()] == [0]
    assert plan(scheduler) == [(1, 1)]


def test_an_engine_with_nothing_in_flight_schedules_again_after_a_step_that_only_preempted(own_victim: Driver) -> None:
    assert [own_victim.step() for _ in range(3)] == [[(1, 1)], [(1, 1)], [(0, 5)]]


def test_an_engine_with_a_batch_in_flight_waits_for_it_after_a_step_that_only_preempted() -> None:
    run = Driver(usable=2, policy="priority", asynchronous=True)
    run.ask(0, prompt=3, output=5, priority=9)
    run.launch()
    run.ask(1, prompt=2, output=3)
    assert run.launch() == [(0, 1), (1, 2)]
    run.end()
    assert run.launch() is None
    assert run.waiting() == [0]
    assert run.launch() is None
    run.end()
    assert run.launch() == [(1, 1)]


def test_a_token_in_flight_at_preemption_is_appended_when_it_arrives() -> None:
    run = Driver(usable=3, asynchronous=True)
    run.ask(0, prompt=4, output=8)
    victim = run.ask(1, prompt=4, output=3)
    assert run.launch() == [(0, 4), (1, 4)]
    assert run.launch() == [(0, 1)]
    assert (victim.num_preemptions, victim.num_tokens) == (1, 4)
    assert run.end().num_sampled == 2
    assert (victim.num_tokens, victim.num_computed_tokens, victim.num_output_placeholders) == (5, 0, 0)
    assert victim.first_token_ns == run.now_ns
    run.check()


def test_a_token_in_flight_at_preemption_may_finish_the_request() -> None:
    run = Driver(usable=2, asynchronous=True)
    run.ask(0, prompt=4, output=5)
    victim = run.ask(1, prompt=4, output=1)
    run.launch()
    assert run.launch() == [(0, 1)]
    assert run.waiting() == [1]
    assert run.end().finished == [victim]
    assert victim.status is RequestStatus.FINISHED
    assert run.engine.num_waiting == 0
    run.check()


def test_a_token_in_flight_at_preemption_may_finish_a_request_in_the_priority_queue() -> None:
    run = Driver(usable=2, asynchronous=True, policy="priority")
    run.ask(0, prompt=4, output=5)
    victim = run.ask(1, prompt=4, output=1, priority=1)
    run.launch()
    run.launch()
    assert run.end().finished == [victim]
    assert run.engine.num_waiting == 0
