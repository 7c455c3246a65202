"""A tier of the prefix cache: what is found, what is kept, what goes first."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.errors import PluginError
from llmservingsim.serving.kv.eviction import (
    CostAwareEviction,
    EvictionPolicy,
    FifoEviction,
    LfuEviction,
    LruEviction,
    StoredChunk,
)
from llmservingsim.serving.kv.hashing import NO_PARENT
from llmservingsim.serving.kv.tier_store import TierStore

SIZE = 16


def chunk(key: int, parent: int = NO_PARENT, context: int = 0, flops: float = 1.0) -> StoredChunk:
    return StoredChunk(key, parent, SIZE, context, flops)


def store(chunks: int = 3, policy: EvictionPolicy | None = None) -> TierStore:
    return TierStore("cpu", chunks * SIZE, policy or LruEviction())


def put(tier: TierStore, *chunks: StoredChunk) -> list[int]:
    """Put chunks that arrive at once; return the keys of those that went."""
    gone = []
    for one in chunks:
        has_room, evicted = tier.put(one)
        gone += [victim.key for victim in evicted]
        if has_room:
            tier.arrived(one.key)
        tier.check()
    return gone


def use(tier: TierStore, *keys: int) -> None:
    tier.pin(keys)
    tier.unpin(keys)


def test_a_chunk_is_found_when_it_has_arrived() -> None:
    tier = store()
    tier.put(chunk(1))
    assert (1 in tier, tier.has(1)) == (True, False)
    tier.arrived(1)
    assert tier.has(1)


def test_lru_drops_what_was_used_longest_ago() -> None:
    tier = store()
    put(tier, chunk(1), chunk(2), chunk(3))
    use(tier, 1)
    assert put(tier, chunk(4), chunk(5)) == [2, 3]


def test_fifo_drops_what_came_first_however_often_it_was_used() -> None:
    tier = store(policy=FifoEviction())
    put(tier, chunk(1), chunk(2), chunk(3))
    use(tier, 1)
    assert put(tier, chunk(4)) == [1]


def test_lfu_drops_what_was_used_least_and_of_equals_what_was_used_longest_ago() -> None:
    tier = store(policy=LfuEviction())
    put(tier, chunk(1), chunk(2), chunk(3))
    use(tier, 1)
    use(tier, 1)
    use(tier, 2)
    use(tier, 3)
    assert put(tier, chunk(4)) == [2]
    assert put(tier, chunk(5)) == [4]


def test_cost_aware_keeps_what_is_dear_until_it_has_aged() -> None:
    """Worths per token: 10 / 16, 2 / 16, 3 / 16. Victims raise the floor by what they were worth."""
    tier = store(policy=CostAwareEviction())
    put(tier, chunk(1, flops=10), chunk(2, flops=2), chunk(3, flops=3))
    assert put(tier, chunk(4, flops=1)) == [2]  # 4 is worth 2 + 1
    assert put(tier, chunk(5, flops=6)) == [3]  # of 3 and 4, both worth 3, the older; 5 is worth 3 + 6
    assert put(tier, chunk(6, flops=8)) == [4]  # 6 is worth 3 + 8
    assert put(tier, chunk(7, flops=5)) == [5]
    assert put(tier, chunk(8, flops=1)) == [1]  # worth 10, of old; 6 is worth 11, 7 is worth 14


@pytest.mark.parametrize("policy", [LruEviction, FifoEviction, LfuEviction, CostAwareEviction])
def test_a_prefix_loses_its_end_first(policy: Callable[[], EvictionPolicy]) -> None:
    tier = store(policy=policy())
    put(tier, chunk(1), chunk(2, 1, 16), chunk(3, 2, 32))
    assert put(tier, chunk(10), chunk(11, 10, 16), chunk(12, 11, 32)) in ([3, 2, 1], [3, 10, 2], [3, 2, 10])


def test_what_is_read_stays_and_with_it_the_prefix_before_it() -> None:
    tier = store()
    put(tier, chunk(1), chunk(2, 1, 16), chunk(3))
    tier.pin([2])
    assert put(tier, chunk(4)) == [3]
    tier.put(chunk(5))
    has_room, evicted = tier.put(chunk(6))
    assert (has_room, evicted, sorted(c.key for c in tier)) == (False, [], [1, 2, 5])
    tier.unpin([2])
    assert put(tier, chunk(6)) == [2]


def test_what_is_on_its_way_stays() -> None:
    tier = store(1)
    tier.put(chunk(1))
    assert tier.put(chunk(2)) == (False, [])


@pytest.mark.parametrize("answer", [None, "old", float("nan")])
def test_a_priority_that_is_no_number_is_refused(answer: object) -> None:
    class Wrong:
        def priority(self, chunk: StoredChunk) -> float:
            return answer  # type: ignore[return-value]

    with pytest.raises(PluginError, match=r"eviction: 'Wrong' gave StoredChunk\(0\.\.16, used 0 times\) the priority"):
        store(policy=Wrong()).put(chunk(1))


@given(st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=80), st.integers(1, 5))
def test_whatever_comes_the_counts_hold_and_no_prefix_has_a_gap(events: list[tuple[int, bool]], size: int) -> None:
    """Chunk ``n`` continues ``n - 3``, so there are three prefixes."""
    tier = store(size)
    for number, is_use in events:
        if is_use and tier.has(number):
            use(tier, number)
        elif number not in tier and (number <= 3 or number - 3 in tier):
            put(tier, chunk(number, number - 3 if number > 3 else NO_PARENT, 16 * ((number - 1) // 3)))
        tier.check()
        held = {c.key for c in tier}
        assert all(key <= 3 or key - 3 in held for key in held)
