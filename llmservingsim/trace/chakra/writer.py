"""A graph as Chakra traces, one file per rank, in the members that every feeder of ASTRA-sim reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from llmservingsim.errors import InvariantError
from llmservingsim.graph import ALL_DIMENSIONS, Graph, Node, NodeType
from llmservingsim.trace.chakra import schema
from llmservingsim.trace.chakra.expand import expand
from llmservingsim.trace.chakra.records import frame, trace_file

if TYPE_CHECKING:
    from llmservingsim.trace.chakra import et_def_pb2 as et

_FIRST_ID = 1


def write_traces(
    graph: Graph,
    prefix: Path,
    *,
    network_ranks: int | None = None,
    dimensions: int = 1,
    dialect: str = schema.MLCOMMONS,
) -> list[Path]:
    """Write ``<prefix>.<rank>.et`` for every rank of the graph and return the paths in ascending order of ranks.

    Node ids count from 1 in node order within each file. ``duration_micros`` is the duration rounded to the nearest
    microsecond, and at least 1 when there is a duration; the attribute ``llmservingsim.duration_ns`` keeps it exact.
    A collective over group ``g`` carries ``pg_name`` ``g + 1``, the id that `write_comm_groups` gives the group; one
    over the whole network carries none. `Node.program` is the system's matter and is not written.

    The dialect ``llmservingsim2`` has other node types, durations in nanoseconds, control dependencies written as data
    dependencies, and no ``pg_name``: a rank's collectives use the last group that it is in.

    Args:
        graph: What to write; its rank classes are expanded.
        prefix: Where to write; missing directories are made.
        network_ranks: How many ranks the network has; by default as many as the graph.
        dimensions: How many dimensions the network has; with more than four, collectives say that they use all.
        dialect: ``mlcommons`` or ``llmservingsim2``.

    Raises:
        InvariantError: The graph cannot be expanded (see `expand`), a rank has no node, which no reader accepts, or a
            node is of a type that the dialect lacks, or over a group that it cannot name.
    """
    expanded = expand(graph)
    everyone = set(range(len(expanded.rank_classes) if network_ranks is None else network_ranks))
    names = tuple("" if set(group) == everyone else _group_name(g) for g, group in enumerate(expanded.groups))
    nodes = expanded.nodes()
    starts = np.searchsorted(expanded.rank_class, np.arange(len(expanded.rank_classes) + 1)).tolist()
    recorders = []
    for c, (rank,) in enumerate(expanded.rank_classes):
        if starts[c] == starts[c + 1]:
            raise InvariantError(f"rank {rank} has no node; expected at least one for a trace")
        own_group = max((g for g, ranks in enumerate(expanded.groups) if rank in ranks), default=-1)
        recorder = _Recorder(rank, _FIRST_ID - starts[c], names, own_group, dimensions, dialect)
        recorder.check(nodes[starts[c] : starts[c + 1]])
        recorders.append(recorder)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for c, recorder in enumerate(recorders):
        path = trace_file(prefix, recorder.rank)
        with path.open("wb") as file:
            file.write(frame(_metadata()))
            for i in range(starts[c], starts[c + 1]):
                file.write(frame(recorder.record(nodes[i], i)))
        paths.append(path)
    return paths


def round_durations(graph: Graph) -> Graph:
    """Return the graph with the durations that a stock ASTRA-sim reads from its files: whole microseconds."""
    return replace(graph, duration_ns=_micros(graph.duration_ns) * 1000)


def _micros(duration_ns: Any) -> Any:
    """Round nanoseconds to microseconds, but only nothing to nothing."""
    return np.where(duration_ns > 0, np.maximum(1, duration_ns // 1000 + (duration_ns % 1000 >= 500)), 0)


def write_comm_groups(graph: Graph, path: Path) -> None:
    """Write the graph's groups as ASTRA-sim's communicator-group JSON, id -> ranks in ring order."""
    groups = {_group_name(g): list(ranks) for g, ranks in enumerate(graph.groups)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(groups) + "\n", encoding="utf-8")


def _group_name(group: int) -> str:
    """Return the id of a group in files, where 0 means every rank."""
    return str(group + 1)


def _metadata() -> bytes:
    from llmservingsim.trace.chakra import et_def_pb2 as et

    metadata = et.GlobalMetadata(version=schema.VERSION)
    metadata.attr.add(name="producer", string_val="LLMServingSim")
    metadata.attr.add(name="schema", string_val=f"mlcommons Chakra {schema.VERSION}")
    return metadata.SerializeToString(deterministic=True)


@dataclass(frozen=True, slots=True)
class _Recorder:
    """Turns one rank's nodes into bytes.

    Attributes:
        rank: Which one.
        to_id: Added to an index of the graph it makes an id of the file.
        group_names: What ``pg_name`` says of each group.
        own_group: The group that all collectives of the rank use in the dialect of LLMServingSim 2.0.
        dimensions: Of the network.
        dialect: A key of `schema.NODE_TYPES`.
    """

    rank: int
    to_id: int
    group_names: tuple[str, ...]
    own_group: int
    dimensions: int
    dialect: str

    @property
    def is_fork(self) -> bool:
        return self.dialect == schema.LLMSERVINGSIM2

    def check(self, nodes: Sequence[Node]) -> None:
        """Raise InvariantError if the dialect has no words for a node."""
        types = set(schema.NODE_TYPES[self.dialect].values())
        for node in nodes:
            where = f"rank {self.rank}: node {node.name!r}"
            if node.type not in types:
                raise InvariantError(f"{where} is a {node.type.name}, which the dialect {self.dialect} lacks")
            if self.is_fork and node.type == NodeType.COMM_COLL and node.group != self.own_group:
                raise InvariantError(
                    f"{where} is over group {node.group}; expected {self.own_group}, the last one of the rank, "
                    f"which the dialect {self.dialect} uses for all its collectives"
                )

    def record(self, node: Node, index: int) -> bytes:
        """Return the bytes of the graph's node ``index``."""
        from llmservingsim.trace.chakra import et_def_pb2 as et

        data_deps, ctrl_deps = node.data_deps, node.ctrl_deps
        if self.is_fork:
            data_deps, ctrl_deps = tuple(dict.fromkeys((*data_deps, *ctrl_deps))), ()
        record = et.Node(
            id=index + self.to_id,
            name=node.name,
            type=cast("et.NodeType", _numbers(self.dialect)[node.type]),
            ctrl_deps=[d + self.to_id for d in ctrl_deps],
            data_deps=[d + self.to_id for d in data_deps],
        )
        record.attr.add(name=schema.IS_CPU_OP, bool_val=node.is_cpu_op)
        if node.duration_ns > 0 and self.is_fork:
            record.duration_micros = node.duration_ns
        elif node.duration_ns > 0:
            record.duration_micros = int(_micros(np.int64(node.duration_ns)))
            record.attr.add(name=schema.DURATION_NS, uint64_val=node.duration_ns)
        if node.type == NodeType.COMM_COLL:
            self._add_collective(record, node)
        elif node.type in (NodeType.COMM_SEND, NodeType.COMM_RECV):
            _add_message(record, node, self.rank)
        elif node.type in (NodeType.MEM_LOAD, NodeType.MEM_STORE, NodeType.PIM_COMP):
            self._add_memory(record, node)
        else:
            self._add_compute(record, node)
        return record.SerializeToString(deterministic=True)

    def _add_collective(self, record: et.Node, node: Node) -> None:
        record.attr.add(name=schema.COMM_TYPE, int64_val=node.collective)
        record.attr.add(name=schema.COMM_SIZE, int64_val=node.size_bytes)
        if node.priority:
            record.attr.add(name=schema.COMM_PRIORITY, int32_val=node.priority)
        name = self.group_names[node.group] if node.group >= 0 and not self.is_fork else ""
        if name:
            record.attr.add(name=schema.PG_NAME, string_val=name)
        if node.involved_dims != ALL_DIMENSIONS or self.dimensions > schema.DEFAULT_DIMENSIONS:
            flags = [bool(node.involved_dims >> d & 1) for d in range(node.involved_dims.bit_length())]
            missing = max(self.dimensions, schema.DEFAULT_DIMENSIONS) - len(flags)
            attribute = record.attr.add(name=schema.INVOLVED_DIM)
            attribute.bool_list.values.extend([*flags, *[False] * missing])

    def _add_memory(self, record: et.Node, node: Node) -> None:
        record.attr.add(name=schema.TENSOR_SIZE, uint64_val=node.size_bytes)
        record.attr.add(name=schema.TENSOR_LOC, uint32_val=node.location)
        if node.device or self.is_fork:
            if node.device < 0:
                record.attr.add(name=schema.TENSOR_DEVICE, int32_val=node.device)
            else:
                record.attr.add(name=schema.TENSOR_DEVICE, uint32_val=node.device)
        if node.type == NodeType.PIM_COMP:
            record.attr.add(name=schema.TENSOR_CHANNEL, uint32_val=node.channel)

    def _add_compute(self, record: et.Node, node: Node) -> None:
        if node.num_ops or (self.is_fork and node.type == NodeType.COMP):
            record.attr.add(name=schema.NUM_OPS, int64_val=node.num_ops)
        if node.size_bytes:
            record.attr.add(name=schema.TENSOR_SIZE, uint64_val=node.size_bytes)


@cache
def _numbers(dialect: str) -> dict[NodeType, int]:
    """Node type -> number on disk."""
    return {kind: number for number, kind in schema.NODE_TYPES[dialect].items()}


def _add_message(record: et.Node, node: Node, rank: int) -> None:
    source, destination = (rank, node.peer) if node.type == NodeType.COMM_SEND else (node.peer, rank)
    record.attr.add(name=schema.COMM_SRC, int32_val=source)
    record.attr.add(name=schema.COMM_DST, int32_val=destination)
    record.attr.add(name=schema.COMM_SIZE, int64_val=node.size_bytes)
    record.attr.add(name=schema.COMM_TAG, int32_val=node.tag)
