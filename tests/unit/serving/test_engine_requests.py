"""What an engine refuses, where it cuts off, what it reports, and what it keeps to itself."""

import pytest
from serving_driver import STEP_NS, Driver

from llmservingsim.serving import RejectReason, Request, RequestStatus, RoutedRequest
from llmservingsim.workload.request import RequestSpec


def reason(run: Driver, prompt: int, output: int = 1) -> RejectReason | None:
    return run.engine.reject_reason(RequestSpec(0, 0, prompt, output))


def test_a_prompt_that_leaves_no_room_for_output_is_refused() -> None:
    run = Driver(max_model_len=20)
    assert reason(run, prompt=19) is None
    assert reason(run, prompt=20) is RejectReason.PROMPT_TOO_LONG


def test_a_request_whose_last_computed_token_finds_no_block_is_refused() -> None:
    run = Driver(usable=5)
    assert reason(run, prompt=12, output=9) is None  # 21 tokens, of which the last needs no KV
    assert reason(run, prompt=12, output=10) is RejectReason.NEVER_FITS


def test_what_max_model_len_cuts_off_needs_no_blocks() -> None:
    assert reason(Driver(usable=5, max_model_len=21), prompt=12, output=1000) is None


def test_a_prompt_that_no_batch_can_take_whole_is_refused_without_chunked_prefill() -> None:
    run = Driver(max_num_batched_tokens=10, enable_chunked_prefill=False)
    assert reason(run, prompt=10) is None
    assert reason(run, prompt=11) is RejectReason.PROMPT_NOT_SPLIT
    run = Driver(max_num_batched_tokens=10, enable_chunked_prefill=False, long_prefill_token_threshold=10)
    assert reason(run, prompt=11) is None
    assert reason(Driver(max_num_batched_tokens=10), prompt=11) is None


@pytest.mark.parametrize("asynchronous", [False, True])
def test_generation_stops_at_max_model_len(asynchronous: bool) -> None:
    run = Driver(asynchronous=asynchronous, max_model_len=20)
    request = run.ask(0, prompt=15, output=100)
    sampled = 0
    while run.engine.holds_requests:
        while run.launch() is not None:
            pass
        sampled += run.end().num_sampled
    assert sampled == 5
    assert request.num_tokens == 20
    assert request.num_computed_tokens == 19


def test_a_request_alone_may_use_every_block() -> None:
    run = Driver(usable=5, asynchronous=True)
    request = run.ask(0, prompt=12, output=9)
    while run.engine.holds_requests:
        while run.launch() is not None:
            pass
        run.end()
    assert (request.num_tokens, request.num_preemptions) == (21, 0)


def test_an_outcome_counts_tokens_and_the_times_between_them() -> None:
    run = Driver(max_num_batched_tokens=6)
    first, second = run.ask(0, prompt=4, output=3), run.ask(1, prompt=3, output=2)
    outcomes = []
    while run.engine.holds_requests:
        run.launch()
        outcomes.append(run.end())
    assert [o.num_sampled for o in outcomes] == [1, 2, 2]  # of 1, the first iteration computes but a chunk
    assert [o.token_gaps_ns for o in outcomes] == [{}, {STEP_NS: 1}, {STEP_NS: 2}]
    assert [o.finished for o in outcomes] == [[], [], [first, second]]
    assert (first.scheduled_ns, first.first_token_ns, first.last_token_ns) == (0, 10, 30)
    assert (second.scheduled_ns, second.first_token_ns, second.last_token_ns) == (0, 20, 30)


def test_a_finished_request_holds_nothing() -> None:
    run = Driver()
    request = run.ask(0, prompt=9, output=1)
    run.step()
    assert request.status is RequestStatus.FINISHED
    assert run.engine.kv.pool.num_held == 0
    assert (run.engine.num_running, run.engine.num_waiting, run.engine.holds_requests) == (0, 0, False)


def test_requests_that_the_engine_loop_has_not_seen_yet_count_as_waiting() -> None:
    run = Driver()
    run.ask(0, prompt=9)
    assert (run.engine.num_waiting, run.waiting()) == (1, [])


def test_an_engine_says_what_its_requests_wait_for() -> None:
    run = Driver(usable=4, max_num_batched_tokens=10, enable_chunked_prefill=False)
    run.ask(0, prompt=5, output=2)
    run.step()
    run.ask(1, prompt=10, output=1)
    run.launch()
    lines = run.engine.describe_waiting()
    assert lines == [
        "Request(0, running, 6 of 6+1 tokens, 2 blocks) runs",
        "Request(1, waiting, 0 of 10+0 tokens, 0 blocks) waits for 3 blocks; 2 of 4 are free",
    ]
    run.requests[1].num_tokens = 11  # as after a preemption
    assert run.engine.describe_waiting()[1].endswith("cannot be split; a batch takes 10 tokens")


def test_neither_scheduler_nor_router_is_given_the_output_length() -> None:
    assert not hasattr(Request(0, 0, 4), "__dict__")
    assert [name for name in Request.__slots__ if "output" in name] == ["num_output_placeholders"]
    assert [name for name in RoutedRequest._fields if "output" in name] == []


def test_until_its_last_token_is_in_flight_a_request_looks_the_same_whatever_its_output_length() -> None:
    short, long = Driver(asynchronous=True), Driver(asynchronous=True)
    requests = short.ask(0, prompt=5, output=6), long.ask(0, prompt=5, output=60)
    for _ in range(5):
        for run in (short, long):
            while run.launch() is not None:
                pass
        views = [{name: getattr(r, name) for name in Request.__slots__ if name != "block_hashes"} for r in requests]
        if not views[0]["awaits_last_token"]:
            assert views[0] == views[1]
        short.end()
        long.end()
    assert views[0]["awaits_last_token"]
    assert not views[1]["awaits_last_token"]


def test_a_router_sees_the_prompt_and_not_the_answer() -> None:
    routed = RoutedRequest.of(RequestSpec(3, 5, 2, 2, (1, 2, 3, 4), "s", 7))
    assert routed == RoutedRequest(3, 5, 2, (1, 2), "s", 7)
    assert RoutedRequest.of(RequestSpec(3, 5, 2, 2)).prompt_token_ids is None
