"""The tiers below an instance's device: what is found there, what is written there, and when.

::

    device   blocks of the pool                 found by `KVCacheManager.cached_prefix`
      |  ^
      v  |   chunks of `chunk_size` tokens
    tier 0   (cpu, say)                         found by `KvTiers.lookup`
      |  ^
      v  |
    tier 1   (storage, say)

A chunk has the hash of the block that ends it, which stands for all tokens up to there. Writing *through*, a chunk goes
to every tier as soon as the batch that filled its last block has ended. Writing *back*, blocks go to tier 0 when
the device needs their room, and what tier 0 evicts goes to tier 1.

This module decides. What it decided waits in `KvTiers.reads` and `KvTiers.writes` for whoever gives it time (the owner
`llmservingsim.kv_traffic.KvTraffic`), who then says `read_ended` and `write_ended`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from llmservingsim.serving.kv.block_pool import BlockPool
from llmservingsim.serving.kv.eviction import StoredChunk
from llmservingsim.serving.kv.hashing import NO_PARENT, BlockHash
from llmservingsim.serving.kv.swap import SwapSpace
from llmservingsim.serving.kv.tier_store import TierStore
from llmservingsim.serving.request import Request

Write = Literal["through", "back"]
Recall = Literal["async", "blocking", "layerwise"]

DEVICE = -1
"""Where a write comes from that comes from the device."""
SWAP_SPACE = -2
"""Where a preempted request's KV goes, in place of a store."""


class TierPart(NamedTuple):
    """What of a hit lies in one store.

    Attributes:
        store: Which of `KvTiers.stores`, or `SWAP_SPACE`.
        keys: Its chunks, in order.
        num_tokens: Of them that the device lacks.
    """

    store: int
    keys: tuple[BlockHash, ...]
    num_tokens: int


class TierHit(NamedTuple):
    """A prefix found below the device.

    Attributes:
        num_tokens: By which it is longer than what the device has.
        parts: Where they are, in order.
    """

    num_tokens: int
    parts: tuple[TierPart, ...]


class TierRead(NamedTuple):
    """KV on its way up.

    Attributes:
        request: That waits for it.
        parts: What comes from where.
    """

    request: Request
    parts: tuple[TierPart, ...]


class TierWrite(NamedTuple):
    """KV on its way down.

    Attributes:
        source: Store that it comes from, or `DEVICE`.
        store: Store that it goes to, or `SWAP_SPACE`.
        keys: Its chunks.
        num_tokens: Of them.
        blocks: Of the device that are held until it has been written.
        is_urgent: Whether the next batch may overwrite it, and so has to follow.
    """

    source: int
    store: int
    keys: tuple[BlockHash, ...]
    num_tokens: int
    blocks: tuple[int, ...] = ()
    is_urgent: bool = False


class _Filled(NamedTuple):
    """Blocks that a batch fills."""

    hashes: Sequence[BlockHash]
    blocks: tuple[int, ...]
    first: int


class TierOptions(NamedTuple):
    """How an instance uses its tiers.

    Attributes:
        chunk_size: Tokens of a chunk, a multiple of the block size; the block size itself if it writes back.
        write: When KV goes down.
        recall: Who waits for KV that comes up: its request alone (``async``), its whole batch (``blocking``), or each
            block of the model for its own part (``layerwise``).
        promote: Whether what is read from a lower tier is kept in those above it.
        swap: Where the KV of preempted requests goes; None: it is computed again.
    """

    chunk_size: int
    write: Write = "through"
    recall: Recall = "async"
    promote: bool = True
    swap: SwapSpace | None = None


