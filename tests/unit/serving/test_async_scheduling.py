"""Which iteration sees an arrival, a free slot, a last token, with and without asynchronous scheduling."""

from serving_driver import Driver


def test_an_idle_engine_takes_an_arrival_at_once() -> None:
    for asynchronous in (False, True):
        run = Driver(asynchronous=asynchronous)
        request = run.ask(0, prompt=4)
        assert run.launch() == [(0, 4)]
        assert request.scheduled_ns == 0


def test_two_batches_are_in_flight_when_asynchronous_and_one_when_not() -> None:
    run = Driver(asynchronous=True)
    run.ask(0, prompt=4)
    assert [run.launch() for _ in range(3)] == [[(0, 4)], [(0, 1)], None]
    run = Driver()
    run.ask(0, prompt=4)
    assert [run.launch() for _ in range(2)] == [[(0, 4)], None]


def test_asynchronous_an_arrival_during_iteration_k_is_first_computed_in_k_plus_2() -> None:
    run = Driver(asynchronous=True)
    run.ask(0, prompt=4)
    run.launch()
    run.launch()
    run.ask(1, prompt=4)  # iteration 0 runs
    assert run.launch() is None
    run.end()
    assert run.launch() == [(0, 1), (1, 4)]
    assert run.engine.iterations == 3
    assert run.requests[1].scheduled_ns == 10  # decided when iteration 0 ended


def test_synchronous_an_arrival_during_iteration_k_is_first_computed_in_k_plus_1() -> None:
    run = Driver()
    run.ask(0, prompt=4)
    run.launch()
    run.ask(1, prompt=4)
    assert run.launch() is None
    run.end()
    assert run.launch() == [(0, 1), (1, 4)]
    assert run.engine.iterations == 2


def test_asynchronous_the_slot_of_a_request_that_ends_in_k_is_reused_from_k_plus_2() -> None:
    run = Driver(asynchronous=True, max_num_seqs=2)
    run.ask(0, prompt=4)
    run.ask(1, prompt=4, output=2)
    run.ask(2, prompt=4)
    assert run.launch() == [(0, 4), (1, 4)]
    assert run.launch() == [(0, 1), (1, 1)]  # iteration 1 samples the last token of 1
    run.end()
    assert run.launch() == [(0, 1)]
    assert [r.request_id for r in run.end().finished] == [1]
    assert run.launch() == [(0, 1), (2, 4)]
    assert run.engine.iterations == 4


def test_asynchronous_the_blocks_of_a_request_that_ends_in_k_are_reused_from_k_plus_2() -> None:
    run = Driver(asynchronous=True, usable=3)
    run.ask(0, prompt=1, output=8)
    run.ask(1, prompt=4, output=2)
    run.ask(2, prompt=8)
    assert run.launch() == [(0, 1), (1, 4)]
    assert run.launch() == [(0, 1), (1, 1)]
    run.end()
    assert run.launch() == [(0, 1)]
    run.end()
    assert run.launch() == [(0, 1), (2, 8)]


def test_synchronous_the_slot_of_a_request_that_ends_in_k_is_reused_from_k_plus_1() -> None:
    run = Driver(max_num_seqs=2)
    run.ask(0, prompt=4)
    run.ask(1, prompt=4, output=2)
    run.ask(2, prompt=4)
    assert [run.step() for _ in range(3)] == [[(0, 4), (1, 4)], [(0, 1), (1, 1)], [(0, 1), (2, 4)]]


def test_no_iteration_is_spent_behind_a_last_token() -> None:
    run = Driver(asynchronous=True)
    run.ask(0, prompt=4, output=3)
    batches = [run.launch(), run.launch()]
    while run.engine.holds_requests:
        run.end()
        batches.append(run.launch())
    assert batches == [[(0, 4)], [(0, 1)], [(0, 1)], None, None]


def test_a_request_of_one_token_is_in_no_second_batch() -> None:
    run = Driver(asynchronous=True)
    run.ask(0, prompt=4, output=1)
    assert [run.launch(), run.launch()] == [[(0, 4)], None]


def test_an_engine_that_found_nothing_to_do_waits_for_the_batch_that_runs() -> None:
    run = Driver(asynchronous=True)
    run.ask(0, prompt=4, output=1)
    run.launch()
    assert run.launch() is None
    run.ask(1, prompt=4)
    assert run.launch() is None  # though nothing stands in its way
    run.end()
    assert run.launch() == [(1, 4)]


def test_chunks_of_a_prompt_are_in_flight_together() -> None:
    run = Driver(asynchronous=True, max_num_batched_tokens=6)
    run.ask(0, prompt=13)
    assert [run.launch(), run.launch()] == [[(0, 6)], [(0, 6)]]
    assert run.end().num_sampled == 0
    assert run.launch() == [(0, 1)]
    assert run.end().num_sampled == 0
    assert run.launch() == [(0, 1)]
    assert run.end().num_sampled == 1


def test_both_kinds_of_engine_produce_the_same_tokens() -> None:
    for asynchronous in (False, True):
        run = Driver(asynchronous=asynchronous, usable=8, max_num_batched_tokens=7)
        for request_id in range(5):
            run.ask(request_id, prompt=3 + request_id, output=9)
        sampled = 0
        while run.engine.holds_requests:
            while run.launch() is not None:
                pass
            sampled += run.end().num_sampled
        assert sampled == 5 * 9
