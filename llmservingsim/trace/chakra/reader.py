"""Chakra traces from disk as one graph."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import TraceError, nearest, one_of
from llmservingsim.graph import Graph
from llmservingsim.trace.chakra import schema
from llmservingsim.trace.chakra.fields import INT64_MAX, NodeInterpreter, Reading, Row
from llmservingsim.trace.chakra.records import split
from llmservingsim.trace.chakra.schema import RawNode

_DTYPES = {
    "type": np.uint8,
    "is_cpu_op": np.bool_,
    "duration_ns": np.int64,
    "size_bytes": np.int64,
    "collective": np.uint8,
    "peer": np.int32,
    "tag": np.int32,
    "location": np.uint8,
    "group": np.int32,
    "involved_dims": np.uint32,
    "priority": np.int32,
    "num_ops": np.int64,
    "device": np.int32,
    "channel": np.int32,
    "program": np.int32,
}


_BATCH = 4096
"""Records parsed at once: enough to be quick, and far below the 2 GB that protobuf allows."""

NodeParser = Callable[[Sequence[bytes]], Sequence[RawNode]]


class _Trace(NamedTuple):
    """One rank's file; dependencies are indices into it, in rows of the given lengths."""

    names: list[str]
    columns: dict[str, NDArray[Any]]
    data_lengths: NDArray[np.int64]
    data_deps: NDArray[np.int64]
    ctrl_lengths: NDArray[np.int64]
    ctrl_deps: NDArray[np.int64]


def read_traces(
    prefix: Path,
    *,
    ranks: int | None = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    dialect: str = schema.MLCOMMONS,
    dimensions: int | None = None,
    exact_durations: bool = True,
) -> Graph:
    """Read ``<prefix>.0.et``, ``<prefix>.1.et`` ... as one expanded graph.

    Rank class ``i`` of the graph is rank ``i``; the nodes of a rank stand in ascending order of their ids, which is the
    order in which ASTRA-sim issues them. A node's duration is its attribute ``llmservingsim.duration_ns`` if it has
    one, else its field ``duration_micros``.

    Args:
        prefix: Where the traces are.
        ranks: How many ranks to read, or None to read until a file is missing.
        groups: Communicator groups, id -> ranks in ring order, for collectives that name one in ``pg_name``. They
            become `Graph.groups` in the order of their ids.
        dialect: ``mlcommons``, or ``llmservingsim2`` for the node types of LLMServingSim 2.0, its durations in
            nanoseconds, control dependencies that do not count, and at most one group per rank, used by all its
            collectives.
        dimensions: Dimensions of the network: how many flags of ``involved_dim`` count, or None for all.
        exact_durations: Whether ``llmservingsim.duration_ns`` counts; a stock ASTRA-sim reads only the field.

    Raises:
        TraceError: A file is missing or malformed, or holds what a graph cannot.
    """
    if dialect not in schema.NODE_TYPES:
        raise TraceError(
            f"unknown Chakra dialect {dialect!r}; expected one of {one_of(schema.NODE_TYPES)}"
            f"{nearest(dialect, schema.NODE_TYPES)}"
        )
    if groups and min(groups) < 1:
        raise TraceError(f"communicator group id {min(groups)} is not allowed; expected a positive integer")
    reading = Reading(dialect, groups, dimensions, exact_durations)
    parse, decode = schema.raw_node_parser(), schema.attribute_decoder()
    traces = []
    for rank, path in enumerate(_files(prefix, ranks)):
        traces.append(_read_trace(path, parse, NodeInterpreter(path, rank, reading, decode), reading))
    return _join(traces, tuple(tuple(ranks) for _, ranks in sorted((groups or {}).items())))


def _files(prefix: Path, ranks: int | None) -> list[Path]:
    """Return the files of ranks 0, 1, ...; raise if one of them is not there."""
    files: list[Path] = []
    while ranks is None or len(files) < ranks:
        path = prefix.with_name(f"{prefix.name}.{len(files)}.et")
        if not path.is_file():
            if ranks is None and files:
                break
            raise TraceError(f"{path}: no such trace; expected {prefix}.<rank>.et for every rank from 0{_nearby(path)}")
        files.append(path)
    return files


def _nearby(path: Path) -> str:
    """Name the traces closest to ``path``, for a message."""
    if not path.parent.is_dir():
        return f" (there is no directory {path.parent})"
    there = [p.name for p in path.parent.glob("*.et")]
    close = difflib.get_close_matches(path.name, there, n=3, cutoff=0.0)
    return f" (nearest there: {', '.join(close)})" if close else f" (there is no .et file in {path.parent})"


