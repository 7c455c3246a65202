"""When instances were in which phase."""

from __future__ import annotations

from llmservingsim.explain.covers import Cover
from llmservingsim.instance import Phase
from llmservingsim.resolve import System


def phases(system: System, end_ns: int, *wanted: Phase) -> dict[int, Cover]:
    """Return when each instance was in one of some phases; one that is not scaled is always active."""
    whole = Cover.of([0], [end_ns])
    found = {i.index: whole if "active" in wanted else Cover.of([], []) for i in system.instances}
    for pool in system.autoscaler.pools if system.autoscaler is not None else ():
        for instance in pool.instances:
            kept = [stretch for stretch in pool.stretches(instance, end_ns) if stretch.phase in wanted]
            found[instance.index] = Cover.of([of.begin_ns for of in kept], [of.end_ns for of in kept])
    return found
