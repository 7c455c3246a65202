"""What lies in one tier below the device: chunks of KV, found by the hash of the tokens up to their end."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import isnan
from numbers import Real

from llmservingsim.errors import InvariantError, PluginError
from llmservingsim.serving.kv.eviction import EvictionPolicy, StoredChunk
from llmservingsim.serving.kv.hashing import BlockHash

_STALE_MAX = 64


class TierStore:
    """Chunks of one tier, of one instance or of several that share it.

    ::

        put ----> on its way ----arrived----> stored ----evicted----> gone
                  (pinned, not found)         (found; pinned while it is read)

    A prefix loses its end first, whatever the policy: what comes behind a gap could not be found.

    Args:
        tier: Its name, as in the run file.
        capacity: Tokens for which it has room.
        policy: Which chunk goes when it is full.

    Attributes:
        used_tokens: Tokens of the chunks in it, those on their way included.
        evictions: Chunks that went.
    """

    def __init__(self, tier: str, capacity: int, policy: EvictionPolicy) -> None:
        self.tier = tier
        self.capacity = capacity
        self.used_tokens = 0
        self.evictions = 0
        self._policy = policy
        self._chunks: dict[BlockHash, StoredChunk] = {}
        self._followers: dict[BlockHash, int] = {}  # chunks that continue a prefix, by its key
        self._ends: list[tuple[float, int, int, BlockHash]] = []  # priority, last use, entry; stale ones stay a while
        self._entry_of: dict[BlockHash, int] = {}  # of the ends of prefixes
        self._entries = 0
        self._events = 0
        self._floor = 0.0

    def __len__(self) -> int:
        return len(self._chunks)

    def __contains__(self, key: BlockHash) -> bool:
        """Whether a chunk is there or on its way."""
        return key in self._chunks

    def __iter__(self) -> Iterator[StoredChunk]:
        return iter(self._chunks.values())

    def has(self, key: BlockHash) -> bool:
        """Whether a chunk can be read."""
        chunk = self._chunks.get(key)
        return chunk is not None and chunk.has_arrived

    def get(self, key: BlockHash) -> StoredChunk:
        """Return a chunk that is there."""
        return self._chunks[key]

    def put(self, chunk: StoredChunk) -> tuple[bool, list[StoredChunk]]:
        """Make room for a chunk that is not there, and count it as on its way.

        Returns:
            Whether there was room, and what was evicted for it. Chunks that are read or on their way stay, and so does
            the prefix before them.
        """
        self._followers[chunk.parent] = self._followers.get(chunk.parent, 0) + 1
        self._entry_of.pop(chunk.parent, None)
        evicted = self._make_room(self.used_tokens + chunk.num_tokens - self.capacity)
        if self.used_tokens + chunk.num_tokens > self.capacity:
            self._unfollow(chunk.parent)
            return False, evicted
        self._events += 1
        chunk.stored = chunk.last_used = self._events
        chunk.pins = 1
        self._chunks[chunk.key] = chunk
        self.used_tokens += chunk.num_tokens
        self._rank(chunk)
        return True, evicted

    def arrived(self, key: BlockHash) -> None:
        """A chunk that was put can be read from now on."""
        chunk = self._chunks[key]
        chunk.has_arrived = True
        chunk.pins -= 1

    def pin(self, keys: Sequence[BlockHash]) -> None:
        """Use chunks: they count as used, the last one first, and stay until `unpin`."""
        for key in reversed(keys):
            chunk = self._chunks[key]
            self._events += 1
            chunk.last_used = self._events
            chunk.uses += 1
            chunk.pins += 1
            self._rank(chunk)

    def unpin(self, keys: Iterable[BlockHash]) -> None:
        """The chunks were read."""
        for key in keys:
            self._chunks[key].pins -= 1

    def check(self) -> None:
        """Raise InvariantError unless what it counts is what it holds."""
        if self.used_tokens != sum(chunk.num_tokens for chunk in self) or self.used_tokens > self.capacity:
            raise InvariantError(f"{self.tier}: {self.used_tokens} tokens counted in a tier of {self.capacity}")
        if any(chunk.pins < (not chunk.has_arrived) for chunk in self):
            raise InvariantError(f"{self.tier}: a chunk was unpinned more often than pinned")
        if self._followers != Counter(chunk.parent for chunk in self):
            raise InvariantError(f"{self.tier}: the count of what follows a prefix is wrong")
        if self._entry_of.keys() != {key for key in self._chunks if key not in self._followers}:
            raise InvariantError(f"{self.tier}: the order does not hold the ends of prefixes")

    def _make_room(self, lacking: int) -> list[StoredChunk]:
        """Evict chunks of so many tokens, or as many as can go."""
        evicted: list[StoredChunk] = []
        pinned = []
        while lacking > 0 and self._ends:
            entry = heapq.heappop(self._ends)
            key = entry[-1]
            if self._entry_of.get(key) != entry[2]:
                continue
            chunk = self._chunks[key]
            if chunk.pins:
                pinned.append(entry)
                continue
            self._floor = entry[0]
            self._remove(chunk)
            evicted.append(chunk)
            lacking -= chunk.num_tokens
        for entry in pinned:
            heapq.heappush(self._ends, entry)
        self.evictions += len(evicted)
        return evicted

    def _remove(self, chunk: StoredChunk) -> None:
        """Take an end of a prefix out."""
        del self._chunks[chunk.key], self._entry_of[chunk.key]
        self.used_tokens -= chunk.num_tokens
        self._unfollow(chunk.parent)

    def _unfollow(self, key: BlockHash) -> None:
        """A chunk that continued this one has gone; now it may be the end itself."""
        self._followers[key] -= 1
        if not self._followers[key]:
            del self._followers[key]
            if key in self._chunks:
                self._rank(self._chunks[key])

    def _rank(self, chunk: StoredChunk) -> None:
        """Enter a chunk into the order if it is an end; its earlier entry is stale from now on."""
        chunk.floor = self._floor
        if chunk.key in self._followers:
            return
        self._entries += 1
        self._entry_of[chunk.key] = self._entries
        heapq.heappush(self._ends, self._entry(chunk))
        if len(self._ends) > 2 * len(self._entry_of) + _STALE_MAX:
            self._ends = [entry for entry in self._ends if self._entry_of.get(entry[-1]) == entry[2]]
            heapq.heapify(self._ends)

    def _entry(self, chunk: StoredChunk) -> tuple[float, int, int, BlockHash]:
        priority = self._policy.priority(chunk)
        if not isinstance(priority, Real) or isnan(priority):
            name = type(self._policy).__name__
            raise PluginError(f"eviction: {name!r} gave {chunk!r} the priority {priority!r}; expected a number")
        return float(priority), chunk.last_used, self._entry_of[chunk.key], chunk.key
