"""When clients give up: the limits of the run, and those that a request brings with it.

A deadline is an event of the front end. Most never come: the request has its token before. So they stand in a heap,
and one that has no meaning any more is thrown away when it comes to the top.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from llmservingsim.config import TimeoutSpec
from llmservingsim.instance import Instance
from llmservingsim.serving import Request
from llmservingsim.units import TIME_MAX_NS, parse_time_ns
from llmservingsim.workload import RequestSpec


@dataclass(frozen=True, slots=True)
class Patience:
    """How long every client waits; None for ever.

    Attributes:
        ttft_ns: For its first token, from arrival.
        e2e_ns: For its last token, from arrival.
        ends_session: Whether the session of a call that was given up ends with it.
    """

    ttft_ns: int | None = None
    e2e_ns: int | None = None
    ends_session: bool = False

    @classmethod
    def of(cls, spec: TimeoutSpec | None) -> Patience:
        """Read the section of the run file."""
        if spec is None:
            return cls()
        ttft, e2e = (None if text is None else parse_time_ns(text) for text in (spec.ttft, spec.e2e))
        return cls(ttft, e2e, spec.session == "end")


class Watched:
    """A request that its client may give up.

    Args:
        spec: What was asked for.
        first_token_ns: Deadline of the first token, None without one.
        last: Deadline of the last token and its key, None without one.

    Attributes:
        instance, request: Who has it, and as what; None while the router holds it.
    """

    __slots__ = ("_first_token_ns", "_last", "instance", "request", "spec")

    def __init__(self, spec: RequestSpec, first_token_ns: int | None, last: tuple[int, str] | None) -> None:
        self.spec = spec
        self.instance: Instance | None = None
        self.request: Request | None = None
        self._first_token_ns = first_token_ns
        self._last = last

    def deadline(self) -> tuple[int, str] | None:
        """Return when its client gives up unless something comes before, and the limit that says so."""
        first_ns = self._first_token_ns
        request = self.request
        while request is not None and request.continued_as is not None:
            request = request.continued_as
        if first_ns is None or (request is not None and request.first_token_ns >= 0):
            return self._last
        return self._last if self._last is not None and self._last[0] < first_ns else (first_ns, "ttft")


class Deadlines:
    """The requests that may be given up.

    Args:
        patience: Of every client.

    Attributes:
        heap: (deadline, request id); empty if nobody may give up.
    """

    def __init__(self, patience: Patience) -> None:
        self.heap: list[tuple[int, int]] = []
        self._patience = patience
        self._waits_for_ever = patience.ttft_ns is None and patience.e2e_ns is None
        self._watched: dict[int, Watched] = {}

    def watch(self, spec: RequestSpec) -> None:
        """A request came in; see whether its client will wait for ever."""
        patience = self._patience
        if self._waits_for_ever and spec.abort_after_ns is None:
            return
        ends = [(patience.e2e_ns, "e2e"), (spec.abort_after_ns, "abort_after_ns")]
        last = min(((spec.arrival_ns + ns, key) for ns, key in ends if ns is not None), default=None)
        first_ns = None if patience.ttft_ns is None else spec.arrival_ns + patience.ttft_ns
        watched = Watched(spec, first_ns, last)
        deadline = watched.deadline()
        if deadline is not None and deadline[0] < TIME_MAX_NS:
            self._watched[spec.request_id] = watched
            heapq.heappush(self.heap, (deadline[0], spec.request_id))

    def sent(self, instance: Instance, request: Request) -> None:
        """A request went to an instance."""
        watched = self._watched.get(request.request_id)
        if watched is not None:
            watched.instance, watched.request = instance, request

    def forget(self, request_id: int) -> None:
        """A request ended or was rejected."""
        self._watched.pop(request_id, None)

    def next_ns(self) -> int | None:
        """Return when the next client gives up, None if nobody will."""
        heap = self.heap
        while heap:
            at_ns, request_id = heap[0]
            watched = self._watched.get(request_id)
            deadline = None if watched is None else watched.deadline()
            if deadline is None or deadline[0] >= TIME_MAX_NS:
                heapq.heappop(heap)
            elif deadline[0] > at_ns:  # its first token came in time
                heapq.heapreplace(heap, (deadline[0], request_id))
            else:
                return at_ns
        return None

    def take(self, now_ns: int) -> tuple[Watched, str] | None:
        """Take out a request whose client gives up by ``now_ns``, with the limit that is over; None if none does."""
        at_ns = self.next_ns()
        if at_ns is None or at_ns > now_ns:
            return None
        watched = self._watched.pop(heapq.heappop(self.heap)[1])
        deadline = watched.deadline()
        assert deadline is not None
        return watched, deadline[1]
