"""Which prefixes were sent where, as a router remembers it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from llmservingsim.serving.kv.hashing import BlockHash


class PrefixIndex:
    """Hashes of the prompt blocks that were sent to each instance, the most recently sent ones.

    A block is forgotten after those that follow it, so whatever is remembered of a prompt is a prefix of it.

    Args:
        max_blocks: Remembered per instance.
    """

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._recent: dict[int, OrderedDict[BlockHash, None]] = {}
        self._holders: dict[BlockHash, int] = {}

    def num_blocks(self, index: int) -> int:
        """Blocks that are remembered of an instance."""
        return len(self._recent.get(index, ()))

    def longest_match(self, hashes: Sequence[BlockHash], indices: Iterable[int]) -> tuple[int, list[int]]:
        """Return how many leading blocks some instance was sent, and which of ``indices`` were sent so many."""
        indices = list(indices)
        matching = sum(1 << index for index in indices)
        depth = 0
        for block_hash in hashes:
            still = matching & self._holders.get(block_hash, 0)
            if not still:
                break
            matching = still
            depth += 1
        return depth, [index for index in indices if matching >> index & 1]

    def sent(self, index: int, hashes: Sequence[BlockHash]) -> None:
        """Remember that a prompt went to an instance; forget what it was sent longest ago."""
        recent = self._recent.setdefault(index, OrderedDict())
        bit = 1 << index
        for block_hash in reversed(hashes[: self._max_blocks]):
            recent[block_hash] = None
            recent.move_to_end(block_hash)
            self._holders[block_hash] = self._holders.get(block_hash, 0) | bit
        while len(recent) > self._max_blocks:
            forgotten, _ = recent.popitem(last=False)
            self._holders[forgotten] &= ~bit
            if not self._holders[forgotten]:
                del self._holders[forgotten]
