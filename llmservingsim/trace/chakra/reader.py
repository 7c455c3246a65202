"""Chakra traces from disk as one graph."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import TraceError, cut, nearest, one_of, shown
from llmservingsim.graph import Graph, NodeType
from llmservingsim.trace.chakra import schema
from llmservingsim.trace.chakra.fields import INT64_MAX, Groups, NodeInterpreter, Reading, Row
from llmservingsim.trace.chakra.process_groups import read_process_groups
from llmservingsim.trace.chakra.records import split, trace_file
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


@dataclass(slots=True)
class _Dependencies:
    """One kind of dependencies: how many each node has, and the indices of the nodes they name."""

    lengths: list[int] = field(default_factory=list)
    indices: list[NDArray[np.int64]] = field(default_factory=list)

    def offsets(self) -> NDArray[np.int32]:
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)]).astype(np.int32)

    def values(self) -> NDArray[np.int32]:
        return np.concatenate([np.empty(0, np.int64), *self.indices]).astype(np.int32)


@dataclass(slots=True)
class _Nodes:
    """What the files hold, those of all ranks one behind the other; `rows` and `which` share equal nodes."""

    names: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    which: list[int] = field(default_factory=list)
    micros: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    data: _Dependencies = field(default_factory=_Dependencies)
    ctrl: _Dependencies = field(default_factory=_Dependencies)


def read_traces(
    prefix: Path,
    *,
    ranks: int | None = None,
    groups: Mapping[int, Sequence[int]] | None = None,
    dialect: str = schema.MLCOMMONS,
    roofline: bool = False,
    programs_by_node: Mapping[int, int] | None = None,
) -> Graph:
    """Read ``<prefix>.0.et``, ``<prefix>.1.et`` ... as one expanded graph.

    Rank class ``i`` of the graph is rank ``i``; the nodes of a rank stand in ascending order of their ids, which is the
    order in which ASTRA-sim issues them. A node's duration is its attribute ``llmservingsim.duration_ns`` if it has
    one, else its field ``duration_micros``. Only the dimensions whose flag in ``involved_dim`` is given and true take
    part in a collective; without the attribute all do.

    Args:
        prefix: Where the traces are.
        ranks: How many ranks to read, or None to read until a file is missing.
        groups: Communicator groups, id -> ranks in ring order, for collectives that name one in ``pg_name``. They
            become `Graph.groups` in the order of their ids; groups that METADATA nodes of PyTorch traces define, and
            that a collective names, stand behind them.
        dialect: ``mlcommons``, or ``llmservingsim2`` for the node types of LLMServingSim 2.0, its durations in
            nanoseconds, control dependencies that do not count, and at most one group per rank, used by all its
            collectives.
        roofline: COMP nodes of the accelerator must have ``num_ops`` and ``tensor_size``, which time them.
        programs_by_node: Id of a collective in the files -> `Node.program`.

    Raises:
        TraceError: A file is missing or malformed, or holds what a graph cannot.
    """
    if dialect not in schema.NODE_TYPES:
        raise TraceError(
            f"unknown Chakra dialect {dialect!r}; expected one of {one_of(schema.NODE_TYPES)}"
            f"{nearest(dialect, schema.NODE_TYPES)}"
        )
    reading = Reading(dialect, Groups(groups), roofline)
    decode = schema.attribute_decoder()
    nodes = _Nodes()
    for rank, path in enumerate(_files(prefix, ranks)):
        _read_trace(parse_file(path), nodes, NodeInterpreter(path, rank, reading, decode))
    columns = _columns(nodes, 1 if reading.is_fork else 1000, prefix)
    if programs_by_node:
        columns["program"] = _programs(nodes, columns["type"], programs_by_node, prefix)
    return Graph(
        names=tuple(nodes.names),
        rank_class=np.repeat(np.arange(len(nodes.sizes), dtype=np.int32), nodes.sizes),
        **columns,
        data_offsets=nodes.data.offsets(),
        data_deps=nodes.data.values(),
        ctrl_offsets=nodes.ctrl.offsets(),
        ctrl_deps=nodes.ctrl.values(),
        rank_classes=tuple((rank,) for rank in range(len(nodes.sizes))),
        groups=reading.groups.members,
    )


def _files(prefix: Path, ranks: int | None) -> list[Path]:
    """Return the files of ranks 0, 1, ...; raise if one of them is not there."""
    files: list[Path] = []
    while ranks is None or len(files) < ranks:
        path = trace_file(prefix, len(files))
        if not _is_there(path):
            if ranks is None and files:
                break
            raise TraceError(f"{path}: no such trace; expected {prefix}.<rank>.et for every rank from 0{_nearby(path)}")
        files.append(path)
    return files


def _is_there(path: Path) -> bool:
    """Return whether a file is there. Raises TraceError where the system has no answer, to a name too long say."""
    try:
        return path.is_file()
    except OSError as error:
        raise TraceError(f"{cut(str(path))}: cannot be read: {error.strerror}") from error


def _nearby(path: Path) -> str:
    """Name the traces closest to ``path``, for a message."""
    if not path.parent.is_dir():
        return f" (there is no directory {path.parent})"
    there = [p.name for p in path.parent.glob("*.et")]
    close = difflib.get_close_matches(path.name, there, n=3, cutoff=0.0)
    return f" (nearest there: {', '.join(close)})" if close else f" (there is no .et file in {path.parent})"


def _read_trace(nodes: Sequence[RawNode], to: _Nodes, interpreter: NodeInterpreter) -> None:
    """Append one rank's nodes, which are in ascending order of their ids."""
    reading, path = interpreter.reading, interpreter.path
    ids = [n.id for n in nodes]
    if len(set(ids)) < len(ids):
        repeated = next(a for a, b in pairwise(ids) if a == b)
        raise TraceError(f"{path}: node {repeated} is defined twice; expected every id once")
    _append_dependencies(to.data, [n.data_deps for n in nodes], ids, len(to.ids), path)
    ctrl = [()] * len(nodes) if reading.is_fork else [n.ctrl_deps for n in nodes]
    _append_dependencies(to.ctrl, ctrl, ids, len(to.ids), path)
    idle = not nodes and reading.is_fork  # ranks there may have nothing to do
    waits = zip(to.data.lengths[len(to.ids) :], to.ctrl.lengths[len(to.ids) :], strict=True)
    if not idle and (0, 0) not in waits:
        raise TraceError(f"{path}: none of {len(nodes)} nodes can begin; expected at least one without a dependency")
    interpreter.own_groups = read_process_groups(nodes, path)
    _append_rows(nodes, to, interpreter)
    to.names += [n.name for n in nodes]
    to.micros += [n.duration_micros for n in nodes]
    to.ids += ids
    to.sizes.append(len(nodes))


