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

    The entry of a request that is taken out of the middle stays in the heap until it comes to the top. The request may
    be queued again before that, and so may another form of it with the same key: entries are numbered.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, int, Request]] = []
        self._numbers: dict[Request, int] = {}  # of those that are queued
        self._last = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Request]:
        ordered = sorted(entry for entry in self._heap if self._is_queued(entry))
        return (entry[-1] for entry in ordered)

    def add(self, request: Request) -> None:
        """Queue a request at its place."""
        self._last += 1
        self._numbers[request] = self._last
        heapq.heappush(self._heap, (request.priority, request.arrival_ns, request.request_id, self._last, request))

    put_back = add

    def peek(self) -> Request:
        """Return the request with the smallest key."""
        return self._heap[0][-1]

    def pop(self) -> Request:
        """Remove and return the request with the smallest key."""
        request = self.peek()
        self.remove(request)
        return request

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it stands."""
        del self._numbers[request]
        while self._heap and not self._is_queued(self._heap[0]):
            heapq.heappop(self._heap)

    def _is_queued(self, entry: tuple[int, int, int, int, Request]) -> bool:
        return self._numbers.get(entry[-1]) == entry[-2]