class KvTiers:
    """What one instance finds in and writes to the tiers below its device.

    Args:
        pool: Blocks of the device.
        block_size: Tokens of each.
        stores: Tiers, the fastest first.
        targets: Which of them it writes to, the fastest first; others belong to neighbours and are only read.
        options: How.
        recompute_flops: What computing ``(num_tokens, context_len)`` would take, for policies that ask.

    Attributes:
        reads, writes: Decided and not yet taken.
        decided: Called when there are more of them.
        hit_tokens: Prompt tokens found at first admissions, per store.
        refused_tokens: Not written because nothing there could go.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        stores: Sequence[TierStore],
        targets: Sequence[int],
        options: TierOptions,
        recompute_flops: Callable[[int, int], float],
    ) -> None:
        self.options = options
        self.stores = tuple(stores)
        self.targets = tuple(targets)
        self.reads: list[TierRead] = []
        self.writes: list[TierWrite] = []
        self.decided: Callable[[], None] = _nobody
        self.hit_tokens = [0] * len(stores)
        self.refused_tokens = 0
        self.swap = options.swap
        self._pool = pool
        self._block_size = block_size
        self._chunk_blocks = options.chunk_size // block_size
        self._recompute_flops = recompute_flops
        self._filling: list[_Filled] = []
        self._ends_with: dict[int, list[TierRead]] = {}
        self._by_batch: deque[tuple[int, list[_Filled]]] = deque()
        self._place_of: dict[BlockHash, tuple[int, BlockHash]] = {}  # of blocks on the device: number and parent
        if options.write == "back" and targets:
            pool.evicted = self._evicted

    def lookup(self, request: Request, num_local_blocks: int) -> TierHit | None:
        """Find what lies below of the request's prefix beyond the device's blocks; at least one token is computed."""
        if self.swap is not None and (kept := self.swap.kept(request)):
            return self._swapped_hit(request, kept, num_local_blocks)
        size = self._chunk_blocks
        hashes = request.block_hashes
        last = min((request.num_tokens - 1) // self._block_size, len(hashes)) // size
        first = num_local_blocks // size
        found: list[tuple[int, list[BlockHash]]] = []
        end = first
        for chunk in range(first, last):
            key = hashes[(chunk + 1) * size - 1]
            place = next((i for i, store in enumerate(self.stores) if store.has(key)), None)
            if place is None:
                break
            if not found or found[-1][0] != place:
                found.append((place, []))
            found[-1][1].append(key)
            end = chunk + 1
        if end == first:
            return None
        parts = []
        have = num_local_blocks
        at = first
        for place, keys in found:
            at += len(keys)
            parts.append(TierPart(place, tuple(keys), (at * size - have) * self._block_size))
            have = at * size
        return TierHit((end * size - num_local_blocks) * self._block_size, tuple(parts))

    def begin_read(self, request: Request, hit: TierHit) -> None:
        """Let a hit come up; its chunks stay until it has."""
        for part in hit.parts:
            if part.store == SWAP_SPACE:
                assert self.swap is not None
                self.swap.leave(request)
                request.swapped_tokens += part.num_tokens
                continue
            self.stores[part.store].pin(part.keys)
            if request.num_preemptions == 0:
                self.hit_tokens[part.store] += part.num_tokens
        if request.scheduled_ns < 0:
            found = [part for part in hit.parts if part.store != SWAP_SPACE]
            request.recalled = tuple((self.stores[part.store].tier, part.num_tokens) for part in found)
        self.reads.append(TierRead(request, hit.parts))
        self.decided()

    def read_ended(self, read: TierRead) -> None:
        """A hit has come up; what came from a lower tier goes to those above, if they have room."""
        for part in read.parts:
            if part.store == SWAP_SPACE:
                assert self.swap is not None
                self.swap.left(read.request)
                continue
            store = self.stores[part.store]
            store.unpin(part.keys)
            if not self.options.promote or part.store not in self.targets:
                continue
            above = self.targets[: self.targets.index(part.store)]
            for target in above:
                self._write(DEVICE, target, [_copy(store.get(key)) for key in part.keys], ())

    def swap_out(self, request: Request) -> None:
        """Keep the KV of a request that is being preempted, if there is room."""
        tokens = request.num_computed_tokens
        if self.swap is not None and tokens and self.swap.keep(request, tokens):
            self.writes.append(TierWrite(DEVICE, SWAP_SPACE, (), tokens, is_urgent=True))
            self.decided()

    def forget(self, request: Request) -> None:
        """A request needs what was swapped out of it no more."""
        if self.swap is not None:
            self.swap.forget(request)

    def end_with(self, index: int, reads: list[TierRead]) -> None:
        """These come up while a batch runs, and have when it ends."""
        self._ends_with[index] = reads

    def filled(self, request: Request, first: int, end: int) -> None:
        """The batch that is being formed fills these blocks of a request, or finds them filled."""
        if not self.targets:
            return
        begin = first // self._chunk_blocks * self._chunk_blocks
        if self.options.write == "back":
            hashes = request.block_hashes
            for i in range(first, end):
                self._place_of[hashes[i]] = (i, hashes[i - 1] if i else NO_PARENT)
        elif end // self._chunk_blocks > begin // self._chunk_blocks:
            self._filling.append(_Filled(request.block_hashes, tuple(request.block_ids[begin:end]), begin))

    def batch_formed(self, index: int) -> None:
        """What was filled since the last batch is computed by this one at the latest."""
        if self._filling:
            self._by_batch.append((index, self._filling))
            self._filling = []

    def batch_ended(self, index: int, last_formed: int) -> None:
        """A batch ended, and what it brought was applied; the chunks that it completed can be written.

        Args:
            index: Of the batch.
            last_formed: Of the latest one, which computes the last token of what was filled by applying this one.
        """
        for read in self._ends_with.pop(index, ()):
            self.read_ended(read)
        self.batch_formed(last_formed)
        while self._by_batch and self._by_batch[0][0] <= index:
            for filled in self._by_batch.popleft()[1]:
                self._write_chunks(filled)

    def write_ended(self, write: TierWrite) -> None:
        """Chunks have arrived below, or what was swapped out has."""
        for key in write.keys:
            self.stores[write.store].arrived(key)
        self._pool.release(write.blocks)

    def describe(self) -> list[str]:
        """Say what is decided and not begun, for the message of a deadlock."""
        return [f"{read.request!r} waits for KV from lower tiers" for read in self.reads]

    def _swapped_hit(self, request: Request, kept: int, num_local_blocks: int) -> TierHit | None:
        """What was swapped out beyond the blocks that the device still has; the last token is computed in any case."""
        missing = min(kept, request.num_tokens - 1) - num_local_blocks * self._block_size
        if missing > 0:
            return TierHit(missing, (TierPart(SWAP_SPACE, (), missing),))
        self.forget(request)
        return None

    def _write_chunks(self, filled: _Filled) -> None:
        """Write whole chunks to every tier that lacks them; leave out those whose blocks were lost meanwhile."""
        size = self._chunk_blocks
        chunks: list[StoredChunk] = []
        blocks: list[int] = []
        for start in range(0, len(filled.blocks) - size + 1, size):
            own = filled.blocks[start : start + size]
            at = filled.first + start
            hashes = filled.hashes[at : at + size]
            if all(self._pool.holds(block, h) for block, h in zip(own, hashes, strict=True)):
                chunks.append(self._chunk(hashes[-1], filled.hashes[at - 1] if at else NO_PARENT, size, at))
                blocks += own
        for target in self.targets:
            lacking = [_copy(chunk) for chunk in chunks if chunk.key not in self.stores[target]]
            kept = {chunk.key for chunk in lacking}
            held = [b for c, chunk in enumerate(chunks) if chunk.key in kept for b in blocks[c * size : (c + 1) * size]]
            self._write(DEVICE, target, lacking, held)

    def _write(
        self, source: int, target: int, chunks: Sequence[StoredChunk], blocks: Sequence[int], *, is_urgent: bool = False
    ) -> None:
        """Send chunks down; ``blocks``, as many per chunk, are held until they have arrived."""
        store = self.stores[target]
        sent: list[StoredChunk] = []
        held: list[int] = []
        per_chunk = len(blocks) // len(chunks) if chunks else 0
        for i, chunk in enumerate(chunks):
            if chunk.key in store:
                continue
            has_room, evicted = store.put(chunk)
            if self.options.write == "back":
                self._demote(target, evicted)
            if not has_room:
                self.refused_tokens += chunk.num_tokens
                continue
            sent.append(chunk)
            held += blocks[i * per_chunk : (i + 1) * per_chunk]
        if sent:
            self._pool.hold(held)
            keys = tuple(chunk.key for chunk in sent)
            tokens = sum(chunk.num_tokens for chunk in sent)
            self.writes.append(TierWrite(source, target, keys, tokens, tuple(held), is_urgent))
            self.decided()

    def _demote(self, target: int, evicted: Sequence[StoredChunk]) -> None:
        """Send what a tier evicts to the next one."""
        place = self.targets.index(target)
        if place + 1 < len(self.targets):
            self._write(target, self.targets[place + 1], [_copy(chunk) for chunk in evicted], ())

    def _evicted(self, block_hash: BlockHash) -> None:
        """The device gives up the last block with these contents: write it back, unless it is below already."""
        number, parent = self._place_of.pop(block_hash, (-1, NO_PARENT))
        if number >= 0 and not any(block_hash in self.stores[t] for t in self.targets):
            chunk = self._chunk(block_hash, parent, 1, number)
            self._write(DEVICE, self.targets[0], [chunk], (), is_urgent=True)

    def _chunk(self, key: BlockHash, parent: BlockHash, num_blocks: int, first_block: int) -> StoredChunk:
        tokens, context = num_blocks * self._block_size, first_block * self._block_size
        return StoredChunk(key, parent, tokens, context, self._recompute_flops(tokens, context))


def _nobody() -> None:
    """Nobody waits to hear what was decided."""


def _copy(chunk: StoredChunk) -> StoredChunk:
    return StoredChunk(chunk.key, chunk.parent, chunk.num_tokens, chunk.context_len, chunk.recompute_flops)
