"""Custom collectives: Chakra files that spell an algorithm out, one per place in the communicator."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

from llmservingsim.backend.config import Dialect
from llmservingsim.backend.steps import Step
from llmservingsim.errors import TraceError, shown
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.trace.chakra import read_traces, write_traces
from llmservingsim.trace.chakra.records import trace_file
from llmservingsim.trace.chakra.schema import LLMSERVINGSIM2, MLCOMMONS

Program = tuple[tuple[Step, ...], ...]

CHAKRA_DIALECTS: MappingProxyType[Dialect, str] = MappingProxyType(
    {"astra-sim": MLCOMMONS, "llmservingsim": LLMSERVINGSIM2}
)
"""Whose rules -> how its traces are read."""


def read_program(prefix: Path, dialect: Dialect) -> Program:
    """Read ``<prefix>.0.et``, ``<prefix>.1.et`` ... as the steps of each place.

    Raises:
        TraceError: Naming the file, if it is no trace, holds none or other nodes than sends, receives and
            COMP, or names a place that has no file.
    """
    graph = read_traces(prefix, dialect=CHAKRA_DIALECTS[dialect])
    steps: list[list[Step]] = [[] for _ in graph.rank_classes]
    starts = graph.rank_class.searchsorted(range(len(steps))).tolist()
    for node in graph.nodes():
        place = node.rank_class
        steps[place].append(
            _step(node, starts[place], len(steps), f"{trace_file(prefix, place)}: node {shown(node.name)}")
        )
    if [] in steps:
        raise TraceError(f"{trace_file(prefix, steps.index([]))}: has no node; expected the steps of a collective")
    return tuple(map(tuple, steps))


def _step(node: Node, start: int, places: int, where: str) -> Step:
    after = tuple(sorted({i - start for i in (*node.data_deps, *node.ctrl_deps)}))
    if node.type in (NodeType.COMM_SEND, NodeType.COMM_RECV):
        if node.peer >= places:
            raise TraceError(f"{where} exchanges with place {node.peer}; expected 0 to {places - 1}, which have a file")
        if places == 1:
            raise TraceError(f"{where} exchanges with its own place, the only one; expected a file for another place")
        is_send = node.type == NodeType.COMM_SEND
        return Step("send" if is_send else "receive", node.peer, node.size_bytes, tag=node.tag, after=after)
    if node.type == NodeType.COMP:
        return Step("delay", duration_ns=max(1, node.duration_ns), after=after)
    if node.type == NodeType.INVALID:
        return Step("delay", duration_ns=0, after=after)
    raise TraceError(f"{where} is a {node.type.name}; expected COMM_SEND, COMM_RECV or COMP in a custom collective")


def write_program(prefix: Path, program: Program, dialect: Dialect) -> None:
    """Write the steps of each place as ``<prefix>.<place>.et``.

    Raises:
        TraceError: If a step has no Chakra node: a reduction, or a delay of the system's choice.
    """
    nodes: list[Node] = []
    for place, steps in enumerate(program):
        start = len(nodes)
        nodes += [_node(step, place, start, f"{prefix}.{place}.et: step {i}") for i, step in enumerate(steps)]
    write_traces(
        Graph.from_nodes(nodes, [(place,) for place in range(len(program))]), prefix, dialect=CHAKRA_DIALECTS[dialect]
    )


def _node(step: Step, place: int, start: int, where: str) -> Node:
    name, deps = step.kind, tuple(i + start for i in step.after)
    if step.kind == "delay" and step.duration_ns is not None:
        kind = NodeType.COMP if step.duration_ns else NodeType.INVALID
        return Node(name, kind, place, duration_ns=step.duration_ns, data_deps=deps)
    if step.kind in ("send", "receive"):
        kind = NodeType.COMM_SEND if step.kind == "send" else NodeType.COMM_RECV
        return Node(name, kind, place, size_bytes=step.size_bytes, peer=step.peer, tag=step.tag, data_deps=deps)
    raise TraceError(f"{where} is a {step.kind} without a duration, for which Chakra has no node")
