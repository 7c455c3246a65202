"""Which group of a memory's channels holds the keys and values of which request.

Where a memory computes attention in groups of channels, the keys and values of a request lie in one group from its
admission until it ends or is preempted: in the one that then holds the fewest tokens. A group also has its requests in
two *halves*, again the one with fewer tokens, so that a batch can be cut in two without looking at its requests.

What an iteration needs are sums. Requests that decode in step are in them by their origins (`DecodeCohort`), which do
not change from batch to batch; only those that a batch lists by name are looked at one by one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import InvariantError
from llmservingsim.serving.batch import Batch
from llmservingsim.serving.cohort import DecodeCohort
from llmservingsim.serving.request import Request, RequestStatus

Values = NDArray[np.int64]

HALVES = 2


class GroupSums(NamedTuple):
    """The decodes of a batch, shapes ``[halves, groups]``.

    Attributes:
        requests: How many compute one token.
        context_tokens: Sum of their KV lengths, the new tokens included.
    """

    requests: Values
    context_tokens: Values


class _Seat(NamedTuple):
    """Where a request's KV lies.

    Attributes:
        cell: Half and group, as one number.
        tokens: Of its KV, as far as they are counted by name.
        admission: Its number of preemptions; a later one voids the seat.
    """

    cell: int
    tokens: int
    admission: int


class KvGroups:
    """Follows the batches of one engine; a `llmservingsim.serving.cohort.CohortWatcher`.

    Args:
        num_groups: Of the memory.
        cohort: Of the engine; this object watches it from now on.

    Attributes:
        num_groups: Of the memory.
    """

    def __init__(self, num_groups: int, cohort: DecodeCohort) -> None:
        cells = HALVES * num_groups
        self.num_groups = num_groups
        self._shape = (HALVES, num_groups)
        self._cohort = cohort
        self._seats: dict[Request, _Seat] = {}
        self._named: dict[Request, None] = {}
        self._named_tokens = np.zeros(cells, dtype=np.int64)
        self._in_step = np.zeros(cells, dtype=np.int64)
        self._origins = np.zeros(cells, dtype=np.int64)
        cohort.watcher = self

    def held_tokens(self) -> Values:
        """Return the tokens of each half of each group after the last batch, shape ``[halves, groups]``."""
        return self._held().reshape(self._shape)

    def cell_of(self, request: Request) -> tuple[int, int] | None:
        """Return half and group of a request, None if it holds nothing."""
        seat = self._seats.get(request)
        return None if seat is None else divmod(seat.cell, self._shape[1])

    def formed(self, batch: Batch) -> GroupSums:
        """Take note of a batch that was just formed; return its decodes.

        Raises:
            InvariantError: If they are not those of the batch's shape.
        """
        self._drop_ended()
        requests = self._in_step.copy()
        context = self._origins + self._in_step * self._cohort.formed
        for request, num_tokens, _, _ in batch.scheduled:
            cell = self._count(request)
            if num_tokens == 1:
                requests[cell] += 1
                context[cell] += request.num_computed_tokens
        shape = batch.shape
        if (requests.sum(), context.sum()) != (shape.num_decodes, shape.decode_kv_tokens):
            raise InvariantError(
                f"batch {batch.index}: groups of channels hold {requests.sum()} decodes of {context.sum()} tokens, the "
                f"batch has {shape.num_decodes} of {shape.decode_kv_tokens}"
            )
        return GroupSums(requests.reshape(self._shape), context.reshape(self._shape))

    def joined(self, request: Request, origin: int) -> None:
        """A request goes on in step."""
        seat = self._seats.get(request) or self._admit(request)
        if request in self._named:
            del self._named[request]
            self._named_tokens[seat.cell] -= seat.tokens
        self._in_step[seat.cell] += 1
        self._origins[seat.cell] += origin

    def left(self, request: Request, origin: int) -> None:
        """A request is listed by name again; its counters are up to date."""
        cell = self._seats[request].cell
        self._in_step[cell] -= 1
        self._origins[cell] -= origin
        self._note(request, cell)

    def _count(self, request: Request) -> int:
        """Count the tokens of a request that a batch lists by name; return its cell."""
        seat = self._seats.get(request) or self._admit(request)
        self._named_tokens[seat.cell] -= seat.tokens
        self._note(request, seat.cell)
        return seat.cell

    def _note(self, request: Request, cell: int) -> None:
        tokens = request.num_computed_tokens
        self._seats[request] = _Seat(cell, tokens, request.num_preemptions)
        self._named[request] = None
        self._named_tokens[cell] += tokens

    def _admit(self, request: Request) -> _Seat:
        """Give a request the group with the fewest tokens, and there the half with fewer; the first of equals.

        Between halves that are equal there, the one with fewer tokens in all groups.
        """
        held = self._held().reshape(self._shape)
        group = int(held.sum(axis=0).argmin())
        half = min(range(HALVES), key=lambda h: (held[h, group], held[h].sum()))
        self._seats[request] = seat = _Seat(half * self._shape[1] + group, 0, request.num_preemptions)
        return seat

    def _held(self) -> Values:
        held: Values = self._named_tokens + self._origins + self._in_step * max(self._cohort.formed, 0)
        return held

    def _drop_ended(self) -> None:
        """Forget requests that hold nothing any more; whoever ends has left the cohort before."""
        ended = [r for r in self._named if r.status is not RequestStatus.RUNNING or self._is_void(r)]
        for request in ended:
            seat = self._seats.pop(request)
            self._named_tokens[seat.cell] -= seat.tokens
            del self._named[request]

    def _is_void(self, request: Request) -> bool:
        return self._seats[request].admission != request.num_preemptions
