"""What a run moved between its devices and other memories."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from llmservingsim.backend import NativeBackend
from llmservingsim.config.tier_spec import TierName
from llmservingsim.memories import TIERS, Place
from llmservingsim.resolve import System
from llmservingsim.units import NS_PER_MS


class Moved(NamedTuple):
    """Bytes that crossed between devices and a place.

    Attributes:
        place: Which.
        is_store: Whether they were stored there, else loaded from there.
        num_bytes: How many.
    """

    place: Place
    is_store: bool
    num_bytes: int


def memory_traffic(system: System) -> dict[str, Any]:
    """Return what each memory that was accessed did, and what moved at each of its places; empty if none was."""
    if not isinstance(system.backend, NativeBackend):
        return {}
    found: dict[str, Any] = {}
    use = system.backend.memory_use()
    places = _by_place(_moved(system))
    for tier, location in TIERS.items():
        done = use.get(location.name.lower())
        if done is not None and done.accesses:
            found[tier] = {
                "loaded_bytes": done.bytes_loaded,
                "stored_bytes": done.bytes_stored,
                "accesses": done.accesses,
                "busy_ms": done.busy_ns / NS_PER_MS,
                "longest_queue": done.longest_queue,
                "places": {system.memories.name(p): moved for p, moved in places.items() if p.tier == tier},
            }
            if tier in system.memories.fabrics:
                found[tier] |= _link_traffic(system, system.backend, tier)
    return found


def _link_traffic(system: System, backend: NativeBackend, tier: TierName) -> dict[str, Any]:
    """What the links and devices of a memory carried, and the share of the run in which they carried something."""
    fabric = system.memories.fabrics[tier]
    used = [
        (num_bytes, 100 * busy_ns / max(1, backend.now_ns))
        for num_bytes, busy_ns in backend.memory_link_use()[TIERS[tier].name.lower()]
    ]
    found: dict[str, Any] = {"ports": {}, "uplinks": {}, "devices": {}}
    for number, link in enumerate(fabric.links):
        loaded, stored = used[2 * number : 2 * number + 2]
        found[link.kind][link.name] = {
            "loaded_bytes": loaded[0],
            "stored_bytes": stored[0],
            "load_busy_pct": loaded[1],
            "store_busy_pct": stored[1],
        }
    for device, (num_bytes, busy_pct) in enumerate(used[2 * len(fabric.links) :]):
        found["devices"][str(Place(tier, device))] = {"bytes": num_bytes, "busy_pct": busy_pct}
    return found


def _moved(system: System) -> Iterable[Moved]:
    """Whoever submits accesses tells here what they moved."""
    for builder in system.builders:
        for site, is_store, num_bytes in builder.moved_bytes():
            yield Moved(Place.at(*site), is_store, num_bytes)
    if system.traffic is not None:
        yield from (Moved(*moved) for moved in system.traffic.moved_bytes())


def _by_place(moved: Iterable[Moved]) -> dict[Place, dict[str, int]]:
    found: dict[Place, dict[str, int]] = {}
    for one in moved:
        place = found.setdefault(one.place, {"loaded_bytes": 0, "stored_bytes": 0})
        place["stored_bytes" if one.is_store else "loaded_bytes"] += one.num_bytes
    return dict(sorted(found.items()))
