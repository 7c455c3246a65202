"""What is found again by its tokens."""

import subprocess
import sys

import pytest
from serving_driver import BLOCK, Driver

from llmservingsim.serving import Request
from llmservingsim.serving.kv import KVCacheManager, hash_blocks

PROMPT = tuple(range(16))


def after(prompt: tuple[int, ...], output: int) -> tuple[int, ...]:
    """The prompt and some output."""
    return (*prompt, *range(500, 500 + output))


def test_a_fully_cached_prompt_recomputes_its_last_block() -> None:
    run = Driver()
    run.ask(0, prompt=16, output=1, ids=after(PROMPT, 1))
    run.step()
    request = run.ask(1, prompt=16, output=1, ids=after(PROMPT, 1))
    assert run.step() == [(1, BLOCK)]
    assert request.cached_tokens == 12


def test_one_token_after_the_cached_blocks_is_all_that_is_computed() -> None:
    run = Driver()
    run.ask(0, prompt=16, output=1, ids=after(PROMPT, 1))
    run.step()
    run.ask(1, prompt=17, output=1, ids=after((*PROMPT, 7), 1))
    assert run.step() == [(1, 1)]


def test_a_hit_ends_at_the_first_block_that_differs() -> None:
    run = Driver()
    run.ask(0, prompt=16, output=1, ids=after(PROMPT, 1))
    run.step()
    run.ask(1, prompt=16, output=1, ids=after((*PROMPT[:5], 99, *PROMPT[6:]), 1))
    assert run.step() == [(1, 12)]


def test_blocks_can_be_hit_in_the_step_that_computes_them() -> None:
    run = Driver()
    run.ask(0, prompt=16, ids=after(PROMPT, 50))
    request = run.ask(1, prompt=16, ids=after(PROMPT, 50))
    assert run.step() == [(0, 16), (1, 4)]
    assert request.block_ids[:3] == run.requests[0].block_ids[:3]


def test_of_a_prompt_in_chunks_only_the_blocks_begun_can_be_hit() -> None:
    run = Driver(long_prefill_token_threshold=10)
    run.ask(0, prompt=16, ids=after(PROMPT, 50))
    run.ask(1, prompt=16, ids=after(PROMPT, 50))
    assert run.step() == [(0, 10), (1, 8)]


def test_blocks_that_output_filled_are_found_by_the_next_turn() -> None:
    run = Driver()
    run.ask(0, prompt=4, output=5, ids=PROMPT[:9])  # the ninth token is sampled but never computed
    while run.engine.holds_requests:
        run.step()
    run.ask(1, prompt=16, output=1, ids=after(PROMPT, 1))
    assert run.step() == [(1, 16 - 8)]


def test_a_block_whose_last_token_is_still_being_sampled_cannot_be_hit() -> None:
    run = Driver(asynchronous=True)
    run.ask(0, prompt=3, output=9, ids=PROMPT[:12])
    run.launch()
    run.ask(1, prompt=6, output=1, ids=PROMPT[:7])
    assert run.launch() == [(0, 1), (1, 6)]
    run.end()
    run.ask(2, prompt=6, output=1, ids=PROMPT[:7])
    assert run.launch() == [(0, 1), (2, 2)]


@pytest.mark.parametrize(("ended", "computed"), [(1, 6), (2, 2)])
def test_a_block_that_the_last_but_one_token_fills_can_be_hit_when_its_iteration_has_ended(
    ended: int, computed: int
) -> None:
    run = Driver(asynchronous=True)
    run.ask(0, prompt=3, output=2, ids=PROMPT[:5])
    assert [run.launch(), run.launch()] == [[(0, 3)], [(0, 1)]]
    for _ in range(ended):
        run.end()
    run.ask(1, prompt=6, output=1, ids=PROMPT[:7])
    assert run.launch() == [(1, computed)]


