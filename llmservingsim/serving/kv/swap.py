"""Host memory for the KV of preempted requests."""

from __future__ import annotations

from collections import deque

from llmservingsim.serving.request import Request


class SwapSpace:
    """What is kept of the preempted requests of one instance.

    Args:
        capacity: Tokens for which it has room.

    Attributes:
        used_tokens: Kept there now.
        refused: Preemptions for which it had no room.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used_tokens = 0
        self.refused = 0
        self._kept: dict[Request, int] = {}
        self._leaving: dict[Request, deque[int]] = {}

    def kept(self, request: Request) -> int:
        """Tokens whose KV is kept for a request, from the first one on; 0 if none is."""
        return self._kept.get(request, 0)

    def keep(self, request: Request, num_tokens: int) -> bool:
        """Keep the KV of a request, if there is room."""
        if self.used_tokens + num_tokens > self.capacity:
            self.refused += 1
            return False
        self.used_tokens += num_tokens
        self._kept[request] = num_tokens
        return True

    def leave(self, request: Request) -> None:
        """What is kept of a request comes up; it may be preempted again before that has ended."""
        self._leaving.setdefault(request, deque()).append(self._kept.pop(request))

    def left(self, request: Request) -> None:
        """It has come up."""
        leaving = self._leaving[request]
        self.used_tokens -= leaving.popleft()
        if not leaving:
            del self._leaving[request]

    def forget(self, request: Request) -> None:
        """A request needs what is kept of it no more."""
        self.used_tokens -= self._kept.pop(request, 0)