def parse_file(path: Path) -> list[RawNode]:
    """Return the nodes of a file in ascending order of their ids. Raises TraceError if it is no trace."""
    from google.protobuf.message import DecodeError

    parse = schema.raw_node_parser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    records = split(content, path)[1:]
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


def _append_dependencies(
    to: _Dependencies, rows: Sequence[Sequence[int]], ids: list[int], first: int, path: Path
) -> None:
    """Turn a rank's ids into indices; ``first`` is that of its first node."""
    lengths = [len(row) for row in rows]
    to.lengths += lengths
    if not any(lengths):
        return
    known = np.array(ids, dtype=np.uint64)
    wanted = np.array(list(chain.from_iterable(rows)), dtype=np.uint64)
    found = np.searchsorted(known, wanted)
    defined = found < len(known)
    defined[defined] = known[found[defined]] == wanted[defined]
    if not defined.all():
        stray = int(np.argmin(defined))
        node = ids[int(np.searchsorted(np.cumsum(lengths), stray, side="right"))]
        raise TraceError(f"{path}: node {node} depends on node {wanted[stray]}; expected the id of a node of this file")
    to.indices.append(found.astype(np.int64) + first)


def _append_rows(nodes: Sequence[RawNode], to: _Nodes, interpreter: NodeInterpreter) -> None:
    """Interpret a rank's nodes; those of equal type and attributes once."""
    seen: dict[tuple[object, ...], int] = {}
    for node in nodes:
        key = (node.type, *node.attr)
        index = seen.get(key)
        if index is None:
            index = seen[key] = len(to.rows)
            to.rows.append(interpreter.row(node))
        to.which.append(index)


def _columns(nodes: _Nodes, scale: int, prefix: Path) -> dict[str, NDArray[Any]]:
    """Return the fixed-size columns; ``scale`` is the nanoseconds in a unit of the field ``duration_micros``."""
    take = np.array(nodes.which, dtype=np.intp)
    transposed = zip(*nodes.rows, strict=True) if nodes.rows else [()] * len(_DTYPES)
    columns: dict[str, NDArray[Any]] = {
        name: np.array(values, dtype=_DTYPES[name])[take] for name, values in zip(Row._fields, transposed, strict=True)
    }
    exact_ns = columns["duration_ns"]
    micros = np.where(exact_ns >= 0, np.uint64(0), np.array(nodes.micros, dtype=np.uint64))
    limit = INT64_MAX // scale
    if micros.max(initial=0) > limit:
        i = int(micros.argmax())
        rank = int(np.searchsorted(np.cumsum(nodes.sizes), i, side="right"))
        raise TraceError(
            f"{trace_file(prefix, rank)}: node {nodes.ids[i]} ({shown(nodes.names[i])}): duration_micros {micros[i]} "
            f"is too long; expected at most {limit}"
        )
    columns["duration_ns"] = np.where(exact_ns >= 0, exact_ns, micros.astype(np.int64) * scale)
    return columns


def _programs(
    nodes: _Nodes, types: NDArray[np.uint8], programs_by_node: Mapping[int, int], prefix: Path
) -> NDArray[np.int32]:
    """Return the column ``program``."""
    is_collective = (types == NodeType.COMM_COLL).tolist()
    column = [
        programs_by_node.get(node, -1) if collective else -1
        for node, collective in zip(nodes.ids, is_collective, strict=True)
    ]
    there = {node for node, collective in zip(nodes.ids, is_collective, strict=True) if collective}
    if strays := set(programs_by_node) - there:
        raise TraceError(f"{prefix}: no rank has a collective with the id {min(strays)}, whose algorithm was given")
    return np.array(column, dtype=np.int32)
