"""The link and the memory that had the most to do, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from llmservingsim.backend import NativeBackend
from llmservingsim.memories import TIERS
from llmservingsim.resolve import System
from llmservingsim.units import NS_PER_MS, NS_PER_S


def busiest_link(system: System, end_ns: int) -> dict[str, Any] | None:
    """Return the link that was occupied longest; None where messages do not occupy links."""
    if not isinstance(system.backend, NativeBackend) or not end_ns:
        return None
    busy_ns, moved = system.backend.link_busy_ns(), system.backend.link_bytes()
    if not len(busy_ns) or not busy_ns.any():
        return None
    most = int(np.lexsort((-moved, -busy_ns))[0])
    source, target = system.backend.link_ends()[most]
    return {
        "from": _name(system, source),
        "to": _name(system, target),
        "bytes": int(moved[most]),
        "busy_share": int(busy_ns[most]) / end_ns,
        "bytes_per_s": int(moved[most]) * NS_PER_S / end_ns,
    }


def _name(system: System, device: int) -> str:
    """Say who is at the end of a link."""
    ranks = system.network.npus
    if device < ranks:
        for instance in system.instances:
            if device in instance.ranks:
                return f"rank {device} (instance {instance.index}, node {instance.node})"
        return f"rank {device}"
    endpoints = system.network.fabric.endpoints if system.network.fabric is not None else 0
    if device < ranks + endpoints:
        return f"memory {device - ranks}"
    return f"switch {device - ranks - endpoints}"


def busiest_memory(system: System, traffic: Mapping[str, Any], end_ns: int) -> dict[str, Any] | None:
    """Return the tier below the devices that was busy for the largest share of its time; None if none was used.

    Args:
        system: What served.
        traffic: What `llmservingsim.memory_traffic` returned.
        end_ns: Of the run.
    """
    found: list[dict[str, Any]] = []
    model = system.memories.model
    for tier, used in traffic.items():
        level = getattr(model, TIERS[tier].name.lower())  # type: ignore[index]
        servers = level.num_devices * (level.channels if level.discipline == "fifo" else 1)
        moved = {place: sum(of.values()) for place, of in used["places"].items()}
        place = max(moved, key=lambda name: moved[name], default=tier)
        found.append(
            {
                "tier": tier,
                "place": place,
                "bytes": used["loaded_bytes"] + used["stored_bytes"],
                "place_bytes": moved.get(place, 0),
                "busy_share": used["busy_ms"] * NS_PER_MS / (end_ns * servers) if end_ns else 0.0,
                "longest_queue": used["longest_queue"],
                "busiest_part": _busiest_part(used),
            }
        )
    return max(found, key=lambda memory: memory["busy_share"], default=None)


def _busiest_part(used: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the port, uplink or device of a memory behind links that carried something longest; None without links."""
    parts = {
        f"{way} of {name}": of[f"{way[:-1]}_busy_pct"]
        for kind in ("ports", "uplinks")
        for name, of in used.get(kind, {}).items()
        for way in ("loads", "stores")
    }
    parts |= {name: of["busy_pct"] for name, of in used.get("devices", {}).items()}
    name = max(parts, key=lambda part: parts[part], default=None)
    return None if name is None else {"name": name, "busy_share": parts[name] / 100}
