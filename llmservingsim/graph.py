"""The execution graph as arrays: what the trace room builds, the backend times and the codec writes to disk.

A node belongs to a *rank class*: ranks that do the same work in the same graph (the members of a tensor-parallel
group, say) are simulated once and exported once per member. ``Graph.rank_classes[c]`` lists the ranks that class
``c`` stands for; a graph in which every class has one member is *expanded*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

_Element = TypeVar("_Element", bound=np.generic)


class NodeType(IntEnum):
    """Chakra's node types (mlcommons numbering); PIM_COMP is LLMServingSim's."""

    INVALID = 0
    METADATA = 1
    MEM_LOAD = 2
    MEM_STORE = 3
    COMP = 4
    COMM_SEND = 5
    COMM_RECV = 6
    COMM_COLL = 7
    PIM_COMP = 8


class CollectiveType(IntEnum):
    """Chakra's collective communication types."""

    ALL_REDUCE = 0
    REDUCE = 1
    ALL_GATHER = 2
    GATHER = 3
    SCATTER = 4
    BROADCAST = 5
    ALL_TO_ALL = 6
    REDUCE_SCATTER = 7
    REDUCE_SCATTER_BLOCK = 8
    BARRIER = 9


class MemoryLocation(IntEnum):
    """Where a memory node's tensor lives."""

    LOCAL = 1
    REMOTE = 2
    CXL = 3
    STORAGE = 4


ALL_DIMENSIONS = 2**32 - 1
"""`Node.involved_dims` of a collective that uses every dimension of the network."""


