"""Waiting queues: first come first served, or by priority (names and order as in vLLM V1)."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from typing import Protocol

from llmservingsim.serving.request import Request


class RequestQueue(Protocol):
    """Requests that wait for admission, the next one first."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Request]: ...

    def add(self, request: Request) -> None:
        """Queue a new request."""
        ...

    def put_back(self, request: Request) -> None:
        """Queue a preempted request."""
        ...

    def peek(self) -> Request:
        """Return the next request."""
        ...

    def pop(self) -> Request:
        """Remove and return the next request."""
        ...

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it stands."""
        ...


class FcfsQueue:
    """First come, first served; a preempted request goes to the front."""

    def __init__(self) -> None:
        self._requests: OrderedDict[Request, None] = OrderedDict()  # one may leave from the middle

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def add(self, request: Request) -> None:
        """Queue a new request at the end."""
        self._requests[request] = None

    def put_back(self, request: Request) -> None:
        """Queue a preempted request at the front."""
        self._requests[request] = None
        self._requests.move_to_end(request, last=False)

    def peek(self) -> Request:
        """Return the request at the front."""
        return next(iter(self._requests))

    def pop(self) -> Request:
        """Remove and return the request at the front."""
        return self._requests.popitem(last=False)[0]

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it stands."""
        del self._requests[request]


class PriorityQueue:
    """Smallest (priority, arrival, id) first; preempted requests take their place by the same order.

    A request that is taken out of the middle stays in the heap, marked, until it comes to the top.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Request]] = []
        self._gone: set[Request] = set()

    def __len__(self) -> int:
        return len(self._heap) - len(self._gone)

    def __iter__(self) -> Iterator[Request]:
        ordered = sorted(self._heap, key=lambda entry: entry[:3])
        return (entry[-1] for entry in ordered if entry[-1] not in self._gone)

    def add(self, request: Request) -> None:
        """Queue a request at its place."""
        heapq.heappush(self._heap, (request.priority, request.arrival_ns, request.request_id, request))

    put_back = add

    def peek(self) -> Request:
        """Return the request with the smallest key."""
        return self._heap[0][-1]

    def pop(self) -> Request:
        """Remove and return the request with the smallest key."""
        request = heapq.heappop(self._heap)[-1]
        self._clear_top()
        return request

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it stands."""
        self._gone.add(request)
        self._clear_top()

    def _clear_top(self) -> None:
        while self._gone and self._heap[0][-1] in self._gone:
            self._gone.remove(heapq.heappop(self._heap)[-1])
