"""System layer JSON."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

from llmservingsim.backend.astra_files.programs import read_program, write_program
from llmservingsim.backend.astra_files.text import read_json, read_yaml, write_json
from llmservingsim.backend.collectives import COLLECTIVES
from llmservingsim.backend.config import (
    CollectiveName,
    Dialect,
    Optimization,
    Policy,
    SharedBusModel,
    SystemModel,
)
from llmservingsim.backend.fields import Fields
from llmservingsim.errors import TraceError

_ALGORITHMS = ("ring", "oneRing", "direct", "oneDirect", "halvingDoubling", "oneHalvingDoubling", "doubleBinaryTree")
_ALGORITHM = re.compile(rf"(?:{'|'.join(_ALGORITHMS)}|(?:direct|oneDirect)\d{{1,5}}|[\w.]+:\w+)")
_CUSTOM_SUFFIX: Mapping[Dialect, str] = {"astra-sim": "-custom", "llmservingsim": "-chakra"}
_MOST_SPLITS = 2**16
"""As in a run's configuration: 8 ranks take two seconds and 150 MB for a collective of that many chunks. With
2^24, which the backend could count, it would be ten minutes and 40 GB."""
_PER_NODE = "per-node-custom-implementation"


def read_system(path: Path, injection_scale: float = 1.0, dialect: Dialect = "astra-sim") -> SystemModel:
    """Read a system JSON; keys that ASTRA-sim ignores are ignored, absent ones get its defaults.

    Files that it names are found as ASTRA-sim does: from the working directory.

    Args:
        path: The file.
        injection_scale: Multiplies the endpoint delay if the file gives one.
        dialect: Whose file it is; LLMServingSim 2.0 calls custom collectives ``...-implementation-chakra``.

    Raises:
        TraceError: Naming the file and the key, if one is wrong, or a trace that one names.
    """
    fields = read_json(path)
    sets = _program_sets(fields, dialect)
    model = SystemModel(
        preferred_dataset_splits=_splits(fields),
        active_chunks_per_dimension=_positive(fields, "active-chunks-per-dimension"),
        scheduling_policy=cast("Policy", fields.text("scheduling-policy", "LIFO", get_args(Policy))),
        collective_optimization=cast(
            "Optimization", fields.text("collective-optimization", "baseline", get_args(Optimization))
        ),
        endpoint_delay_ns=_endpoint_delay_ns(fields, injection_scale),
        local_mem_bw_gbps=_not_negative(fields, "local-mem-bw"),
        peak_perf_tflops=_not_negative(fields, "peak-perf"),
        roofline_enabled=fields.flag("roofline-enabled"),
        replay_only=fields.flag("replay-only"),
        local_reduction_delay_ns=fields.truncated("local-reduction-delay", 1),
        shared_bus=_shared_bus(fields),
        dialect=dialect,
        all_reduce=_implementation(fields, "all_reduce"),
        all_gather=_implementation(fields, "all_gather"),
        reduce_scatter=_implementation(fields, "reduce_scatter"),
        all_to_all=_implementation(fields, "all_to_all"),
        programs=tuple(read_program(Path(prefix), dialect) for prefix in sets),
        custom={name: sets.index(prefix) for name, prefix in _custom(fields, dialect).items()},
    )
    if model.roofline_enabled:
        for key, value in (("peak-perf", model.peak_perf_tflops), ("local-mem-bw", model.local_mem_bw_gbps)):
            fields.require(key, value > 0, "a positive number, which roofline-enabled needs")
    return model


def read_programs_by_node(path: Path, dialect: Dialect = "astra-sim") -> dict[int, int]:
    """Return node id -> index in `SystemModel.programs`, as ``per-node-custom-implementation`` has it.

    The index is for the programs that `read_system` reads from the same file.

    Raises:
        TraceError: Naming the file and the key, if one is wrong.
    """
    fields = read_json(path)
    sets = _program_sets(fields, dialect)
    return {node: sets.index(prefix) for node, prefix in _by_node(fields).items()}


def read_tensor_tracking(path: Path) -> str | None:
    """Return what the files of tensor lifetimes are called, ``<name>.<rank>.json``; None if none are wanted.

    Raises:
        TraceError: Naming the file and the key, if one is wrong.
    """
    fields = read_json(path)
    name = fields.word("local-mem-trace-filename", "local_mem_trace")
    return name if fields.flag("track-local-mem") else None


def _key(name: CollectiveName) -> str:
    return f"{name.replace('_', '-')}-implementation"


def _positive(fields: Fields, key: str) -> int:
    value = fields.integer(key, 1)
    fields.require(key, value > 0, "a positive integer")
    return value


def _splits(fields: Fields) -> int:
    """Return the chunks of a collective, of which a backend holds every rank's at once."""
    splits = _positive(fields, "preferred-dataset-splits")
    fields.require("preferred-dataset-splits", splits <= _MOST_SPLITS, f"at most {_MOST_SPLITS} chunks")
    return splits


def _not_negative(fields: Fields, key: str, default: float = 0) -> float:
    value = float(fields.number(key, default))
    fields.require(key, value >= 0, "a number that is not negative")
    return value


def _endpoint_delay_ns(fields: Fields, injection_scale: float) -> int:
    delay_ns = fields.truncated("endpoint-delay", 10)
    if "endpoint-delay" not in fields:
        return delay_ns
    scaled_ns = delay_ns * injection_scale
    fields.require(
        "endpoint-delay", 0 <= scaled_ns < 2**63, f"a delay that injection scale {injection_scale} can scale"
    )
    return int(scaled_ns)