def _read_trace(path: Path, parse: NodeParser, interpreter: NodeInterpreter, reading: Reading) -> _Trace:
    nodes = _parse(path, parse)
    ids = np.array([n.id for n in nodes], dtype=np.uint64)
    _check_unique(ids, path)
    no_deps: list[Sequence[int]] = [()] * len(nodes)
    ctrl = no_deps if reading.dialect == schema.LLMSERVINGSIM2 else [n.ctrl_deps for n in nodes]
    data_lengths, data_deps = _dependencies([n.data_deps for n in nodes], ids, path)
    ctrl_lengths, ctrl_deps = _dependencies(ctrl, ids, path)
    idle = not nodes and reading.dialect == schema.LLMSERVINGSIM2  # ranks there may have nothing to do
    if not idle and not np.any(data_lengths + ctrl_lengths == 0):
        raise TraceError(f"{path}: none of {len(nodes)} nodes can begin; expected at least one without a dependency")
    columns = _columns(nodes, interpreter)
    micros = [n.duration_micros for n in nodes]
    scale = 1 if reading.dialect == schema.LLMSERVINGSIM2 else 1000
    exact_ns = columns["duration_ns"] if reading.exact_durations else np.full(len(nodes), -1)
    columns["duration_ns"] = _durations(exact_ns, micros, scale, path)
    return _Trace([n.name for n in nodes], columns, data_lengths, data_deps, ctrl_lengths, ctrl_deps)


def _parse(path: Path, parse: NodeParser) -> list[RawNode]:
    """Return the nodes of a file in ascending order of their ids."""
    from google.protobuf.message import DecodeError

    records = split(path.read_bytes(), path)[1:]
    nodes: list[RawNode] = []
    try:
        for first in range(0, len(records), _BATCH):
            nodes.extend(parse(records[first : first + _BATCH]))
    except DecodeError:
        for i in range(len(nodes), len(records)):
            try:
                parse(records[i : i + 1])
            except DecodeError as error:
                raise TraceError(f"{path}: record {i + 2} is no Chakra Node: {error}") from error
        raise
    nodes.sort(key=lambda n: n.id)
    return nodes


def _check_unique(ids: NDArray[np.uint64], path: Path) -> None:
    """Raise if two of the sorted ids are equal."""
    repeated = ids[1:][ids[1:] == ids[:-1]]
    if repeated.size:
        raise TraceError(f"{path}: node {repeated[0]} is defined twice; expected every id once")


def _dependencies(
    rows: Sequence[Sequence[int]], ids: NDArray[np.uint64], path: Path
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Turn ids into indices; return the rows' lengths and the indices."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    wanted = np.array(list(chain.from_iterable(rows)), dtype=np.uint64)
    found = np.searchsorted(ids, wanted)
    defined = found < len(ids)
    defined[defined] = ids[found[defined]] == wanted[defined]
    if not defined.all():
        first = int(np.argmin(defined))
        node = ids[int(np.searchsorted(np.cumsum(lengths), first, side="right"))]
        raise TraceError(f"{path}: node {node} depends on node {wanted[first]}; expected the id of a node of this file")
    return lengths, found.astype(np.int64)


def _columns(nodes: Sequence[RawNode], interpreter: NodeInterpreter) -> dict[str, NDArray[Any]]:
    """Return the fixed-size columns; nodes of equal type and attributes are interpreted once."""
    seen: dict[tuple[object, ...], int] = {}
    distinct: list[Row] = []
    which: list[int] = []
    for node in nodes:
        key = (node.type, *node.attr)
        index = seen.get(key)
        if index is None:
            index = seen[key] = len(distinct)
            distinct.append(interpreter.row(node))
        which.append(index)
    take = np.array(which, dtype=np.intp)
    return {
        name: np.array([row[i] for row in distinct], dtype=_DTYPES[name])[take] for i, name in enumerate(Row._fields)
    }


def _durations(exact_ns: NDArray[np.int64], field: list[int], scale: int, path: Path) -> NDArray[np.int64]:
    """Return the exact durations where there are some, elsewhere the field's times ``scale``."""
    micros = np.where(exact_ns >= 0, np.uint64(0), np.array(field, dtype=np.uint64))
    limit = INT64_MAX // scale
    if micros.max(initial=0) > limit:
        raise TraceError(f"{path}: duration_micros {micros.max()} is too long; expected at most {limit}")
    return np.where(exact_ns >= 0, exact_ns, micros.astype(np.int64) * scale)


def _join(traces: Sequence[_Trace], groups: tuple[tuple[int, ...], ...]) -> Graph:
    """Put the traces of all ranks one behind the other."""
    sizes = [len(t.names) for t in traces]
    starts = np.cumsum([0, *sizes[:-1]])
    columns = {name: np.concatenate([t.columns[name] for t in traces]) for name in _DTYPES}
    return Graph(
        names=tuple(chain.from_iterable(t.names for t in traces)),
        rank_class=np.repeat(np.arange(len(traces), dtype=np.int32), sizes),
        **columns,
        data_offsets=_offsets([t.data_lengths for t in traces]),
        data_deps=_shifted([t.data_deps for t in traces], starts),
        ctrl_offsets=_offsets([t.ctrl_lengths for t in traces]),
        ctrl_deps=_shifted([t.ctrl_deps for t in traces], starts),
        rank_classes=tuple((rank,) for rank in range(len(traces))),
        groups=groups,
    )


def _offsets(lengths: Sequence[NDArray[np.int64]]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int32)


def _shifted(indices: Sequence[NDArray[np.int64]], starts: NDArray[np.int64]) -> NDArray[np.int32]:
    return np.concatenate([i + start for i, start in zip(indices, starts, strict=True)]).astype(np.int32)
