"""The one loop: requests arrive, instances begin work, the clock moves, work ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from llmservingsim.backend import Ticket
from llmservingsim.errors import ConfigError, DeadlockError, PluginError, WorkloadError, nearest, one_of
from llmservingsim.owner import Owner
from llmservingsim.report import Recorder
from llmservingsim.resolve import System
from llmservingsim.serving.router import RoutedRequest
from llmservingsim.units import TIME_MAX_NS
from llmservingsim.workload import RequestSpec, Workload

_PROGRESS_TURNS = 64


def serve(
    system: System, workload: Workload, recorder: Recorder, on_progress: Callable[[], None] | None = None
) -> None:
    """Serve a workload to its end.

    Whatever takes time is a graph with an owner; the loop only carries tickets between owners and the clock.

    At equal times completions come first, then arrivals, then scheduling.

    Args:
        system: What serves.
        workload: What is asked for.
        recorder: Hears what happens.
        on_progress: Called every 64 turns of the loop.

    Raises:
        UserError: If a request asks for a model that nobody serves, or the router for an instance that is none.
        DeadlockError: If nothing runs and nothing will arrive while instances still hold requests.
    """
    backend = system.backend
    owners: dict[Ticket, Owner] = {}
    for turn in count(1):
        if on_progress is not None and turn % _PROGRESS_TURNS == 0:
            on_progress()
        now_ns = backend.now_ns
        for spec in workload.take(now_ns):
            _admit(spec, system, workload, recorder)
        for owner in system.owners:
            for ticket in owner.begin(now_ns):
                owners[ticket] = owner
        arrival_ns = workload.next_arrival_ns()
        if arrival_ns is None:
            if not owners:
                break
            arrival_ns = TIME_MAX_NS
        elif arrival_ns >= TIME_MAX_NS:
            raise WorkloadError(f"a request arrives at {arrival_ns} ns; expected all of them before {TIME_MAX_NS} ns")
        completed = backend.advance(arrival_ns)
        now_ns = backend.now_ns
        recorder.clock_moved(now_ns)
        for ticket in completed:
            for instance, outcome in owners.pop(ticket).complete(ticket, now_ns):
                recorder.batch_ended(instance, outcome)
                for request in outcome.finished:
                    workload.finished(request.request_id, now_ns)
    _check_nothing_waits(system.owners)


def _admit(spec: RequestSpec, system: System, workload: Workload, recorder: Recorder) -> None:
    """Route a request to an instance, or reject it with its reason."""
    serving = [i for i in system.instances if i.takes_prompts and (spec.model is None or i.model == spec.model)]
    if not serving:
        known = {i.model for i in system.instances}
        hint = nearest(spec.model or "", known)
        raise ConfigError(
            f"request {spec.request_id} asks for the model {spec.model!r}{hint}; the instances serve {one_of(known)}"
        )
    if len(serving) == 1:
        instance = serving[0]
    else:
        position = system.router.route(RoutedRequest.of(spec), [i.load() for i in serving])
        if position not in range(len(serving)):
            raise PluginError(
                f"router: {type(system.router).__name__!r} chose {position!r} for request {spec.request_id}; "
                f"expected a position from 0 to {len(serving) - 1}"
            )
        instance = serving[position]
    reason = instance.reject_reason(spec)
    if reason is not None:
        recorder.rejected(spec, instance, reason.value)
        workload.finished(spec.request_id, spec.arrival_ns)
        return
    recorder.admitted(spec)
    instance.add(spec)


def _check_nothing_waits(owners: Sequence[Owner]) -> None:
    stuck = [line for owner in owners for line in owner.describe_waiting()]
    if stuck:
        raise DeadlockError("nothing runs and nothing will arrive, but requests wait:\n  " + "\n  ".join(stuck))
