"""ASTRA-sim's own input files, read and written: network YAML, system JSON, memory JSON, communicator groups JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from llmservingsim.backend.config import (
    MemoryLevelModel,
    MemoryModel,
    MemoryType,
    NetworkModel,
    Optimization,
    Policy,
    SystemModel,
    TopologyName,
)
from llmservingsim.backend.fields import Fields
from llmservingsim.errors import TraceError, one_of

_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")

_UNSUPPORTED = ("model-shared-bus", "roofline-enabled", "replay-only", "track-local-mem")


def read_network(path: Path) -> NetworkModel:
    """Read a network YAML.

    Raises:
        TraceError: Naming the file and the key, if one is missing or wrong.
    """
    import yaml

    try:
        content = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise TraceError(f"{path}: not YAML: {error}") from error
    fields = Fields(path, content)
    topology = [str(t) for t in fields.array("topology", str)]
    for name in topology:
        fields.choice("topology", name, get_args(TopologyName))
    model = NetworkModel(
        topology=topology,
        npus_count=[int(n) for n in fields.array("npus_count", int)],
        bandwidth_gbps=[float(b) for b in fields.array("bandwidth", float)],
        latency_ns=[float(n) for n in fields.array("latency", float)],
    )
    lengths = {len(topology), len(model.npus_count), len(model.bandwidth_gbps), len(model.latency_ns)}
    if len(lengths) > 1 or not topology:
        raise TraceError(f"{path}: topology, npus_count, bandwidth and latency must have one entry per dimension each")
    fields.require("npus_count", min(model.npus_count) >= 1, "numbers of at least 1")
    fields.require("bandwidth", min(model.bandwidth_gbps) > 0, "positive numbers")
    fields.require("latency", min(model.latency_ns) >= 0, "numbers that are not negative")
    return model


def read_system(path: Path, injection_scale: float = 1.0) -> SystemModel:
    """Read a system JSON; keys that ASTRA-sim ignores are ignored, absent ones get its defaults.

    Args:
        path: The file.
        injection_scale: Multiplies the endpoint delay if the file gives one.

    Raises:
        TraceError: Naming the file and the key, if one is wrong or asks for what is not supported.
    """
    fields = Fields(path, _json(path))
    for key in _UNSUPPORTED:
        fields.require(key, not fields.number(key, 0), "0 or no such key: it is not supported")
    for key in (*(f"{c}-implementation-custom" for c in _COLLECTIVES), "per-node-custom-implementation"):
        fields.require(key, key not in fields, "no such key: custom collectives are not supported")
    delay = 10
    if "endpoint-delay" in fields:
        delay = int(int(fields.number("endpoint-delay", 10)) * injection_scale)
    model = SystemModel(
        preferred_dataset_splits=fields.integer("preferred-dataset-splits", 1),
        active_chunks_per_dimension=fields.integer("active-chunks-per-dimension", 1),
        scheduling_policy=cast("Policy", fields.text("scheduling-policy", "LIFO", get_args(Policy))),
        collective_optimization=cast(
            "Optimization", fields.text("collective-optimization", "baseline", get_args(Optimization))
        ),
        endpoint_delay_ns=delay,
        local_mem_bw_gbps=float(fields.number("local-mem-bw", 0)),
        all_reduce=_implementation(fields, "all-reduce"),
        all_gather=_implementation(fields, "all-gather"),
        reduce_scatter=_implementation(fields, "reduce-scatter"),
        all_to_all=_implementation(fields, "all-to-all"),
    )
    fields.require("preferred-dataset-splits", model.preferred_dataset_splits > 0, "a positive integer")
    fields.require("active-chunks-per-dimension", model.active_chunks_per_dimension > 0, "a positive integer")
    fields.require("endpoint-delay", delay >= 0, "a number that is not negative")
    fields.require("local-mem-bw", model.local_mem_bw_gbps >= 0, "a number that is not negative")
    return model


def _implementation(fields: Fields, collective: str) -> list[str]:
    key = f"{collective}-implementation"
    return [str(name) for name in fields.array(key, str)] if key in fields else []


def read_memory(path: Path) -> MemoryModel:
    """Read a remote-memory JSON; latency and bandwidth lose their fractions, as in ASTRA-sim.

    Raises:
        TraceError: Naming the file and the key, if one is missing or wrong.
    """
    fields = Fields(path, _json(path))
    kind = cast("MemoryType", fields.text("memory-type", None, get_args(MemoryType)))
    if kind == "NO_MEMORY_EXPANSION":
        return MemoryModel()
    latency = int(fields.number("remote-mem-latency", None))
    bandwidth = int(fields.number("remote-mem-bw", None))
    fields.require("remote-mem-latency", latency >= 0, "a number that is not negative")
    fields.require("remote-mem-bw", bandwidth >= 0, "a number that is not negative")
    npus_per_node = 1
    if kind == "PER_NODE_MEMORY_EXPANSION":
        npus_per_node = fields.integer("num-npus-per-node", None)
        fields.require("num-npus-per-node", npus_per_node > 0, "a positive integer")
    return MemoryModel(remote=MemoryLevelModel(kind, latency, float(bandwidth), npus_per_node))


def read_groups(path: Path) -> dict[int, tuple[int, ...]]:
    """Read a communicator-group JSON as id -> ranks in ring order.

    Raises:
        TraceError: Naming the file and the group, if an id or a rank is wrong.
    """
    fields = Fields(path, _json(path))
    groups: dict[int, tuple[int, ...]] = {}
    for key in fields:
        fields.require(key, key.isdecimal() and int(key) > 0, "a positive integer as the group's id")
        ranks = tuple(int(r) for r in fields.array(key, int))
        fields.require(key, len(ranks) == len(set(ranks)) > 0 and min(ranks) >= 0, "different ranks, at least one")
        groups[int(key)] = ranks
    return groups


def write_network(path: Path, network: NetworkModel) -> None:
    """Write a network YAML that `read_network` and ASTRA-sim read as the same network."""
    rows: dict[str, Sequence[object]] = {
        "topology": network.topology,
        "npus_count": network.npus_count,
        "bandwidth": network.bandwidth_gbps,
        "latency": network.latency_ns,
    }
    lines = [f"{key}: [ {', '.join(str(v) for v in values)} ]\n" for key, values in rows.items()]
    path.write_text("".join(lines), encoding="utf-8")


def write_system(path: Path, system: SystemModel) -> None:
    """Write a system JSON; ``zero_duration_ns`` and ``parity`` have no key there."""
    content: dict[str, Any] = {
        "scheduling-policy": system.scheduling_policy,
        "collective-optimization": system.collective_optimization,
        "endpoint-delay": system.endpoint_delay_ns,
        "active-chunks-per-dimension": system.active_chunks_per_dimension,
        "preferred-dataset-splits": system.preferred_dataset_splits,
        "local-mem-bw": system.local_mem_bw_gbps,
    }
    for collective in _COLLECTIVES:
        if names := getattr(system, collective.replace("-", "_")):
            content[f"{collective}-implementation"] = names
    _write_json(path, content)


def write_memory(path: Path, memory: MemoryModel, npus: int) -> None:
    """Write the remote memory of a system of ``npus`` ranks as a remote-memory JSON.

    Raises:
        TraceError: If ASTRA-sim has no such memory, or would drop a fraction of its bandwidth.
    """
    level = memory.remote
    if level.type not in get_args(MemoryType):
        raise TraceError(f"{path}: ASTRA-sim has no memory-type {level.type!r}; it has {one_of(get_args(MemoryType))}")
    content: dict[str, Any] = {"memory-type": level.type}
    if level.type != "NO_MEMORY_EXPANSION":
        if level.bandwidth_gbps != int(level.bandwidth_gbps):
            raise TraceError(
                f"{path}: remote-mem-bw: {level.bandwidth_gbps} GB/s is not a whole number, which ASTRA-sim needs"
            )
        content |= {"remote-mem-latency": level.latency_ns, "remote-mem-bw": int(level.bandwidth_gbps)}
    if level.type == "PER_NODE_MEMORY_EXPANSION":
        content |= {"num-nodes": -(-npus // level.npus_per_node), "num-npus-per-node": level.npus_per_node}
    _write_json(path, content)


def write_groups(path: Path, groups: Mapping[int, Sequence[int]]) -> None:
    """Write id -> ranks as a communicator-group JSON."""
    _write_json(path, {str(i): list(ranks) for i, ranks in sorted(groups.items())})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: cannot be read: {error}") from error


def _json(path: Path) -> object:
    try:
        return msgspec.json.decode(_text(path))
    except msgspec.DecodeError as error:
        raise TraceError(f"{path}: not JSON: {error}") from error


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