def test_a_block_counts_only_behind_all_those_before_it() -> None:
    kv = KVCacheManager(10, BLOCK)
    request = Request(0, 0, 16, block_hashes=hash_blocks(PROMPT, BLOCK))
    first, second = kv.pool.take(2)
    kv.pool.cache(second, request.block_hashes[1])
    assert kv.cached_prefix(request) == []
    kv.pool.cache(first, request.block_hashes[0])
    assert kv.cached_prefix(request) == [first, second]


def test_requests_without_token_ids_neither_hit_nor_are_hit() -> None:
    run = Driver()
    run.ask(0, prompt=16, output=1)
    run.ask(1, prompt=16, output=1)
    assert run.step() == [(0, 16), (1, 16)]


def test_nothing_is_found_when_prefix_caching_is_off() -> None:
    run = Driver(prefix_caching=False)
    run.ask(0, prompt=16, output=1, ids=after(PROMPT, 1))
    run.ask(1, prompt=16, output=1, ids=after(PROMPT, 1))
    assert run.step() == [(0, 16), (1, 16)]
    assert run.engine.kv.queried_tokens == 0


def test_a_finished_sequence_loses_its_tail_first() -> None:
    run = Driver(usable=5)
    run.ask(0, prompt=16, output=1, ids=after(PROMPT, 1))
    run.step()
    run.ask(1, prompt=8, output=1)  # the block never used, then the last of 0
    run.step()
    run.ask(2, prompt=16, output=1, ids=after(PROMPT, 1))
    run.step()
    assert run.requests[2].cached_tokens == 12
    run.ask(3, prompt=16, output=1)  # the free queue now: 1's tail, then 2's, so one block of PROMPT is left
    run.step()
    run.ask(4, prompt=16, output=1, ids=after(PROMPT, 1))
    run.step()
    assert run.requests[4].cached_tokens == 4


def test_a_hit_on_a_free_block_saves_it_from_eviction() -> None:
    run = Driver(usable=4)
    run.ask(0, prompt=8, output=1, ids=after(PROMPT[:8], 1))
    run.step()
    run.ask(1, prompt=9, output=3, ids=after((*PROMPT[:8], 99), 3))
    assert run.step() == [(1, 1)]
    run.ask(2, prompt=4, output=1)  # takes the only free block
    run.step()
    run.ask(3, prompt=9, output=1, ids=after((*PROMPT[:8], 98), 1))
    run.step()
    run.step()
    assert run.requests[3].cached_tokens == 8


def test_the_hit_rate_counts_first_admissions() -> None:
    run = Driver(usable=6)
    run.ask(0, prompt=4, output=2)
    run.ask(1, prompt=4, output=2)
    run.ask(2, prompt=12, ids=tuple(range(40)), output=4)
    run.step()
    run.step()
    run.step()
    assert run.requests[2].num_preemptions == 1
    assert (run.engine.kv.queried_tokens, run.engine.kv.hit_tokens) == (20, 0)


@pytest.mark.parametrize(("length", "blocks"), [(0, 0), (3, 0), (4, 1), (7, 1), (8, 2)])
def test_only_full_blocks_have_a_hash(length: int, blocks: int) -> None:
    assert len(hash_blocks(range(length), BLOCK)) == blocks


def test_a_hash_stands_for_all_tokens_before_it() -> None:
    one, other = hash_blocks((1, 2, 3, 4, 5, 6, 7, 8), BLOCK), hash_blocks((0, 2, 3, 4, 5, 6, 7, 8), BLOCK)
    assert one[0] != other[0]
    assert one[1] != other[1]
    assert one == hash_blocks((1, 2, 3, 4, 5, 6, 7, 8, 9), BLOCK)


def test_hashes_are_the_same_in_every_process() -> None:
    program = "from llmservingsim.serving.kv import hash_blocks; print(hash_blocks(range(8), 4))"
    seeds = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert seeds == [f"{hash_blocks(range(8), 4)}\n"] * 2
