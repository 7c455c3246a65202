"""When a waiting request is let in: the gate over its whole sequence, and what it does not promise."""

from serving_driver import Driver

SHARED = tuple(range(16))


def test_a_request_waits_until_its_whole_prompt_fits_the_free_blocks() -> None:
    run = Driver(usable=10, long_prefill_token_threshold=4)
    run.ask(0, prompt=12, output=2)
    run.step()
    run.step()
    run.step()  # three blocks are held now
    run.ask(1, prompt=32)  # eight blocks; the first chunk alone would fit
    assert run.step() == [(0, 1)]
    assert run.step() == [(1, 4)]


def test_the_gate_does_not_reserve_so_two_long_prompts_admitted_one_after_the_other_both_pass() -> None:
    run = Driver(usable=10, long_prefill_token_threshold=4)
    run.ask(0, prompt=32)
    run.step()
    run.ask(1, prompt=32)
    assert run.step() == [(0, 4), (1, 4)]
    assert run.engine.kv.pool.num_held == 3
    while not run.requests[1].num_preemptions:  # together they need 16 of 10 blocks
        run.step()
    assert run.requests[0].num_preemptions == 0


def test_without_the_gate_the_first_chunk_has_to_fit_and_nothing_else() -> None:
    run = Driver(usable=10, long_prefill_token_threshold=4, scheduler_reserve_full_isl=False)
    run.ask(0, prompt=12)
    run.step()
    run.step()
    run.step()
    run.ask(1, prompt=32)
    assert run.step() == [(0, 1), (1, 4)]


def test_without_the_gate_a_first_chunk_that_does_not_fit_stops_admission() -> None:
    run = Driver(usable=4, scheduler_reserve_full_isl=False)
    run.ask(0, prompt=11, output=2)
    run.step()
    run.ask(1, prompt=8, output=2)
    run.ask(2, prompt=4, output=2)
    assert run.step() == [(0, 1)]
    assert run.step() == [(1, 8), (2, 4)]


def test_a_request_that_fits_waits_behind_one_that_does_not() -> None:
    run = Driver(usable=4)
    run.ask(0, prompt=5, output=2)
    run.ask(1, prompt=12)
    run.ask(2, prompt=4)
    assert run.step() == [(0, 5)]
    assert run.waiting() == [1, 2]


def test_hits_on_free_blocks_count_against_what_is_free() -> None:
    run = Driver(usable=6)
    run.ask(0, prompt=16, output=1, ids=(*SHARED, 99))
    run.step()  # its four blocks are free now and still findable
    run.ask(1, prompt=5, output=2)
    run.step()  # takes the two that never held anything
    run.ask(2, prompt=20, ids=(*SHARED, *range(100, 154)), output=5)  # one block more than its four hits
    assert run.step() == [(1, 1)]
    assert run.step() == [(2, 4)]  # once the two are back
    assert run.requests[2].cached_tokens == 16


def test_hits_on_free_blocks_count_for_the_whole_sequence_and_not_for_its_first_chunk_alone() -> None:
    run = Driver(usable=6, long_prefill_token_threshold=4)
    run.ask(0, prompt=16, output=1, ids=(*SHARED, 99))
    while run.engine.holds_requests:
        run.step()
    run.ask(1, prompt=2, output=2)
    run.step()
    run.ask(2, prompt=24, ids=(*SHARED, *range(100, 150)), output=1)  # six blocks, and five are free
    assert run.step() == [(1, 1)]
    assert run.step() == [(2, 4)]


def test_hits_on_held_blocks_cost_nothing() -> None:
    run = Driver(usable=6)
    run.ask(0, prompt=16, ids=(*SHARED, *range(200, 250)), output=8)
    run.step()
    run.ask(1, prompt=17, ids=(*SHARED, *range(100, 150)), output=2)  # four hits that 0 holds, one block of its own
    assert run.step() == [(0, 1), (1, 1)]
    assert run.engine.kv.pool.num_held == 6
