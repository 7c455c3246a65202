"""Rank classes written out: a graph in which every rank has its own nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import InvariantError
from llmservingsim.graph import Graph, NodeType

_PLAIN_COLUMNS = (
    "type",
    "duration_ns",
    "size_bytes",
    "collective",
    "tag",
    "location",
    "group",
    "is_cpu_op",
    "involved_dims",
    "priority",
    "num_ops",
    "device",
    "channel",
    "program",
)


def expand(graph: Graph) -> Graph:
    """Return the graph with one class per rank, ranks in ascending order.

    Every member of a class gets a copy of the class's nodes, in their order. Groups hold ranks and stay as they are.
    A send or receive of a class is written for the class's first member; member ``j`` exchanges with the rank ``j``
    positions further in the peer's class (around its end), so pairs of classes meet member by member.

    Raises:
        InvariantError: A rank is in two classes, a dependency leaves its class, a collective's group lacks a member
            of its class, or a class exchanges with one of another size.
    """
    seats = _seats(graph)
    order = sorted(seats)
    of_class = [np.flatnonzero(graph.rank_class == c) for c in range(len(graph.rank_classes))]
    sources = [of_class[seats[rank][0]] for rank in order]
    sizes = [len(source) for source in sources]
    starts = np.cumsum([0, *sizes])[:-1]
    source = _concatenate(sources)
    _check_groups(graph)
    data_offsets, data_deps = _dependencies(graph, (graph.data_offsets, graph.data_deps), sources, starts)
    ctrl_offsets, ctrl_deps = _dependencies(graph, (graph.ctrl_offsets, graph.ctrl_deps), sources, starts)
    columns: dict[str, Any] = {name: getattr(graph, name)[source] for name in _PLAIN_COLUMNS}
    return Graph(
        names=tuple(graph.names[i] for i in source.tolist()),
        rank_class=np.repeat(np.arange(len(order), dtype=np.int32), sizes),
        peer=_concatenate([_peers(graph, of_class[seats[r][0]], seats, r) for r in order]).astype(np.int32),
        **columns,
        data_offsets=data_offsets,
        data_deps=data_deps,
        ctrl_offsets=ctrl_offsets,
        ctrl_deps=ctrl_deps,
        rank_classes=tuple((rank,) for rank in order),
        groups=graph.groups,
    )


def _seats(graph: Graph) -> dict[int, tuple[int, int]]:
    """Return rank -> (class, position in the class)."""
    seats: dict[int, tuple[int, int]] = {}
    for c, members in enumerate(graph.rank_classes):
        for position, rank in enumerate(members):
            if rank in seats:
                raise InvariantError(f"rank {rank} is in rank classes {seats[rank][0]} and {c}; expected one")
            seats[rank] = (c, position)
    return seats


def _check_groups(graph: Graph) -> None:
    """Raise if a collective's group lacks a rank that takes part in it."""
    grouped = (graph.type == NodeType.COMM_COLL) & (graph.group >= 0)
    pairs = np.unique(np.stack([graph.rank_class[grouped], graph.group[grouped]], axis=1), axis=0)
    for c, group in pairs.tolist():
        outside = set(graph.rank_classes[c]) - set(graph.groups[group])
        if outside:
            raise InvariantError(
                f"rank class {c} has a collective over group {group} {graph.groups[group]}, which lacks rank "
                f"{min(outside)} of the class {graph.rank_classes[c]}"
            )


def _peers(graph: Graph, nodes: NDArray[np.int64], seats: dict[int, tuple[int, int]], rank: int) -> NDArray[np.int32]:
    """Return the peers of a class's nodes as one member sees them."""
    peers = graph.peer[nodes]
    members = graph.rank_classes[seats[rank][0]]
    if len(members) == 1:
        return peers
    is_message = np.isin(graph.type[nodes], (NodeType.COMM_SEND, NodeType.COMM_RECV))
    for peer in np.unique(peers[is_message]).tolist():
        there = graph.rank_classes[seats[peer][0]] if peer in seats else ()
        if len(there) != len(members):
            raise InvariantError(
                f"the {len(members)} ranks {members} exchange with rank {peer}, of a class of {len(there)} ranks "
                f"{there}; expected a class of as many"
            )
        shifted = there[(seats[peer][1] + seats[rank][1]) % len(there)]
        peers = np.where(is_message & (graph.peer[nodes] == peer), np.int32(shifted), peers)
    return peers


def _dependencies(
    graph: Graph,
    columns: tuple[NDArray[np.int32], NDArray[np.int32]],
    sources: Sequence[NDArray[np.int64]],
    starts: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Copy one kind of dependencies, as (offsets, values), for every rank.

    Args:
        graph: The graph that is expanded.
        columns: Its offsets and values of this kind.
        sources: For each rank the nodes of its class.
        starts: For each rank the index of its first node in the new graph.
    """
    offsets, values = columns
    lengths = np.diff(offsets)
    owners = np.repeat(np.arange(len(graph)), lengths)
    strays = np.flatnonzero(graph.rank_class[values] != graph.rank_class[owners])
    if strays.size:
        raise InvariantError(
            f"node {owners[strays[0]]} depends on node {values[strays[0]]} of another rank class; "
            "expected dependencies within a class (ranks meet in communication nodes)"
        )
    local = np.zeros(len(graph), dtype=np.int64)
    rows = []
    for nodes, start in zip(sources, starts.tolist(), strict=True):
        local[nodes] = np.arange(len(nodes))
        belongs = np.zeros(len(graph), dtype=np.bool_)
        belongs[nodes] = True
        rows.append(local[values[belongs[owners]]] + start)
    new_lengths = lengths[_concatenate(sources)]
    return np.cumsum([0, *new_lengths], dtype=np.int32), _concatenate(rows).astype(np.int32)


def _concatenate(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate arrays of indices, of which there may be none."""
    return np.concatenate([np.empty(0, dtype=np.int64), *arrays])
