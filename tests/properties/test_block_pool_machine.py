"""The block pool against a naive twin that searches lists."""

from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmservingsim.serving.kv import BlockPool

HASHES = range(5)


class NaivePool:
    """What the pool promises, in lists."""

    def __init__(self, num_blocks: int) -> None:
        self.free = list(range(1, num_blocks))
        self.held: list[int] = []  # a block once per holder
        self.index: list[tuple[int, int]] = []  # (hash, block), the first cached first

    def find(self, block_hash: int) -> int | None:
        return next((b for h, b in self.index if h == block_hash), None)

    def take(self, count: int) -> list[int]:
        taken, self.free = self.free[:count], self.free[count:]
        self.index = [(h, b) for h, b in self.index if b not in taken]
        self.held += taken
        return taken

    def hold(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            if block in self.free:
                self.free.remove(block)
            self.held.append(block)

    def release(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self.held.remove(block)
            if block not in self.held:
                self.free.append(block)


class BlockPoolMachine(RuleBasedStateMachine):
    """Requests take, share, cache and release blocks in any order."""

    @initialize(num_blocks=st.integers(2, 12))
    def create(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks)
        self.twin = NaivePool(num_blocks)
        self.holders: list[list[int]] = []

    @precondition(lambda self: self.pool.num_free)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        count = data.draw(st.integers(1, min(4, self.pool.num_free)))
        taken = self.pool.take(count)
        assert taken == self.twin.take(count)
        self.holders.append(taken)

    @rule(hashes=st.sets(st.sampled_from(HASHES), max_size=3))
    def hit(self, hashes: set[int]) -> None:
        found = [block for block in map(self.pool.find, sorted(hashes)) if block is not None]
        self.pool.hold(found)
        self.twin.hold(found)
        self.holders.append(found)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        blocks = self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1)))
        self.pool.release(reversed(blocks))
        self.twin.release(reversed(blocks))

    @precondition(lambda self: self.not_cached())
    @rule(data=st.data(), block_hash=st.sampled_from(HASHES))
    def cache(self, data: st.DataObject, block_hash: int) -> None:
        block = data.draw(st.sampled_from(self.not_cached()))
        self.pool.cache(block, block_hash)
        self.twin.index.append((block_hash, block))

    def not_cached(self) -> list[int]:
        cached = {b for _, b in self.twin.index}
        return sorted({b for blocks in self.holders for b in blocks} - cached)

    @invariant()
    def free_and_held_blocks_are_all_usable_blocks(self) -> None:
        assert self.pool.num_free + self.pool.num_held == self.pool.num_usable
        assert self.pool.num_held == len(set(self.twin.held))
        assert self.pool.num_filled == len(set(self.twin.held) | {block for _, block in self.twin.index})

    @invariant()
    def counts_queue_and_index_agree_with_the_holders(self) -> None:
        self.pool.check(self.holders)

    @invariant()
    def the_same_blocks_are_found_and_free(self) -> None:
        assert [self.pool.find(h) for h in HASHES] == [self.twin.find(h) for h in HASHES]
        assert all(self.pool.is_free(b) == (b in self.twin.free) for b in range(1, self.pool.num_usable + 1))

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            count = self.pool.num_free
            assert self.pool.take(count) == self.twin.take(count)  # the whole order of the free queue


TestBlockPool = BlockPoolMachine.TestCase
TestBlockPool.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
