"""Instances of a model whose number follows the load: who is active, who starts, who finishes and stops.

::

    stopped --start--> starting --ready--> active --too many--> draining --idle--> stopped
       ^                  |
       +----too many------+

As with Kubernetes' pods, an instance that drains does not come back before it has stopped, and one that stopped has
lost its prefix cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

from llmservingsim.errors import PluginError
from llmservingsim.instance import Instance, Phase
from llmservingsim.serving import Request
from llmservingsim.serving.scaling import ScalingPolicy, ScalingView, ServedRequest
from llmservingsim.workload import RequestSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalingLimits:
    """What a pool is told beside its policy; `AutoscalingSpec` says what each means."""

    min_instances: int
    max_instances: int
    initial_instances: int
    interval_ns: int
    window_ns: int
    scale_down_delay_ns: int


class ScalingEvent(NamedTuple):
    """A decision that changed how many instances there shall be.

    Attributes:
        time_ns: When.
        before, after: Instances active or starting, or wanted as soon as a draining one has stopped.
        why: What the policy asked for, and what it saw.
    """

    time_ns: int
    before: int
    after: int
    why: str


class PhaseChange(NamedTuple):
    """An instance, given by its number, entered a phase."""

    time_ns: int
    instance: int
    phase: Phase


class Stretch(NamedTuple):
    """A time in which an instance stays in one phase."""

    phase: Phase
    begin_ns: int
    end_ns: int


class ScaledPool:
    """Decides which instances of a pool run.

    They start in the order in which they are given and are given up in reverse, those that are still starting first.

    Args:
        instances: Of one model and role.
        policy: Says how many.
        name: Of the policy.
        role: Their ``kv_role``.
        limits: Between which numbers, and how fast.

    Attributes:
        goal: How many shall be active or starting. It is more than that while the devices of those that are missing
            are still draining, else the same.
        floor: So many of the instances, in their order, have to be up for one of them to fit the request that is held
            longest; 0 if none is.
        due_ns: When the policy is asked next, in turn.
        planned_ns: When it wants to be asked, if ever.
        events: Decisions.
        changes: Of phases; those at 0 tell how the run began.
    """

    def __init__(
        self, instances: Sequence[Instance], policy: ScalingPolicy, name: str, role: str, limits: ScalingLimits
    ) -> None:
        self.instances = tuple(instances)
        self.policy_name, self.role, self.limits = name, role, limits
        self.model = instances[0].model
        self.goal = limits.initial_instances
        self.floor = 0
        self.due_ns = limits.interval_ns
        self.events: list[ScalingEvent] = []
        self.changes: list[PhaseChange] = []
        self.num_arrived = 0
        self._policy = policy
        self._next_change_ns = getattr(policy, "next_change_ns", None)
        self._num: dict[Phase, int] = {"stopped": len(instances), "starting": 0, "active": 0, "draining": 0}
        self._asked: deque[tuple[int, int]] = deque([(0, self.goal)])
        self._arrivals_ns: deque[int] = deque()
        self._served: deque[ServedRequest] = deque()
        self._num_held = 0
        for position, instance in enumerate(self.instances):
            instance.phase = "stopped"
            self._enter(instance, "active" if position < self.goal else "stopped", 0)
        self.planned_ns = self._plan(-1)

    @property
    def num_up(self) -> int:
        """Instances that are active or starting."""
        return self._num["active"] + self._num["starting"]

    @property
    def patience_ns(self) -> int:
        """After so long a time without any event a policy has seen everything that it can see."""
        limits = self.limits
        return limits.window_ns + limits.scale_down_delay_ns + 2 * limits.interval_ns

    def arrived(self, now_ns: int) -> None:
        """A request of the model has arrived."""
        self.num_arrived += 1
        self._arrivals_ns.append(now_ns)

    def finished(self, request: Request, now_ns: int) -> None:
        """A request that one of the instances had a part in has ended."""
        tokens = request.num_tokens - request.num_prompt_tokens
        self._served.append(ServedRequest(request.arrival_ns, request.first_token_ns, now_ns, tokens))

    def is_due(self, now_ns: int, num_held: int) -> bool:
        """Whether the policy is to be asked now: in turn, as it planned, or because somebody is held and nobody up."""
        interval_ns = self.limits.interval_ns
        if now_ns > self.due_ns:  # nothing had happened since it was asked last
            self.due_ns = -(-now_ns // interval_ns) * interval_ns
        has_grown, self._num_held = num_held > self._num_held, num_held
        is_planned = self.planned_ns is not None and self.planned_ns <= now_ns
        return now_ns == self.due_ns or is_planned or (has_grown and not self.num_up)

    def make_room_for(self, spec: RequestSpec | None, now_ns: int) -> bool:
        """Start as many instances as it takes for one that can hold a held request; return whether that is more.

        Instances of a pool may be unlike, and no policy sees what a request needs.
        """
        self.floor = (
            self._least_for(spec) if spec is not None and self.goal else 0
        )  # from none to one the policy decides
        if self.goal >= self.floor:
            return False
        self.events.append(
            ScalingEvent(now_ns, self.goal, self.floor, "a request is held that fits no instance which is up")
        )
        self.goal = self.floor
        return True

    def _least_for(self, spec: RequestSpec) -> int:
        able = (count for count, i in enumerate(self.instances, start=1) if i.engine.reject_reason(spec) is None)
        return min(next(able, 0), self.limits.max_instances)

    def ask(self, now_ns: int) -> bool:
        """Ask the policy and set the goal; return whether it changed.

        More instances are wanted at once; fewer, when every answer within ``scale_down_delay`` was so low: the largest
        of them counts, as in Kubernetes' stabilisation window for scaling down.

        Raises:
            PluginError: If the answer is no number of instances.
        """
        limits = self.limits
        view = self._view(now_ns)
        asked = self._policy.desired(view)
        if not isinstance(asked, Integral) or asked < 0:
            raise PluginError(
                f"autoscaling: {self.policy_name!r} asked for {asked!r:.60} instances of {self.model}; expected a "
                "whole number of at least 0"
            )
        wanted = min(max(int(asked), limits.min_instances, self.floor), limits.max_instances)
        self._asked.append((now_ns, wanted))
        while self._asked[0][0] < now_ns - limits.scale_down_delay_ns:
            self._asked.popleft()
        before = self.goal
        self.goal = wanted if wanted >= before else min(before, max(count for _, count in self._asked))
        if self.goal != before:
            self.events.append(ScalingEvent(now_ns, before, self.goal, self._why(view, int(asked))))
        if now_ns == self.due_ns:
            self.due_ns += limits.interval_ns
        self.planned_ns = self._plan(now_ns)
        return self.goal != before

    def reconcile(self, now_ns: int) -> list[Instance]:
        """Stop what is idle and not wanted; return the instances that begin to start now, to reach the goal."""
        self._stop_idle(now_ns)
        excess = self.num_up - self.goal
        if excess > 0:
            given_up = [i for p in ("starting", "active") for i in reversed(self.instances) if i.phase == p]
            for instance in given_up[:excess]:
                self._enter(instance, "stopped" if instance.phase == "starting" else "draining", now_ns)
            self._stop_idle(now_ns)
        starting = [i for i in self.instances if i.phase == "stopped"][:-excess] if excess < 0 else []
        for instance in starting:
            self._enter(instance, "starting", now_ns)
        return starting

    def started(self, instance: Instance, now_ns: int) -> None:
        """An instance is ready for requests."""
        self._enter(instance, "active", now_ns)

    def describe(self) -> str:
        """Say how things stand, for the message of a deadlock."""
        most, up = self.limits.max_instances, f"{self._num['active']} active and {self._num['starting']} starting"
        return (
            f"autoscaling of {self.model}: {self._num_held} requests are held, and policy {self.policy_name!r} leaves "
            f"it at {up} instances of at most {most}"
        )

    def stretches(self, instance: Instance, end_ns: int) -> list[Stretch]:
        """Return the phases of one of its instances one after another, until ``end_ns``."""
        changes = [change for change in self.changes if change.instance == instance.index]
        begins = [min(change.time_ns, end_ns) for change in changes]
        ends = [*begins[1:], end_ns]
        return [Stretch(c.phase, begin, end) for c, begin, end in zip(changes, begins, ends, strict=True)]

    def _stop_idle(self, now_ns: int) -> None:
        if not self._num["draining"]:
            return
        for instance in self.instances:
            if instance.phase == "draining" and instance.engine.is_idle:
                instance.engine.kv.pool.forget()
                self._enter(instance, "stopped", now_ns)

    def _enter(self, instance: Instance, phase: Phase, now_ns: int) -> None:
        self._num[instance.phase] -= 1
        self._num[phase] += 1
        instance.phase = phase
        self.changes.append(PhaseChange(now_ns, instance.index, phase))

    def _plan(self, now_ns: int) -> int | None:
        """When the policy wants to be asked next."""
        planned_ns: int | None = self._next_change_ns(now_ns) if self._next_change_ns is not None else None
        if planned_ns is not None and (not isinstance(planned_ns, Integral) or planned_ns <= now_ns):
            raise PluginError(
                f"autoscaling: next_change_ns of {self.policy_name!r} returned {planned_ns!r:.60} at {now_ns} ns; "
                "expected a later time, as a whole number, or None"
            )
        return planned_ns

    def _view(self, now_ns: int) -> ScalingView:
        since_ns = now_ns - self.limits.window_ns
        while self._arrivals_ns and self._arrivals_ns[0] < since_ns:
            self._arrivals_ns.popleft()
        while self._served and self._served[0].finish_ns < since_ns:
            self._served.popleft()
        return ScalingView(
            now_ns=now_ns,
            model=self.model,
            active=tuple(i.load() for i in self.instances if i.phase == "active"),
            num_starting=self._num["starting"],
            num_draining=self._num["draining"],
            num_held=self._num_held,
            num_arrived=len(self._arrivals_ns),
            served=tuple(self._served),
            window_ns=self.limits.window_ns,
            min_instances=self.limits.min_instances,
            max_instances=self.limits.max_instances,
        )

    def _why(self, view: ScalingView, asked: int) -> str:
        waiting = sum(i.num_waiting for i in view.active)
        running = sum(i.num_running for i in view.active)
        return (
            f"{self.policy_name} asked for {asked}: {len(view.active)} active, {view.num_starting} starting, "
            f"{view.num_draining} draining; {waiting} requests waiting, {running} running, {view.num_held} held"
        )
