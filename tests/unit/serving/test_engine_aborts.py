"""Requests that leave an engine before their end: from where, when, what they leave. Blocks have 4 tokens."""

import pytest
from serving_driver import Driver

from llmservingsim.serving import Request, RequestStatus
from llmservingsim.serving.remote import Load
from llmservingsim.workload.request import RequestSpec


def held(run: Driver) -> int:
    return run.engine.kv.pool.num_held


def test_one_that_the_engine_has_not_seen_leaves_without_a_trace() -> None:
    run = Driver()
    request = run.ask(0, prompt=5)
    assert run.engine.abort(request) == 0
    assert (run.engine.num_waiting, run.engine.holds(request), run.launch()) == (0, False, None)
    assert request.status is RequestStatus.FINISHED


def test_at_a_boundary_it_leaves_at_once() -> None:
    run = Driver()
    request = run.ask(0, prompt=5)
    run.step()
    run.step()
    assert (run.engine.abort(request), held(run), run.engine.num_running) == (2, 0, 0)


def test_while_a_batch_runs_it_stays_until_that_ends_and_gets_no_token_of_it() -> None:
    run = Driver()
    request = run.ask(0, prompt=5)
    run.launch()
    assert run.engine.abort(request) == 0
    assert (run.engine.holds(request), held(run), run.engine.num_running) == (True, 2, 1)
    outcome = run.end()
    assert (outcome.num_sampled, outcome.finished, outcome.token_gaps_ns) == (0, [], {})
    assert (run.engine.holds(request), held(run), run.engine.num_running) == (False, 0, 0)
    assert request.first_token_ns == -1


def test_its_last_token_does_not_finish_it() -> None:
    run = Driver()
    request = run.ask(0, prompt=5, output=1)
    run.launch()
    run.engine.abort(request)
    assert run.end().finished == []


def test_a_batch_that_stands_ready_gives_it_nothing_either() -> None:
    """Two batches in flight: the first ends and it leaves; the blocks are free, though the second computes on."""
    run = Driver(asynchronous=True)
    request = run.ask(0, prompt=5)
    other = run.ask(1, prompt=5)
    assert (run.launch(), run.launch()) == ([(0, 5), (1, 5)], [(0, 1), (1, 1)])
    run.engine.abort(request)
    assert (run.end().num_sampled, held(run)) == (1, 2)
    assert run.launch() == [(1, 1)]
    assert (run.end().num_sampled, other.num_tokens) == (1, 7)


def test_another_batch_that_is_formed_first_is_a_boundary_too() -> None:
    """One batch is in flight and nothing keeps the engine from forming another; it does so without the request."""
    run = Driver(asynchronous=True)
    request, other = run.ask(0, prompt=5), run.ask(1, prompt=5)
    run.launch()
    run.engine.abort(request)
    assert run.launch() == [(1, 1)]
    assert other.num_output_placeholders == 2


def test_a_preempted_one_leaves_the_queue_and_a_token_in_flight_is_dropped() -> None:
    """3 blocks, two prompts of 4: the second block of either fits, the third of neither; 1 is preempted."""
    run = Driver(usable=3)
    first, second = run.ask(0, prompt=4, output=9), run.ask(1, prompt=4, output=9)
    while not second.num_preemptions:
        run.step()
    run.launch()
    assert run.waiting() == [1]
    assert run.engine.abort(second) == second.num_tokens - 4
    run.end()
    assert (run.waiting(), run.engine.num_waiting) == ([], 0)
    run.check()
    assert run.engine.holds(first)


def loading(run: Driver) -> Request:
    """A request whose prompt of 9 tokens another instance has computed, at the point where its KV could be sent."""
    spec = RequestSpec(0, 0, 9, 5)
    prefilled = Request(0, 0, 9)
    prefilled.num_tokens, prefilled.block_ids = 10, [1, 2, 3]
    request = run.engine.go_on(spec, prefilled, prefill_instance=7)
    run.requests[0] = request
    assert run.launch() is None
    assert held(run) == 3
    return request


def test_a_load_that_nobody_has_asked_for_is_not_begun() -> None:
    run = Driver()
    request = loading(run)
    assert run.engine.abort(request) == 1
    assert (run.engine.take_loads(), held(run), run.engine.num_waiting) == ([], 0, 0)


def test_blocks_into_which_kv_is_written_are_kept_until_it_has_come() -> None:
    run = Driver()
    request = loading(run)
    assert run.engine.take_loads() == [Load(request, 9)]
    run.engine.abort(request)
    assert (held(run), run.engine.num_waiting, run.engine.holds_requests) == (3, 0, False)
    run.engine.kv.pool.check([request.block_ids])
    run.engine.loaded(request)
    assert held(run) == 0
    assert run.launch() is None


def test_one_whose_kv_has_come_leaves_with_its_blocks() -> None:
    run = Driver()
    request = loading(run)
    run.engine.take_loads()
    run.engine.loaded(request)
    assert held(run) == 3
    run.engine.abort(request)
    assert (held(run), run.engine.num_waiting) == (0, 0)


@pytest.mark.parametrize("comes_first", ["KV", "boundary"])
def test_kv_that_comes_while_a_batch_runs(comes_first: str) -> None:
    """Another request keeps the engine busy; the abort waits for the end of its batch, the KV does not."""
    run = Driver()
    request = loading(run)
    run.engine.take_loads()
    run.ask(1, prompt=4, output=9)
    run.launch()
    run.engine.abort(request)
    steps = [lambda: run.engine.loaded(request), run.end]
    for step in steps if comes_first == "KV" else reversed(steps):
        step()
    assert (held(run), run.engine.num_waiting) == (1, 0)
