"""A clock over submissions that somebody else times, each as if it were alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.backend.protocol import GraphId, Ticket
from llmservingsim.graph import Graph

Values = NDArray[np.int64]


class StepTimes(NamedTuple):
    """What one execution of a graph took, one entry per rank of the graph.

    Attributes:
        ranks: Ascending.
        finish_ns: From the step's begin.
        compute_ns: Time in COMP nodes of the accelerator.
    """

    ranks: tuple[int, ...]
    finish_ns: tuple[int, ...]
    compute_ns: tuple[int, ...]

    @property
    def duration_ns(self) -> int:
        """Until the last rank finished."""
        return max(self.finish_ns)


@dataclass(slots=True)
class _Submission:
    """A ticket's steps, shape ``[steps, nodes]``, and how far they are."""

    graph: GraphId
    durations_ns: Values
    sizes_bytes: Values
    after: Ticket
    steps: int
    start_ns: int | None = None  # of the step that runs
    ends_ns: list[int] = field(default_factory=list)
    times: list[StepTimes] = field(default_factory=list)  # of the steps begun

    @property
    def begun(self) -> int:
        return len(self.ends_ns) + (self.start_ns is not None)


class ReplayBackend(ABC):
    """Implements `llmservingsim.backend.Backend` over `time_step`, which times one execution of a graph.

    Nothing is shared between submissions: each takes as long as it would take alone, however many run. `time_step` is
    called when a step's end must be known, so that steps that `cut` drops are never timed.
    """

    def __init__(self) -> None:
        self._now_ns = 0
        self._graphs: list[Graph] = []
        self._issued = 0
        self._active: dict[Ticket, _Submission] = {}
        self._completed: dict[Ticket, _Submission] = {}

    @abstractmethod
    def prepare(self, graph: Graph) -> None:
        """Check the graph that is registered next. Raises ValueError on an inconsistent one."""

    @abstractmethod
    def time_step(self, graph: GraphId, durations_ns: Values, sizes_bytes: Values) -> StepTimes:
        """Time one execution with values of shape ``[nodes]``."""

    @property
    def now_ns(self) -> int:
        """Simulated time in nanoseconds."""
        return self._now_ns

    def register(self, graph: Graph) -> GraphId:
        """Check a graph and keep it."""
        self.prepare(graph)
        self._graphs.append(graph)
        return len(self._graphs) - 1

    def submit(
        self,
        graph: GraphId,
        durations_ns: Values | None = None,
        sizes_bytes: Values | None = None,
        after: Ticket = -1,
    ) -> Ticket:
        """Start a registered graph now, or when ticket ``after`` completes; see `Backend.submit`."""
        if not 0 <= graph < len(self._graphs):
            raise ValueError(f"graph {graph} is not registered")
        if not -1 <= after < self._issued:
            raise ValueError(f"ticket {after} to follow was never issued")
        durations, sizes = _refilled(self._graphs[graph], durations_ns, sizes_bytes)
        waits = after in self._active
        submission = _Submission(graph, durations, sizes, after if waits else -1, len(durations))
        if not waits:
            submission.start_ns = self._now_ns
        ticket = self._issued
        self._issued += 1
        self._active[ticket] = submission
        return ticket

    def advance(self, until_ns: int) -> list[Ticket]:
        """Move the clock to the next completion, at most to ``until_ns``; see `Backend.advance`."""
        if until_ns < self._now_ns:
            raise ValueError(f"advance: {until_ns} ns is before now, {self._now_ns} ns")
        self._completed = {}
        while True:
            self._end_steps()
            self._completed = {t: s for t, s in self._active.items() if len(s.ends_ns) == s.steps}
            if self._completed:
                self._active = {t: s for t, s in self._active.items() if t not in self._completed}
                return list(self._completed)
            if self._now_ns == until_ns:
                return []
            self._begin_steps()
            self._now_ns = min([until_ns, *(end_ns for _, end_ns in self._running())])

    def step_ends_ns(self, ticket: Ticket) -> Values:
        """End times of the steps that have ended so far; see `Backend.step_ends_ns`."""
        return np.array(self._known(ticket).ends_ns, dtype=np.int64)

    def cut(self, ticket: Ticket) -> int:
        """Drop the steps that have not begun; see `Backend.cut`."""
        submission = self._known(ticket)
        if ticket in self._completed:
            return submission.steps
        submission.steps = submission.begun
        if submission.begun == 0:
            del self._active[ticket]
            for follower in self._active.values():
                if follower.after == ticket:
                    follower.after = submission.after
        return submission.steps

    def ranks(self, ticket: Ticket) -> NDArray[np.int32]:
        """Return the ranks of a completed ticket's graph, ascending."""
        return np.array(self._finished(ticket).times[-1].ranks, dtype=np.int32)

    def rank_finish_ns(self, ticket: Ticket) -> Values:
        """When each rank of a completed ticket finished its last step, in the order of `ranks`."""
        submission = self._finished(ticket)
        last = submission.times[-1]
        start_ns = submission.ends_ns[-1] - last.duration_ns
        return start_ns + np.array(last.finish_ns, dtype=np.int64)

    def rank_compute_ns(self, ticket: Ticket) -> Values:
        """COMP time on the accelerator of each rank of a completed ticket, all steps, in the order of `ranks`."""
        steps: Values = np.array([step.compute_ns for step in self._finished(ticket).times], dtype=np.int64)
        total: Values = steps.sum(axis=0)
        return total

    def _known(self, ticket: Ticket) -> _Submission:
        found = self._active.get(ticket) or self._completed.get(ticket)
        if found is None:
            raise ValueError(f"ticket {ticket} is unknown, or completed before the latest advance")
        return found

    def _finished(self, ticket: Ticket) -> _Submission:
        found = self._known(ticket)
        if ticket not in self._completed:
            raise ValueError(f"ticket {ticket} has not completed")
        return found

    def _running(self) -> Iterator[tuple[_Submission, int]]:
        """Yield what runs, with the end of its step."""
        for submission in self._active.values():
            if submission.start_ns is None:
                continue
            step = len(submission.ends_ns)
            if len(submission.times) == step:
                durations, sizes = submission.durations_ns[step], submission.sizes_bytes[step]
                submission.times.append(self.time_step(submission.graph, durations, sizes))
            yield submission, submission.start_ns + submission.times[step].duration_ns

    def _end_steps(self) -> None:
        for submission, end_ns in self._running():
            if end_ns == self._now_ns:
                submission.ends_ns.append(end_ns)
                submission.start_ns = None

    def _begin_steps(self) -> None:
        """The clock leaves an instant: what waited for it to pass begins."""
        for submission in self._active.values():
            if submission.start_ns is None and submission.after not in self._active:
                submission.start_ns = self._now_ns


