"""The event list, and why a run has no result."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

Action = Callable[[], None]


class AbortError(Exception):
    """The real program dies with a message."""


class EndlessError(Exception):
    """The real program loops for ever, or ends with ranks that never finish."""


class Engine:
    """One global list of events: times ascend, first come first served within a time.

    What a rank's system layer asks for (`after`) goes through a list per rank and time. Only its first entry puts an
    event into the global list, and when that fires the whole list runs; so all of a rank's local events of a time run
    together, where the first of them was registered.
    """

    def __init__(self, refuses_time_zero: bool) -> None:
        self.now = 0
        self._refuses_time_zero = refuses_time_zero
        self._times: list[int] = []
        self._batches: dict[int, deque[Action]] = {}
        self._local: dict[tuple[int, int], list[Action]] = {}

    def at(self, time: int, action: Action) -> None:
        """Add a global event."""
        if time not in self._batches:
            self._batches[time] = deque()
            heapq.heappush(self._times, time)
        self._batches[time].append(action)

    def after(self, rank: int, delay: int, action: Action) -> None:
        """Add a local event of a rank."""
        key = (rank, self.now + delay)
        if key in self._local:
            self._local[key].append(action)
            return
        self._local[key] = [action]
        self.at(key[1], lambda: self._fire(key))

    def run(self, is_over: Callable[[], bool]) -> None:
        """Run whole batches until ``is_over`` or nothing is left."""
        while self._times and not is_over():
            self.step()

    def step(self) -> None:
        """Run one batch; without any, let a millisecond pass as LLMServingSim's main loop does."""
        if not self._times:
            self.now += 1_000_000
            return
        time = heapq.heappop(self._times)
        if self._refuses_time_zero and time <= self.now:
            raise AbortError("an event at time 0")
        self.now = time
        batch = self._batches[time]
        while batch:
            batch.popleft()()
        del self._batches[time]

    def _fire(self, key: tuple[int, int]) -> None:
        entries = self._local[key]
        done = 0
        while done < len(entries):  # entries of the same time may join meanwhile
            entries[done]()
            done += 1
        del self._local[key]