def _shared_bus(fields: Fields) -> SharedBusModel | None:
    """Return the bus; its integers lose their fractions and G passes through binary32, as in ASTRA-sim."""
    if not fields.flag("model-shared-bus"):
        return None
    gap_per_byte = _not_negative(fields, "G")
    fields.require("G", gap_per_byte < 2**127, "a number that binary32 can hold")
    return SharedBusModel(
        L=fields.truncated("L", 0),
        o=fields.truncated("o", 0),
        g=fields.truncated("g", 0),
        G=struct.unpack("f", struct.pack("f", gap_per_byte))[0],
    )


def _implementation(fields: Fields, collective: CollectiveName) -> list[str]:
    key = _key(collective)
    if key not in fields:
        return []
    names = [str(name) for name in fields.one_or_more(key, str)]
    for name in names:
        if not _ALGORITHM.fullmatch(name):
            fields.choice(key, name, (*_ALGORITHMS, "direct<W>", "oneDirect<W>", "package.module:Class"))
    return names


def _custom(fields: Fields, dialect: Dialect) -> dict[CollectiveName, str]:
    """Return collective -> prefix of the traces that spell it out."""
    custom: dict[CollectiveName, str] = {}
    for name in COLLECTIVES:
        key = _key(name) + _CUSTOM_SUFFIX[dialect]
        if key in fields and not (dialect == "llmservingsim" and name == "reduce_scatter"):
            prefixes = fields.one_or_more(key, str)
            fields.require(key, len(prefixes) == 1, "a list of one path prefix")
            custom[name] = str(prefixes[0])
    return custom


def _by_node(fields: Fields) -> dict[int, str]:
    """Return node id -> prefix of the traces that spell this collective out."""
    if _PER_NODE not in fields:
        return {}
    entries = read_yaml(Path(fields.word(_PER_NODE, None)))
    for key in entries:
        entries.require(key, key.isdecimal() and len(key) <= 20, "the id of a node as the key")
    return {int(key): entries.word(key, None) for key in entries}


def _program_sets(fields: Fields, dialect: Dialect) -> list[str]:
    """Return the prefixes in the order of `SystemModel.programs`, each once."""
    return list(dict.fromkeys([*_custom(fields, dialect).values(), *_by_node(fields).values()]))


def write_system(path: Path, system: SystemModel, programs_by_node: Mapping[int, int] | None = None) -> None:
    """Write a system JSON that `read_system` reads as the same system, in its dialect.

    Programs are written beside it as Chakra traces, ``<stem>.program<i>.<place>.et``. What ASTRA-sim's command line
    sets (``num_queues_per_dim``, ``rendezvous``) and what it does not have (``zero_duration_ns``, ``parity``,
    ``measured``, ``record_nodes``) has no key.

    Args:
        path: The file.
        system: What to write.
        programs_by_node: As `read_programs_by_node` returns it; written as ``<stem>.programs.yml``.

    Raises:
        TraceError: If a program's step has no Chakra node.
    """
    content: dict[str, Any] = {
        "scheduling-policy": system.scheduling_policy,
        "collective-optimization": system.collective_optimization,
        "endpoint-delay": system.endpoint_delay_ns,
        "active-chunks-per-dimension": system.active_chunks_per_dimension,
        "preferred-dataset-splits": system.preferred_dataset_splits,
        "local-mem-bw": system.local_mem_bw_gbps,
    }
    for name in COLLECTIVES:
        if names := getattr(system, name):
            content[_key(name)] = names
    content |= _optional_keys(system) | _write_programs(path, system, programs_by_node or {})
    write_json(path, content)


def _optional_keys(system: SystemModel) -> dict[str, Any]:
    """Return the keys of what is off, or has its default, in most systems."""
    content: dict[str, Any] = {}
    if system.peak_perf_tflops:
        content["peak-perf"] = system.peak_perf_tflops
    if system.roofline_enabled:
        content["roofline-enabled"] = 1
    if system.replay_only:
        content["replay-only"] = 1
    if system.local_reduction_delay_ns != 1:
        content["local-reduction-delay"] = system.local_reduction_delay_ns
    if bus := system.shared_bus:
        content |= {"model-shared-bus": 1, "L": bus.L, "o": bus.o, "g": bus.g, "G": bus.G}
    return content


def _write_programs(path: Path, system: SystemModel, by_node: Mapping[int, int]) -> dict[str, Any]:
    """Write the programs that something uses; return the keys that name them."""
    prefixes: dict[int, str] = {}
    for i in sorted({*system.custom.values(), *by_node.values()}):
        prefix = path.with_name(f"{path.stem}.program{i}")
        write_program(prefix, system.programs[i], system.dialect)
        prefixes[i] = str(prefix)
    if system.dialect == "llmservingsim" and "reduce_scatter" in system.custom:
        raise TraceError(f"{path}: LLMServingSim 2.0 has no key for a custom reduce-scatter")
    suffix = _CUSTOM_SUFFIX[system.dialect]
    content: dict[str, Any] = {_key(name) + suffix: [prefixes[i]] for name, i in system.custom.items()}
    if by_node:
        listing = path.with_name(f"{path.stem}.programs.yml")
        listing.write_text("".join(f"{node}: {prefixes[i]}\n" for node, i in sorted(by_node.items())), encoding="utf-8")
        content[_PER_NODE] = str(listing)
    return content
