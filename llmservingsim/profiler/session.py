"""One profile of one rank: the coarse grid, then shot after shot where the error is largest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.model import ParallelLayout
from llmservingsim.profiler.adaptive import doubts
from llmservingsim.profiler.engine import Engine
from llmservingsim.profiler.journal import Entry, Journal
from llmservingsim.profiler.plan import Limits, coarse_plan
from llmservingsim.profiler.power import PowerMeter
from llmservingsim.profiler.sampling import Effort, measure
from llmservingsim.profiler.shots import Shot

_ESTIMATE_EVERY = 4
"""Shots between two estimates of the error, each of which takes as long as some shots."""


_TRIES = 3
"""Times that a doubtful shot is measured; the middle one counts."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is measured.

    Attributes:
        model: With the dtype that is measured.
        layout: One rank of it.
        limits: How far the grids reach.
        device: ``cpu`` or ``cuda``.
        with_experts: Whether experts belong to this degree; whole ones are measured, once.
    """

    model: ModelSpec
    layout: ParallelLayout
    limits: Limits
    device: str
    with_experts: bool = True


@dataclass(frozen=True, slots=True)
class Goal:
    """When to stop.

    Attributes:
        error: Weighted error of interpolation that is good enough, relative.
        budget_s: Time for measuring, that of earlier runs of the same journal included. The coarse grid's
            indispensable part is measured whatever it takes.
        effort: For one shot.
    """

    error: float = 0.03
    budget_s: float = 600.0
    effort: Effort = field(default_factory=Effort)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a profile is.

    Attributes:
        done: Shots measured.
        planned: Shots of the coarse grid.
        spent_s, budget_s: Time.
        error: Largest weighted error that further shots can lessen, None while the grid is coarse.
        shot: What was measured last.
        noise: Its relative standard error.
    """

    done: int
    planned: int
    spent_s: float
    budget_s: float
    error: float | None
    shot: Shot
    noise: float

    @property
    def left_s(self) -> float:
        """Most time that is left."""
        return max(0.0, self.budget_s - self.spent_s)


class Session:
    """Measures until the goal is reached.

    Args:
        job: What is measured.
        engine: Runs it.
        journal: Holds what was measured before, and gets the rest.
        goal: When to stop.

    Attributes:
        plan: The coarse grid.
        error: Largest weighted error that further shots can lessen, None while the grid is coarse.
        idle_w: Power before anything ran, None where it cannot be read.
    """

    def __init__(self, job: Job, engine: Engine, journal: Journal, goal: Goal) -> None:
        self.job, self.journal, self.goal = job, journal, goal
        self._engine = engine
        self._power = PowerMeter(job.device)
        self.idle_w = self._power.read_w()
        self.plan = coarse_plan(job.model, job.limits, is_additive=engine.is_additive, with_experts=job.with_experts)
        self.error: float | None = None

    def run(self) -> Iterator[Progress]:
        """Measure; tell after every shot. What was told is on the disk."""
        for index, shot in enumerate(self.plan):
            if shot not in self.journal.entries and (self._has_time or index < self._indispensable):
                yield self._measure(shot)
        while self._has_time and (batch := self._next() or self._restless()):
            for shot in batch:
                yield self._measure(shot)
                if not self._has_time:
                    break

    @property
    def is_coarse(self) -> bool:
        """Whether time ended before the coarse grid was measured."""
        return any(shot not in self.journal.entries for shot in self.plan)

    @property
    def _has_time(self) -> bool:
        return self.journal.seconds < self.goal.budget_s

    @property
    def _indispensable(self) -> int:
        """Without three places in every table nothing lies between two others."""
        return 3 * len({shot.table for shot in self.plan})

    def _next(self) -> list[Shot]:
        """The shots that lessen the largest errors; none when the goal is reached.

        What drifts from shot to shot looks like a bend: a point is measured again before its neighbourhood is.
        """
        found = doubts(self.journal, self.job.model)
        self.error = max((doubt.error for doubt in found if doubt.next is not None), default=0.0)
        wanted: dict[Shot, None] = {}
        for doubt in found:
            if doubt.error <= self.goal.error or len(wanted) == _ESTIMATE_EVERY:
                break
            again = self.journal.tries[doubt.shot] < _TRIES or self._is_restless(self.journal.entries[doubt.shot])
            if (shot := doubt.shot if again else doubt.next) is not None:
                wanted[shot] = None
        return list(wanted)

    def _restless(self) -> list[Shot]:
        """Shots that are worth measuring again, the noisiest first."""
        noisy = [entry for entry in self.journal if self._is_restless(entry)]
        return [entry.shot for entry in sorted(noisy, key=lambda entry: -entry.noise)][:_ESTIMATE_EVERY]

    def _is_restless(self, entry: Entry) -> bool:
        """Whether a shot fell into a time of noise that may be over now."""
        return entry.noise > 2 * self.goal.effort.noise and self.journal.tries[entry.shot] < _TRIES

    def _measure(self, shot: Shot) -> Progress:
        begun_s = time.perf_counter()
        with self._power:
            operators = measure(self._engine.prepare(shot), self.goal.effort)
        entry = Entry(shot, operators, time.perf_counter() - begun_s, self._power.mean_w)
        self.journal.add(entry)
        done, planned = len(self.journal.entries), len(self.plan)
        return Progress(done, planned, self.journal.seconds, self.goal.budget_s, self.error, shot, entry.noise)
