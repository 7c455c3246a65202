"""A graph as Chakra traces, one file per rank, in the members that every feeder of ASTRA-sim reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llmservingsim.errors import InvariantError
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.trace.chakra import schema
from llmservingsim.trace.chakra.expand import expand
from llmservingsim.trace.chakra.records import frame

if TYPE_CHECKING:
    from llmservingsim.trace.chakra import et_def_pb2 as et

_FIRST_ID = 1


def write_traces(graph: Graph, prefix: Path, *, network_ranks: int | None = None) -> list[Path]:
    """Write ``<prefix>.<rank>.et`` for every rank of the graph and return the paths in ascending order of ranks.

    Node ids count from 1 in node order within each file. ``duration_micros`` is the duration rounded to the nearest
    microsecond, and at least 1 when there is a duration; the attribute ``llmservingsim.duration_ns`` keeps it exact.
    A collective over group ``g`` carries ``pg_name`` ``g + 1``, the id that `write_comm_groups` gives the group; one
    over the whole network carries none.

    Args:
        graph: What to write; its rank classes are expanded.
        prefix: Where to write; missing directories are made.
        network_ranks: How many ranks the network has; by default as many as the graph.

    Raises:
        InvariantError: The graph cannot be expanded (see `expand`), or a rank has no node, which no reader accepts.
    """
    expanded = expand(graph)
    everyone = set(range(len(expanded.rank_classes) if network_ranks is None else network_ranks))
    group_names = ["" if set(group) == everyone else _group_name(g) for g, group in enumerate(expanded.groups)]
    nodes = expanded.nodes()
    starts = np.searchsorted(expanded.rank_class, np.arange(len(expanded.rank_classes) + 1)).tolist()
    for c, (rank,) in enumerate(expanded.rank_classes):
        if starts[c] == starts[c + 1]:
            raise InvariantError(f"rank {rank} has no node; expected at least one for a trace")
    prefix.parent.mkdir(parents=True, exist_ok=True)
    paths = []
    for c, (rank,) in enumerate(expanded.rank_classes):
        path = prefix.with_name(f"{prefix.name}.{rank}.et")
        with path.open("wb") as file:
            file.write(frame(_metadata()))
            for i in range(starts[c], starts[c + 1]):
                file.write(frame(_record(nodes[i], i, _FIRST_ID - starts[c], rank, group_names)))
        paths.append(path)
    return paths


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


def _record(node: Node, index: int, to_id: int, rank: int, group_names: list[str]) -> bytes:
    """Return a node's bytes; ``to_id`` added to an index of the graph makes an id of the file."""
    from llmservingsim.trace.chakra import et_def_pb2 as et

    record = et.Node(
        id=index + to_id,
        name=node.name,
        type=et.NodeType.Name(node.type),
        ctrl_deps=[d + to_id for d in node.ctrl_deps],
        data_deps=[d + to_id for d in node.data_deps],
    )
    record.attr.add(name=schema.IS_CPU_OP, bool_val=node.is_cpu_op)
    if node.duration_ns > 0:
        record.duration_micros = max(1, (node.duration_ns + 500) // 1000)
        record.attr.add(name=schema.DURATION_NS, uint64_val=node.duration_ns)
    if node.type == NodeType.COMM_COLL:
        _add_collective(record, node, group_names)
    elif node.type in (NodeType.COMM_SEND, NodeType.COMM_RECV):
        _add_message(record, node, rank)
    elif node.type in (NodeType.MEM_LOAD, NodeType.MEM_STORE):
        record.attr.add(name=schema.TENSOR_SIZE, uint64_val=node.size_bytes)
        record.attr.add(name=schema.TENSOR_LOC, uint32_val=node.location)
    elif node.size_bytes > 0:
        record.attr.add(name=schema.TENSOR_SIZE, uint64_val=node.size_bytes)
    return record.SerializeToString(deterministic=True)


def _add_collective(record: et.Node, node: Node, group_names: list[str]) -> None:
    record.attr.add(name=schema.COMM_TYPE, int64_val=node.collective)
    record.attr.add(name=schema.COMM_SIZE, int64_val=node.size_bytes)
    name = group_names[node.group] if node.group >= 0 else ""
    if name:
        record.attr.add(name=schema.PG_NAME, string_val=name)


def _add_message(record: et.Node, node: Node, rank: int) -> None:
    source, destination = (rank, node.peer) if node.type == NodeType.COMM_SEND else (node.peer, rank)
    record.attr.add(name=schema.COMM_SRC, int32_val=source)
    record.attr.add(name=schema.COMM_DST, int32_val=destination)
    record.attr.add(name=schema.COMM_SIZE, int64_val=node.size_bytes)
    record.attr.add(name=schema.COMM_TAG, int32_val=node.tag)
