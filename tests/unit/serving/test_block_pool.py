"""Blocks: taken, held, released, found, evicted."""

from collections.abc import Callable

import pytest

from llmservingsim.errors import InvariantError
from llmservingsim.serving.kv import BlockPool, KVCacheManager


def test_one_block_is_the_null_block_and_never_handed_out() -> None:
    pool = BlockPool(6)
    assert pool.num_usable == 5
    assert sorted(pool.take(5)) == [1, 2, 3, 4, 5]
    assert (pool.num_free, pool.num_held) == (0, 5)


def test_a_manager_can_hold_what_its_usable_blocks_hold() -> None:
    kv = KVCacheManager(6, 4)
    assert kv.can_ever_hold(20)
    assert not kv.can_ever_hold(21)


def test_the_head_of_the_free_queue_is_taken_and_released_blocks_join_its_tail() -> None:
    pool = BlockPool(5)
    assert pool.take(3) == [1, 2, 3]
    pool.release([2, 1])
    assert pool.take(3) == [4, 2, 1]


def test_a_released_block_is_found_until_it_is_taken() -> None:
    pool = BlockPool(3)
    (block,) = pool.take(1)
    pool.cache(block, 77)
    pool.release([block])
    pool.take(1)
    assert pool.find(77) == block
    pool.take(1)
    assert pool.find(77) is None


def test_a_pool_that_forgets_is_as_new_and_refuses_while_somebody_holds_a_block() -> None:
    pool = BlockPool(4)
    blocks = pool.take(3)
    pool.cache(2, 77)
    with pytest.raises(InvariantError, match="3 blocks are held"):
        pool.forget()
    pool.release(reversed(blocks))
    pool.forget()
    pool.check([])
    assert (pool.find(77), pool.num_filled) == (None, 0)
    assert pool.take(3) == [1, 2, 3]


def test_a_hit_takes_a_free_block_out_of_the_middle_of_the_queue() -> None:
    pool = BlockPool(4)
    blocks = pool.take(3)
    pool.cache(2, 77)
    pool.release(blocks)
    pool.hold([2])
    assert pool.take(2) == [1, 3]
    assert pool.find(77) == 2


def test_a_block_with_two_holders_is_free_after_both_released_it() -> None:
    pool = BlockPool(2)
    pool.take(1)
    pool.hold([1])
    pool.release([1])
    assert not pool.is_free(1)
    pool.release([1])
    assert pool.is_free(1)


def test_duplicates_are_kept_and_the_first_is_used_until_it_is_evicted() -> None:
    pool = BlockPool(3)
    pool.take(2)
    pool.cache(2, 77)
    pool.cache(1, 77)
    assert pool.find(77) == 2
    pool.release([2])
    pool.take(1)
    assert pool.find(77) == 1
    pool.release([1])
    pool.take(1)
    assert pool.find(77) is None


def test_an_allocation_that_does_not_fit_changes_nothing() -> None:
    from llmservingsim.serving import Request

    kv = KVCacheManager(3, 4)
    request = Request(0, 0, 12)
    assert not kv.allocate(request, 12)
    assert (request.block_ids, kv.pool.num_free) == ([], 2)


def test_taking_more_than_is_free_is_an_error() -> None:
    with pytest.raises(InvariantError, match="3 blocks taken of 2"):
        BlockPool(3).take(3)


def test_releasing_what_nobody_holds_is_an_error() -> None:
    with pytest.raises(InvariantError, match="block 1 released"):
        BlockPool(3).release([1])


def test_check_accepts_a_pool_that_agrees_with_its_holders() -> None:
    pool = BlockPool(5)
    pool.take(2)
    pool.hold([1])
    pool.cache(1, 77)
    pool.check([[1, 2], [1]])


def lose_a_holder(pool: BlockPool) -> None:
    pool.hold([1])


def lose_a_free_block(pool: BlockPool) -> None:
    pool._free.popitem()


def lose_a_hash(pool: BlockPool) -> None:
    pool._hash_of.clear()


@pytest.mark.parametrize(
    ("damage", "message"),
    [(lose_a_holder, "reference count"), (lose_a_free_block, "free queue"), (lose_a_hash, "prefix index")],
)
def test_check_finds_what_is_wrong(damage: Callable[[BlockPool], None], message: str) -> None:
    pool = BlockPool(5)
    pool.take(1)
    pool.cache(1, 77)
    damage(pool)
    with pytest.raises(InvariantError, match=message):
        pool.check([[1]])