def _refilled(graph: Graph, durations_ns: Values | None, sizes_bytes: Values | None) -> tuple[Values, Values]:
    """Return copies of both values, shape ``[steps, nodes]``, with the graph's own where none are given."""
    given = [_checked(name, v, len(graph)) for name, v in _named(durations_ns, sizes_bytes) if v is not None]
    if len({v.shape for v in given}) > 1:
        raise ValueError("durations_ns and sizes_bytes must have the same shape")
    shape = np.atleast_2d(given[0] if given else graph.duration_ns).shape
    filled = [
        np.array(np.broadcast_to(own if v is None else v, shape))
        for own, v in ((graph.duration_ns, durations_ns), (graph.size_bytes, sizes_bytes))
    ]
    return filled[0], filled[1]


def _named(durations_ns: Values | None, sizes_bytes: Values | None) -> tuple[tuple[str, Values | None], ...]:
    return ("durations_ns", durations_ns), ("sizes_bytes", sizes_bytes)


def _checked(name: str, values: Values, nodes: int) -> Values:
    if values.dtype != np.int64:
        raise ValueError(f"{name}: expected int64, got {values.dtype}")
    if values.ndim not in (1, 2) or values.shape[-1] != nodes or len(values) == 0:
        raise ValueError(f"{name}: expected shape [{nodes}] or [steps, {nodes}], got {list(values.shape)}")
    if values.min() < 0:
        raise ValueError(f"{name}: {values.min()} is negative")
    return values
