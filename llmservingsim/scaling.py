"""Instances that start and stop while the run goes on.

A start-up takes time, so it is a graph like any other: one node on the instance's ranks. What a decision needs else
happens in no time, at an evaluation. `llmservingsim.scaled_pool` has the rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from llmservingsim.backend import Backend, Ticket
from llmservingsim.config import AutoscalingSpec, InstanceSpec
from llmservingsim.errors import ConfigError, SimulationError, located, nearest, one_of
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.instance import Instance
from llmservingsim.scaled_pool import ScaledPool, ScalingLimits
from llmservingsim.serving import Outcome, Request
from llmservingsim.serving.scaling import make_policy
from llmservingsim.transfer import KvTransfers
from llmservingsim.units import NS_PER_S, TIME_MAX_NS, parse_bandwidth, parse_time_ns
from llmservingsim.workload import RequestSpec

_IN_VAIN_MAX = 10_000
"""After so many evaluations beyond a pool's patience, or as planned, with no token and no arrival between them, no
further one will help.
"""


class _Start(NamedTuple):
    """What it takes to start an instance."""

    graph: int
    duration_ns: int


class Autoscaler:
    """Owner of start-ups. Asks the policies, and knows who takes requests.

    Args:
        backend: Times start-ups.
        pools: Instances that may be stopped; no instance is in two of them.
        start_ns: Duration of a start-up per instance.
        transfers: Hand-overs, which wait for decode instances as requests at the router wait for others.

    Attributes:
        num_held: Tells how many requests of a model the router holds; the front end sets it.
        first_held: Tells which of these is held longest, likewise.
    """

    def __init__(
        self,
        backend: Backend,
        pools: Sequence[ScaledPool],
        start_ns: Callable[[Instance], int],
        transfers: KvTransfers | None = None,
    ) -> None:
        self.pools = tuple(pools)
        self.num_held: Callable[[str], int] = _nobody
        self.first_held: Callable[[str], RequestSpec | None] = _none
        self._backend = backend
        self._transfers = transfers
        self._pool_of = {i.index: pool for pool in pools for i in pool.instances}
        self._starts = {
            i.index: _Start(backend.register(_start_up(i)), start_ns(i)) for pool in pools for i in pool.instances
        }
        self._under_way: dict[Ticket, Instance] = {}
        self._ticket: dict[int, Ticket] = {}
        self._stirred_ns = 0
        self._seen = (0, 0)
        self._seen_ns = 0
        self._in_vain = 0

    @property
    def members(self) -> Sequence[Instance]:
        """None: it looks at every turn whether an instance has drained or a request is held."""
        return ()

    @property
    def is_needed(self) -> bool:
        """Whether anybody waits for a start-up; one that nobody waits for does not prolong the run."""
        return any(map(self._held, self.pools))

    def next_ns(self) -> int | None:
        """Return when a policy is to be asked though nothing else happens, None if that would change nothing."""
        if self._in_vain > _IN_VAIN_MAX:
            return None
        times = [pool.due_ns for pool in self.pools if pool.due_ns <= self._stirred_ns + pool.patience_ns]
        times += [pool.planned_ns for pool in self.pools if pool.planned_ns is not None]
        return min((time_ns for time_ns in times if time_ns < TIME_MAX_NS), default=None)

    def arrived(self, spec: RequestSpec, now_ns: int) -> None:
        """A request has arrived that some instance can hold."""
        for pool in self.pools:
            if spec.model in (None, pool.model):
                pool.arrived(now_ns)

    def finished(self, instance: Instance, request: Request, now_ns: int) -> None:
        """A request ended on ``instance``."""
        for index in {instance.index, request.prefill_instance}:
            if index in self._pool_of:
                self._pool_of[index].finished(request, now_ns)

    def begin(self, now_ns: int) -> Iterable[Ticket]:
        """Ask the policies whose time has come; stop what is idle and start what is missing."""
        tickets = []
        was_asked = has_changed = False
        for pool in self.pools:
            held = self._held(pool)
            has_changed |= pool.make_room_for(self._first_held(pool) if held else None, now_ns)
            if pool.is_due(now_ns, held):
                was_asked = True
                self._in_vain += now_ns != pool.due_ns or now_ns > self._seen_ns + pool.patience_ns
                has_changed |= pool.ask(now_ns)
            tickets += [self._start(instance) for instance in pool.reconcile(now_ns)]
        self._take_note(now_ns, was_asked=was_asked, has_changed=has_changed)
        return tickets

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """An instance is ready, unless it was given up meanwhile."""
        instance = self._under_way.pop(ticket)
        if instance.phase == "starting" and self._ticket[instance.index] == ticket:
            self._pool_of[instance.index].started(instance, now_ns)
            if self._transfers is not None:
                self._transfers.place_held()
        return ()

    def describe_waiting(self) -> list[str]:
        """Say how the pools stand for which requests are held; for the message of a deadlock."""
        return [pool.describe() for pool in self.pools if self._held(pool)]

    def _held(self, pool: ScaledPool) -> int:
        if pool.role == "kv_consumer":
            return self._transfers.num_held(pool.model) if self._transfers is not None else 0
        return self.num_held(pool.model)

    def _first_held(self, pool: ScaledPool) -> RequestSpec | None:
        if pool.role == "kv_consumer":
            return self._transfers.first_held(pool.model) if self._transfers is not None else None
        return self.first_held(pool.model)

    def _start(self, instance: Instance) -> Ticket:
        graph, duration_ns = self._starts[instance.index]
        try:
            ticket = self._backend.submit(graph, np.array([duration_ns], dtype=np.int64))
        except (ValueError, OverflowError) as error:  # a duration that no clock can count
            raise SimulationError(f"instance {instance.index}, start-up: {error}") from error
        self._under_way[ticket] = instance
        self._ticket[instance.index] = ticket
        return ticket

    def _take_note(self, now_ns: int, *, was_asked: bool, has_changed: bool) -> None:
        """Keep when something happened last but evaluations that change nothing."""
        if has_changed or not was_asked:
            self._stirred_ns = now_ns
        if was_asked or self._in_vain > _IN_VAIN_MAX:
            arrived = sum(pool.num_arrived for pool in self.pools)
            iterations = sum(i.engine.iterations for pool in self.pools for i in pool.instances)
            if (arrived, iterations) != self._seen:
                self._seen, self._in_vain = (arrived, iterations), 0
                self._stirred_ns = self._seen_ns = now_ns


def _nobody(model: str) -> int:
    """No front end is there to hold a request."""
    del model
    return 0


def _none(model: str) -> RequestSpec | None:
    del model
    return None


def _start_up(instance: Instance) -> Graph:
    """All devices of an instance, for as long as it takes."""
    return Graph.from_nodes([Node("start_up", NodeType.COMP)], [instance.ranks])


class _Listed(NamedTuple):
    """An instance, and what the run file says of it."""

    instance: Instance
    spec: InstanceSpec


def plan_scaling(
    stated: AutoscalingSpec | Sequence[AutoscalingSpec] | None,
    instances: Sequence[Instance],
    specs: Sequence[InstanceSpec],
    backend: Backend,
    transfers: KvTransfers | None,
) -> Autoscaler | None:
    """Build what the section ``autoscaling`` describes; None without one.

    Args:
        stated: The section, or sections.
        instances: Of the run.
        specs: What the run file says of each.
        backend: Times start-ups.
        transfers: Hand-overs, if there are any.

    Raises:
        ConfigError: If a section fits no instance, two fit one, or its numbers do not fit the instances.
        PluginError: If a policy is not found or cannot be built.
    """
    if stated is None:
        return None
    listed = [_Listed(*pair) for pair in zip(instances, specs, strict=True)]
    sections = [stated] if isinstance(stated, AutoscalingSpec) else stated
    pools: list[ScaledPool] = []
    starts: dict[int, int] = {}
    taken: dict[int, str] = {}
    for position, spec in enumerate(sections):
        place = "autoscaling" if sections is not stated else f"autoscaling[{position}]"
        with located(place):
            chosen = _chosen(spec, listed)
            for one in chosen:
                _check(one, taken)
                taken[one.instance.index] = place
                starts[one.instance.index] = _start_ns(spec, one.instance)
            kinds = dict.fromkeys((one.instance.model, one.spec.kv_role) for one in chosen)
            pools += [_pool(spec, [o for o in chosen if (o.instance.model, o.spec.kv_role) == kind]) for kind in kinds]
    if transfers is not None and transfers.chooses_ahead and any(pool.role == "kv_consumer" for pool in pools):
        raise ConfigError(
            "autoscaling: pushes choose a decode instance before the prompt is computed, and count on it; expected "
            "kv_transfer.mode pull, or a section with role kv_producer"
        )
    return Autoscaler(backend, pools, lambda instance: starts[instance.index], transfers)


def _chosen(spec: AutoscalingSpec, instances: Sequence[_Listed]) -> list[_Listed]:
    """The instances that a section is about."""
    known = {name for one in instances for name in (one.instance.model, one.spec.model)}
    if spec.model is not None and spec.model not in known:
        raise ConfigError(
            f"model: no instance serves {spec.model!r}{nearest(spec.model, known)}; expected {one_of(known)}"
        )
    of_model = [one for one in instances if spec.model in (None, one.instance.model, one.spec.model)]
    chosen = [one for one in of_model if spec.role in (None, one.spec.kv_role)]
    if not chosen:
        roles = {one.spec.kv_role for one in of_model}
        raise ConfigError(f"role: no such instance is a {spec.role}; expected {one_of(roles)}")
    return chosen


def _check(one: _Listed, taken: dict[int, str]) -> None:
    index = one.instance.index
    if index in taken:
        raise ConfigError(
            f"instance {index} is in {taken[index]} already; expected 'model' or 'role' to tell them apart"
        )
    if len(one.instance.builder.member_ranks) > 1:
        raise ConfigError(
            f"instance {index} is of the data-parallel group {one.spec.data_parallel_group!r}, whose members run in "
            "lock step and cannot stop one by one; expected instances without a group, or a 'model' or 'role' that "
            "leaves them out"
        )


def _pool(spec: AutoscalingSpec, members: Sequence[_Listed]) -> ScaledPool:
    most = spec.max_instances if spec.max_instances is not None else len(members)
    initial = spec.initial_instances if spec.initial_instances is not None else spec.min_instances
    for key, count in (("max", most), ("min", spec.min_instances), ("initial", initial)):
        if count > len(members):
            first = members[0]
            raise ConfigError(
                f"{key}_instances: {count} is more than the {len(members)} instances of {first.instance.model} with "
                f"kv_role {first.spec.kv_role} that the file lists; list all that may ever run"
            )
    limits = ScalingLimits(
        min_instances=spec.min_instances,
        max_instances=most,
        initial_instances=initial,
        interval_ns=parse_time_ns(spec.interval),
        window_ns=parse_time_ns(spec.window),
        scale_down_delay_ns=parse_time_ns(spec.scale_down_delay),
    )
    instances = [one.instance for one in members]
    policy = make_policy(spec.policy, spec.options)
    return ScaledPool(instances, policy, spec.policy, members[0].spec.kv_role, limits)


def _start_ns(spec: AutoscalingSpec, instance: Instance) -> int:
    """The delay, and the weights of one device over the bandwidth at which all load at once."""
    delay_ns = parse_time_ns(spec.start_up_delay)
    if spec.weight_load_bandwidth is None:
        return delay_ns
    load_ns = instance.memory.weights_bytes * NS_PER_S / parse_bandwidth(spec.weight_load_bandwidth)
    if load_ns >= TIME_MAX_NS:
        raise ConfigError(
            f"weight_load_bandwidth: at {spec.weight_load_bandwidth!r} the weights of instance {instance.index} come "
            "later than any clock counts; expected more"
        )
    return delay_ns + round(load_ns)
