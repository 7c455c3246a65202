"""Memory JSON: ASTRA-sim's remote memory, or the levels of LLMServingSim 2.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast, get_args

from llmservingsim.backend.astra_files.memory_devices import devices_section, read_devices
from llmservingsim.backend.astra_files.text import read_json, write_json
from llmservingsim.backend.config import MEMORY_DEVICES, Dialect, MemoryLevelModel, MemoryModel, MemoryType
from llmservingsim.backend.fields import Fields
from llmservingsim.errors import TraceError, one_of

_ABSENT = "NO_MEMORY_EXPANSION"
_PER_NODE = "PER_NODE_MEMORY_EXPANSION"
_LOCATIONS = {
    "LOCAL_MEMORY": "local",
    "REMOTE_MEMORY": "remote",
    "CXL_MEMORY": "cxl",
    "STORAGE_MEMORY": "storage",
}
_SECTIONS = {"local_mem": "local", "remote_mem": "remote", "cxl_mem": "cxl", "storage_mem": "storage"}
"""The last one is ours, for `MEMORY_DEVICES`."""


def read_memory(path: Path, dialect: Dialect = "astra-sim") -> MemoryModel:
    """Read a memory JSON; latency and bandwidth lose their fractions, as in ASTRA-sim.

    ASTRA-sim's file describes the remote memory. LLMServingSim 2.0's describes one level, with its
    ``memory-location``, or the levels ``local_mem``, ``remote_mem`` and ``cxl_mem``; there devices queue, not nodes.
    A section of that file may also be of the type ``MEMORY_DEVICES``, which is ours.

    Raises:
        TraceError: Naming the file and the key, if one is missing or wrong.
    """
    fields = read_json(path)
    if dialect == "astra-sim":
        return MemoryModel(remote=_read_remote(fields))
    sections = {level: fields.section(key) for key, level in _SECTIONS.items() if key in fields}
    if not sections:
        sections = {_LOCATIONS[fields.text("memory-location", "REMOTE_MEMORY", _LOCATIONS)]: fields}
    return MemoryModel(**{level: _read_level(section) for level, section in sections.items()})


def _read_remote(fields: Fields) -> MemoryLevelModel:
    kind = _kind(fields)
    if kind == _ABSENT:
        return MemoryLevelModel()
    npus_per_node = 1
    if kind == _PER_NODE:
        npus_per_node = fields.integer("num-npus-per-node", None)
        fields.require("num-npus-per-node", npus_per_node > 0, "a positive integer")
    latency_ns = _truncated(fields, "remote-mem-latency")
    return MemoryLevelModel(kind, latency_ns, float(_truncated(fields, "remote-mem-bw")), npus_per_node)


def _read_level(fields: Fields) -> MemoryLevelModel:
    if fields.word("memory-type", None) == MEMORY_DEVICES:
        return read_devices(fields)
    kind = _kind(fields)
    if kind == _ABSENT:
        return MemoryLevelModel()
    devices, channels = fields.integer("num-devices", 1), fields.integer("pim-channels", 0)
    fields.require("num-devices", devices > 0, "a positive integer")
    fields.require("pim-channels", channels >= 0, "an integer that is not negative")
    return MemoryLevelModel(
        kind,
        latency_ns=_truncated(fields, "mem-latency"),
        bandwidth_gbps=float(_truncated(fields, "mem-bw")),
        num_devices=devices,
        pim_channels=channels,
        queues_per_device=True,
    )


def _kind(fields: Fields) -> MemoryType:
    return cast("MemoryType", fields.text("memory-type", None, get_args(MemoryType)))


def _truncated(fields: Fields, key: str) -> int:
    return fields.truncated(key, None)


def write_memory(path: Path, memory: MemoryModel, npus: int, dialect: Dialect = "astra-sim") -> None:
    """Write a memory JSON that `read_memory` reads as the same memory.

    Args:
        path: The file.
        memory: What to write.
        npus: Ranks of the system, which ``num-nodes`` counts.
        dialect: Whose file it is.

    Raises:
        TraceError: If ASTRA-sim has no such memory, would drop a fraction of its bandwidth, or has no key for it.
    """
    content = _remote(path, memory, npus) if dialect == "astra-sim" else _levels(path, memory)
    write_json(path, content)


def _check_type(path: Path, level: MemoryLevelModel) -> None:
    if level.type not in get_args(MemoryType):
        raise TraceError(f"{path}: ASTRA-sim has no memory-type {level.type!r}; it has {one_of(get_args(MemoryType))}")


def _remote(path: Path, memory: MemoryModel, npus: int) -> dict[str, Any]:
    level = memory.remote
    _check_type(path, level)
    content: dict[str, Any] = {"memory-type": level.type}
    if level.type != _ABSENT:
        content |= {
            "remote-mem-latency": level.latency_ns,
            "remote-mem-bw": _whole(path, "remote-mem-bw", level.bandwidth_gbps),
        }
    if level.type == _PER_NODE:
        content |= {"num-nodes": -(-npus // level.npus_per_node), "num-npus-per-node": level.npus_per_node}
    plain = MemoryLevelModel(level.type, level.latency_ns, level.bandwidth_gbps, level.npus_per_node)
    if memory != MemoryModel(remote=plain):
        raise TraceError(
            f"{path}: ASTRA-sim's file holds one remote memory without devices; the dialect llmservingsim has the rest"
        )
    return content


def _levels(path: Path, memory: MemoryModel) -> dict[str, Any]:
    if memory.storage.type not in (_ABSENT, MEMORY_DEVICES):
        raise TraceError(f"{path}: LLMServingSim 2.0's file has no key for storage beside other levels")
    return {
        key: _section(path, key, level)
        for key, name in _SECTIONS.items()
        if (level := getattr(memory, name)).type != _ABSENT
    } or {"memory-type": _ABSENT}


def _section(path: Path, key: str, level: MemoryLevelModel) -> dict[str, Any]:
    if level.type == MEMORY_DEVICES:
        return devices_section(path, level)
    _check_type(path, level)
    if not level.queues_per_device:
        raise TraceError(f"{path}: {key}: LLMServingSim 2.0's memories queue per device; expected queues_per_device")
    return {
        "memory-type": level.type,
        "mem-latency": level.latency_ns,
        "mem-bw": _whole(path, f"{key}.mem-bw", level.bandwidth_gbps),
        "num-devices": level.num_devices,
        "pim-channels": level.pim_channels,
    }


def _whole(path: Path, key: str, bandwidth_gbps: float) -> int:
    if bandwidth_gbps != int(bandwidth_gbps):
        raise TraceError(f"{path}: {key}: {bandwidth_gbps} GB/s is not a whole number, which ASTRA-sim needs")
    return int(bandwidth_gbps)
