"""What the loop needs of a workload."""

from __future__ import annotations

from typing import Protocol

import msgspec

from llmservingsim.workload.request import RequestSpec


class Session(msgspec.Struct, frozen=True, gc=False):
    """Calls of one client that follow each other: an agent that calls a tool between two calls, say.

    Attributes:
        calls: The calls in their order, at least one. Only the first one's ``arrival_ns`` counts.
        tool_durations_ns: As long as ``calls``. Call ``k + 1`` arrives ``tool_durations_ns[k]`` after call ``k``
            finished; the last one has no effect.
    """

    calls: tuple[RequestSpec, ...]
    tool_durations_ns: tuple[int, ...]

    @property
    def arrival_ns(self) -> int:
        """When the first call arrives."""
        return self.calls[0].arrival_ns


class Workload(Protocol):
    """Requests in the order of their arrival; the answers of earlier ones decide when a session's next one comes."""

    @property
    def total_requests(self) -> int | None:
        """How many calls there will be, None where it is not known. For the display of progress only."""

    def next_arrival_ns(self) -> int | None:
        """Return when the next call that was not taken arrives.

        None says that none is known now; a session may still add one when its running call has finished.
        """

    def take(self, now_ns: int) -> list[RequestSpec]:
        """Take every call with ``arrival_ns <= now_ns``, by arrival, and in file order where those are equal."""

    def finished(self, request_id: int, now_ns: int) -> None:
        """Hear that a call was finished, rejected or given up: its session goes on after the tool has run."""

    def abandoned(self, request_id: int, now_ns: int) -> None:
        """Hear that a call was given up, and its session with it: no call of that follows."""
