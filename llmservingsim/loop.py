"""The one loop: requests arrive, instances begin work, the clock moves, work ends."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from llmservingsim.admission import Admission
from llmservingsim.backend import Ticket
from llmservingsim.errors import DeadlockError, WorkloadError
from llmservingsim.owner import Owner, Wakeful, are_needed
from llmservingsim.report import Recorder
from llmservingsim.resolve import System
from llmservingsim.units import TIME_MAX_NS
from llmservingsim.workload import Workload

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
    admission = Admission(system, workload, recorder)
    owners: dict[Ticket, Owner] = {}
    awake = Wakeful(system.owners)
    for turn in count(1):
        if on_progress is not None and turn % _PROGRESS_TURNS == 0:
            on_progress()
        now_ns = backend.now_ns
        admission.admit(now_ns)
        for owner in awake.take():
            for ticket in owner.begin(now_ns):
                owners[ticket] = owner
        arrival_ns = admission.next_ns()
        if arrival_ns is None:
            if not are_needed(owners.values()):
                break
            arrival_ns = TIME_MAX_NS
        elif arrival_ns >= TIME_MAX_NS:
            raise WorkloadError(f"a request arrives at {arrival_ns} ns; expected all of them before {TIME_MAX_NS} ns")
        completed = backend.advance(arrival_ns)
        now_ns = backend.now_ns
        recorder.clock_moved(now_ns)
        admission.clock_moved(now_ns, has_ended=bool(completed))
        for ticket in completed:
            owner = owners.pop(ticket)
            awake.wake(owner)
            for instance, outcome in owner.complete(ticket, now_ns):
                recorder.batch_ended(instance, outcome)
                for request in outcome.finished:
                    admission.finished(instance, request, now_ns)
    _check_nothing_waits(system, admission)


def _check_nothing_waits(system: System, admission: Admission) -> None:
    stuck = [line for owner in system.owners for line in owner.describe_waiting()] + admission.describe_held()
    if stuck:
        raise DeadlockError("nothing runs and nothing will arrive, but requests wait:\n  " + "\n  ".join(stuck))