@dataclass(frozen=True, slots=True)
class Node:
    """One Chakra node, as a person writes it; `Graph.from_nodes` turns a list of them into arrays.

    Attributes:
        name: What the node is, for people.
        type: Chakra node type.
        rank_class: Index into `Graph.rank_classes`.
        duration_ns: COMP and PIM_COMP only.
        size_bytes: ``comm_size`` of collectives, sends and receives, ``tensor_size`` of memory and COMP nodes.
        collective: COMM_COLL only.
        peer: Rank at the other end, COMM_SEND and COMM_RECV only.
        tag: Message tag of COMM_SEND and COMM_RECV. A MEM_LOAD with a tag above 0 begins to fill that buffer of its
            rank and ends at once; with one below 0 it waits until buffer ``-tag`` is full.
        location: Memory nodes only.
        group: Index into `Graph.groups`, or -1 for every rank of the network (COMM_COLL only).
        is_cpu_op: Runs on the host's slot instead of the accelerator's.
        involved_dims: Bit ``d`` is set if the collective uses dimension ``d`` of the network.
        priority: Of a collective under EXPLICIT scheduling, larger first.
        num_ops: Operations of a COMP node, from which roofline timing takes its duration.
        device: Memory device within the location, memory nodes and PIM_COMP only.
        channel: PIM channel within the device, PIM_COMP only.
        program: Index into the system's `SystemModel.programs` of what replaces the collective's algorithm, or -1.
        data_deps, ctrl_deps: Indices of nodes of the same rank class that must have completed.
    """

    name: str
    type: NodeType
    rank_class: int = 0
    duration_ns: int = 0
    size_bytes: int = 0
    collective: CollectiveType = CollectiveType.ALL_REDUCE
    peer: int = -1
    tag: int = 0
    location: MemoryLocation = MemoryLocation.REMOTE
    group: int = -1
    is_cpu_op: bool = False
    involved_dims: int = ALL_DIMENSIONS
    priority: int = 0
    num_ops: int = 0
    device: int = 0
    channel: int = 0
    program: int = -1
    data_deps: tuple[int, ...] = ()
    ctrl_deps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """Chakra nodes as parallel arrays; shapes are ``[nodes]`` unless said otherwise.

    Dependencies are in compressed rows: node ``i`` waits for
    ``data_deps[data_offsets[i]:data_offsets[i + 1]]`` and likewise for control dependencies.
    """

    names: tuple[str, ...]
    type: NDArray[np.uint8]
    rank_class: NDArray[np.int32]
    duration_ns: NDArray[np.int64]
    size_bytes: NDArray[np.int64]
    collective: NDArray[np.uint8]
    peer: NDArray[np.int32]
    tag: NDArray[np.int32]
    location: NDArray[np.uint8]
    group: NDArray[np.int32]
    is_cpu_op: NDArray[np.bool_]
    involved_dims: NDArray[np.uint32]
    priority: NDArray[np.int32]
    num_ops: NDArray[np.int64]
    device: NDArray[np.int32]
    channel: NDArray[np.int32]
    program: NDArray[np.int32]
    data_offsets: NDArray[np.int32]
    data_deps: NDArray[np.int32]
    ctrl_offsets: NDArray[np.int32]
    ctrl_deps: NDArray[np.int32]
    rank_classes: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...] = field(default=())

    def __len__(self) -> int:
        return len(self.names)

    @staticmethod
    def from_nodes(
        nodes: Sequence[Node],
        rank_classes: Sequence[Sequence[int]] = ((0,),),
        groups: Sequence[Sequence[int]] = (),
    ) -> Graph:
        """Turn a list of nodes into arrays."""

        def column(attribute: str, dtype: type[_Element]) -> NDArray[_Element]:
            return np.array([getattr(n, attribute) for n in nodes], dtype=dtype)

        data_offsets, data_deps = _rows([n.data_deps for n in nodes])
        ctrl_offsets, ctrl_deps = _rows([n.ctrl_deps for n in nodes])
        return Graph(
            names=tuple(n.name for n in nodes),
            type=column("type", np.uint8),
            rank_class=column("rank_class", np.int32),
            duration_ns=column("duration_ns", np.int64),
            size_bytes=column("size_bytes", np.int64),
            collective=column("collective", np.uint8),
            peer=column("peer", np.int32),
            tag=column("tag", np.int32),
            location=column("location", np.uint8),
            group=column("group", np.int32),
            is_cpu_op=column("is_cpu_op", np.bool_),
            involved_dims=column("involved_dims", np.uint32),
            priority=column("priority", np.int32),
            num_ops=column("num_ops", np.int64),
            device=column("device", np.int32),
            channel=column("channel", np.int32),
            program=column("program", np.int32),
            data_offsets=data_offsets,
            data_deps=data_deps,
            ctrl_offsets=ctrl_offsets,
            ctrl_deps=ctrl_deps,
            rank_classes=tuple(tuple(c) for c in rank_classes),
            groups=tuple(tuple(g) for g in groups),
        )

    def nodes(self) -> list[Node]:
        """Return the nodes again as a list of `Node`."""
        return [
            Node(
                name=self.names[i],
                type=NodeType(int(self.type[i])),
                rank_class=int(self.rank_class[i]),
                duration_ns=int(self.duration_ns[i]),
                size_bytes=int(self.size_bytes[i]),
                collective=CollectiveType(int(self.collective[i])),
                peer=int(self.peer[i]),
                tag=int(self.tag[i]),
                location=MemoryLocation(int(self.location[i])),
                group=int(self.group[i]),
                is_cpu_op=bool(self.is_cpu_op[i]),
                involved_dims=int(self.involved_dims[i]),
                priority=int(self.priority[i]),
                num_ops=int(self.num_ops[i]),
                device=int(self.device[i]),
                channel=int(self.channel[i]),
                program=int(self.program[i]),
                data_deps=tuple(self.data_deps[self.data_offsets[i] : self.data_offsets[i + 1]].tolist()),
                ctrl_deps=tuple(self.ctrl_deps[self.ctrl_offsets[i] : self.ctrl_offsets[i + 1]].tolist()),
            )
            for i in range(len(self))
        ]


def _rows(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Compress a list of rows into (offsets, values)."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(r) for r in rows], out=offsets[1:])
    return offsets, np.array([v for r in rows for v in r], dtype=np.int32)
