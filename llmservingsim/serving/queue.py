"""Waiting queues: first come first served, or by priority (names and order as in vLLM V1)."""

from __future__ import annotations

import heapq
from collections import deque
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
        self._requests: deque[Request] = deque()

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(self._requests)

    def add(self, request: Request) -> None:
        """Queue a new request at the end."""
        self._requests.append(request)

    def put_back(self, request: Request) -> None:
        """Queue a preempted request at the front."""
        self._requests.appendleft(request)

    def peek(self) -> Request:
        """Return the request at the front."""
        return self._requests[0]

    def pop(self) -> Request:
        """Remove and return the request at the front."""
        return self._requests.popleft()

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it stands."""
        self._requests.remove(request)


class PriorityQueue:
    """Smallest (priority, arrival, id) first; preempted requests take their place by the same order."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, int, Request]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[Request]:
        return (entry[-1] for entry in sorted(self._heap, key=lambda entry: entry[:3]))

    def add(self, request: Request) -> None:
        """Queue a request at its place."""
        heapq.heappush(self._heap, (request.priority, request.arrival_ns, request.request_id, request))

    put_back = add

    def peek(self) -> Request:
        """Return the request with the smallest key."""
        return self._heap[0][-1]

    def pop(self) -> Request:
        """Remove and return the request with the smallest key."""
        return heapq.heappop(self._heap)[-1]

    def remove(self, request: Request) -> None:
        """Take a request out, wherever it stands."""
        self._heap = [entry for entry in self._heap if entry[-1] is not request]
        heapq.heapify(self._heap)
