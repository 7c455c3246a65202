"""The pool of KV blocks, with the semantics of vLLM V1's block pool (vllm 0.19.0, v1/core/block_pool.py).

::

    free queue   head = next victim                                      tail = freed last
                 +--------+--------+--------+-- ... --+--------+
                 | empty  | cached | cached |         | cached |         cached: still found by its hash
                 +--------+--------+--------+-- ... --+--------+
    taken        reference count = number of requests that hold the block
    block 0      the null block, never handed out

A freed block keeps its hash until it is taken for something else; that moment is its eviction. A hit on a free
block takes it out of the middle of the queue.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from llmservingsim.errors import InvariantError
from llmservingsim.serving.kv.hashing import BlockHash


class BlockPool:
    """Blocks ``1 .. num_blocks - 1``: free, or held by at least one request.

    Args:
        num_blocks: vLLM's ``num_gpu_blocks``; one of them is the null block.

    Attributes:
        evicted: Hears of contents that no block has any more, if set.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_usable = num_blocks - 1
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))
        self._reference_count = [0] * num_blocks
        self._hash_of: dict[int, BlockHash] = {}
        self._blocks_of: dict[BlockHash, dict[int, None]] = {}
        self._num_free_cached = 0
        self.evicted: Callable[[BlockHash], None] | None = None

    @property
    def num_free(self) -> int:
        """Blocks that can be taken, cached ones included."""
        return len(self._free)

    @property
    def num_held(self) -> int:
        """Blocks that a request holds."""
        return self.num_usable - len(self._free)

    @property
    def num_filled(self) -> int:
        """Blocks whose contents count: held ones, and free ones that a prompt could still find."""
        return self.num_held + self._num_free_cached

    def find(self, block_hash: BlockHash) -> int | None:
        """Return a block with these contents; of duplicates the one cached first."""
        blocks = self._blocks_of.get(block_hash)
        return next(iter(blocks)) if blocks else None

    def holds(self, block: int, block_hash: BlockHash) -> bool:
        """Whether a block has these contents."""
        return self._hash_of.get(block) == block_hash

    def is_free(self, block: int) -> bool:
        """Whether nobody holds the block."""
        return self._reference_count[block] == 0

    def take(self, count: int) -> list[int]:
        """Take ``count`` blocks from the head of the free queue, evicting what they cached."""
        if count > len(self._free):
            raise InvariantError(f"{count} blocks taken of {len(self._free)} free ones")
        taken = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            if block in self._hash_of:
                self._evict(block)
                self._num_free_cached -= 1
            self._reference_count[block] = 1
            taken.append(block)
        return taken

    def hold(self, blocks: Iterable[int]) -> None:
        """Add one holder to cached blocks, taking free ones off the queue."""
        for block in blocks:
            if self._reference_count[block] == 0:
                del self._free[block]
                self._num_free_cached -= block in self._hash_of
            self._reference_count[block] += 1

    def release(self, blocks: Iterable[int]) -> None:
        """Drop one holder; a block without holders joins the tail of the free queue, its hash kept."""
        for block in blocks:
            count = self._reference_count[block] - 1
            if count < 0:
                raise InvariantError(f"block {block} released more often than held")
            self._reference_count[block] = count
            if count == 0:
                self._free[block] = None
                self._num_free_cached += block in self._hash_of

    def cache(self, block: int, block_hash: BlockHash) -> None:
        """Enter a full block into the prefix index. Duplicates are kept, not merged."""
        self._hash_of[block] = block_hash
        self._blocks_of.setdefault(block_hash, {})[block] = None

    def check(self, holders: Iterable[Iterable[int]]) -> None:
        """Raise InvariantError unless counts, queue and index agree with the block lists of all holders."""
        counts = [0] * len(self._reference_count)
        for blocks in holders:
            for block in blocks:
                counts[block] += 1
        if counts != self._reference_count:
            raise InvariantError("a block's reference count differs from the number of its holders")
        if {b for b in range(1, len(counts)) if counts[b] == 0} != set(self._free):
            raise InvariantError("the free queue is not the set of blocks without holders")
        indexed = {b: h for h, blocks in self._blocks_of.items() for b in blocks}
        if indexed != self._hash_of:
            raise InvariantError("the prefix index and the blocks' hashes differ")
        if self._num_free_cached != len(self._free.keys() & self._hash_of.keys()):
            raise InvariantError("the count of free cached blocks is wrong")

    def _evict(self, block: int) -> None:
        block_hash = self._hash_of.pop(block)
        blocks = self._blocks_of[block_hash]
        del blocks[block]
        if not blocks:
            del self._blocks_of[block_hash]
            if self.evicted is not None:
                self.evicted(block_hash)
