"""Requests that decode in step, moved together so that an iteration costs what changes in it, not what runs in it.

A request that computes one token in every batch needs no bookkeeping of its own: batch after batch it gains one
computed token, one token in flight and, when a batch ends, one known token. With ``formed`` the index of the last
batch formed and ``completed`` that of the last one ended, a member is described by one constant, its *origin*::

    num_computed_tokens      = origin + formed
    num_tokens               = origin + completed + 1
    num_output_placeholders  = formed - completed

Only two things happen to a member on its way, both at steps known beforehand: every ``block_size`` steps a block fills
and the next one is needed, so members are kept in one bucket per phase; and one batch samples its last token, after
which it leaves. Whatever else happens (blocks run short, the budget is too small) dissolves the cohort: its members get
their counters back and are scheduled one by one, by the plain rules.

A member's own counters are stale while it is in the cohort.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from llmservingsim.serving.batch import Batch, Scheduled
from llmservingsim.serving.batch_log import note_batches
from llmservingsim.serving.kv import KVCacheManager
from llmservingsim.serving.request import Request


class CohortWatcher(Protocol):
    """Hears who decodes in step."""

    def joined(self, request: Request, origin: int) -> None:
        """A request goes on in step from the batch that is being formed."""
        ...

    def left(self, request: Request, origin: int) -> None:
        """It does not any more; its counters are up to date."""
        ...


class DecodeCohort:
    """The requests of an engine that decode in step.

    Args:
        kv: Blocks of the instance.
        final_tokens: Length of each request at its end, by request id; the engine's secret.
        in_flight: Batches formed and not ended, oldest first; kept by the engine.

    Attributes:
        formed, completed: Index of the last batch formed, and of the last one ended; -1 before.
        completed_ns: When that one ended.
        watcher: Hears who comes and goes, if set.
    """

    def __init__(self, kv: KVCacheManager, final_tokens: Mapping[int, int], in_flight: Sequence[Batch]) -> None:
        self.formed = -1
        self.completed = -1
        self.completed_ns = -1
        self.watcher: CohortWatcher | None = None
        self._kv = kv
        self._final_tokens = final_tokens
        self._in_flight = in_flight
        self._origin: dict[Request, int] = {}
        self._joined: dict[Request, int] = {}
        self._by_phase: list[dict[Request, None]] = [{} for _ in range(kv.block_size)]
        self._last_batch: dict[int, list[Request]] = {}
        self._origin_sum = 0
        self._origin_max = 0
        self._cached_to = -1

    def __len__(self) -> int:
        return len(self._origin)

    def __contains__(self, request: Request) -> bool:
        return request in self._origin

    def __iter__(self) -> Iterator[Request]:
        return iter(self._origin)

    @property
    def kv_tokens(self) -> int:
        """KV length that the members' attention reads in the last batch formed, summed."""
        return self._origin_sum + len(self._origin) * self.formed

    @property
    def max_kv_tokens(self) -> int:
        """The longest of these lengths."""
        return self._origin_max + self.formed if self._origin else 0

    def can_join(self, request: Request) -> bool:
        """Whether a request that computes one token in the batch being formed goes on in step from here.

        It must have been sampled by every batch in flight, or else by the last one that ended, and must not be
        sampled for the last time.
        """
        batches_in_flight = self.formed - self.completed
        if request.num_output_placeholders != batches_in_flight:
            return False
        if not batches_in_flight and request.last_token_ns != self.completed_ns:
            return False
        expected = request.num_tokens + batches_in_flight
        return expected == request.num_computed_tokens + 1 and expected + 1 < self._final_tokens[request.request_id]

    def join(self, request: Request) -> None:
        """Take in a request whose blocks for the batch being formed are taken."""
        if not self._origin:
            self._cached_to = self.completed
        index = self.formed + 1
        origin = request.num_computed_tokens - self.formed
        self._origin[request] = origin
        self._joined[request] = index
        self._by_phase[origin % self._kv.block_size][request] = None
        self._last_batch.setdefault(self._final_tokens[request.request_id] - origin - 1, []).append(request)
        self._origin_sum += origin
        self._origin_max = max(self._origin_max, origin) if len(self._origin) > 1 else origin
        if self.watcher is not None:
            self.watcher.joined(request, origin)

    def num_tokens(self, request: Request) -> int:
        """Known tokens of a request, a member or not: a member's own counter is stale."""
        origin = self._origin.get(request)
        return request.num_tokens if origin is None else origin + self.completed + 1

    def blocks_needed(self) -> int:
        """Blocks that the members need for the batch being formed."""
        return len(self._needing_block(self.formed + 1))

    def allocate(self) -> None:
        """Take these blocks and enter those that have filled into the prefix index, in running order.

        What the last batch that ended has filled is entered now; what those before it filled was when the next one
        ended, so it comes first.
        """
        for completed in range(self._cached_to + 1, self.completed):
            for request in _in_order(self._filled_by(completed)):
                self._kv.cache_full_blocks(request, self._origin[request] + completed + 1)
        needing = self._needing_block(self.formed + 1)
        due = needing | self._filled_by(self.completed) if self._cached_to < self.completed else needing
        self._cached_to = self.completed
        for request in _in_order(due):
            if request in needing:
                request.block_ids += self._kv.pool.take(1)
            self._kv.cache_full_blocks(request, self._origin[request] + self.completed + 1)

    def batch_ended(self, batch: Batch, now_ns: int) -> None:
        """A batch ended; every member in it knows one more token."""
        self.completed = batch.index
        self.completed_ns = now_ns

    def leave_after(self, batch: Batch) -> None:
        """Let those members go whose last token the batch samples; they wait for it."""
        for request in self._last_batch.pop(batch.index, ()):
            if request in self._origin and self._is_last(request, batch.index):
                self._leave(request)
                request.awaits_last_token = True

    def leave(self, request: Request) -> None:
        """Let one go, a member or not, with its counters up to date."""
        if request in self._origin:
            self._leave(request)

    def dissolve(self) -> None:
        """Let every member go."""
        for request in list(self._origin):
            self._leave(request)
        self._last_batch.clear()

    def _needing_block(self, index: int) -> dict[Request, None]:
        """Members whose token in batch ``index`` is the first of a block."""
        return self._by_phase[(1 - index) % self._kv.block_size]

    def _filled_by(self, index: int) -> dict[Request, None]:
        """Members for which the token of batch ``index`` filled a block."""
        return self._by_phase[(-index - 1) % self._kv.block_size]

    def _is_last(self, request: Request, index: int) -> bool:
        return self._final_tokens[request.request_id] - self._origin[request] - 1 == index

    def _leave(self, request: Request) -> None:
        """Give a member its counters back; batches in flight list it by name from now on."""
        origin = self._origin.pop(request)
        joined = self._joined.pop(request)
        del self._by_phase[origin % self._kv.block_size][request]
        self._origin_sum -= origin
        if origin == self._origin_max:
            self._origin_max = max(self._origin.values(), default=0)
        request.num_computed_tokens = origin + self.formed
        request.num_tokens = origin + self.completed + 1
        request.num_output_placeholders = self.formed - self.completed
        if self.completed >= joined - 1:  # else the batch before it joined has not ended
            request.last_token_ns = self.completed_ns
        if self.completed >= joined:
            note_batches(request.token_batches, joined, self.completed)
        self._kv.cache_full_blocks(request, origin + self.completed)
        for batch in self._in_flight:
            if batch.index >= joined:
                batch.release(Scheduled(request, 1, request.num_preemptions, samples=True))
        if self.watcher is not None:
            self.watcher.left(request, origin)


def _in_order(members: dict[Request, None]) -> Iterable[Request]:
    """Members as the running list has them, which is by admission."""
    return sorted(members, key=lambda request: request.admission) if len(members) > 1 else members
