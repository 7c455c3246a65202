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
            changes = [change for change in pool.changes if change.instance == instance.index]
            begins = [min(change.time_ns, end_ns) for change in changes]
            stretches = zip(changes, begins, [*begins[1:], end_ns], strict=True)
            kept = [(begin, end) for change, begin, end in stretches if change.phase in wanted]
            found[instance.index] = Cover.of([begin for begin, _ in kept], [end for _, end in kept])
    return found
