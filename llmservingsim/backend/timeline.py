"""Node times and tensor lifetimes as Chrome trace JSON, which Perfetto and chrome://tracing show."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmservingsim.graph import CollectiveType, Graph, NodeType

_TRACKS = ("compute", "communication", "memory", "CPU")
_TRACK_OF = {
    NodeType.COMM_COLL: 1,
    NodeType.COMM_SEND: 1,
    NodeType.COMM_RECV: 1,
    NodeType.MEM_LOAD: 2,
    NodeType.MEM_STORE: 2,
    NodeType.PIM_COMP: 2,
}
_CPU_TRACK = 3
_LANES_MAX = 10_000
"""Track ``t`` has the thread ids from ``t * _LANES_MAX``."""


class Timed(NamedTuple):
    """An expanded graph that ran; ``start_ns`` and ``end_ns`` have the shape ``[nodes]``."""

    graph: Graph
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]


class TensorUse(NamedTuple):
    """A tensor that a node reads or writes, from ``start_ns`` to ``end_ns``."""

    name: str
    size_bytes: int
    start_ns: int
    end_ns: int


def write_timeline(path: Path, *parts: Timed) -> None:
    """Write when nodes ran: a process per rank, with tracks for compute, communication, memory and the CPU.

    What runs at once on a track stands in lanes of it. Graphs may follow one another; their times are absolute.
    """
    rows: dict[tuple[int, int], list[tuple[int, int, str, dict[str, Any]]]] = {}
    for part in parts:
        for i, node in enumerate(part.graph.nodes()):
            rank = part.graph.rank_classes[node.rank_class][0]
            track = _CPU_TRACK if node.is_cpu_op else _TRACK_OF.get(node.type, 0)
            arguments: dict[str, Any] = {"type": node.type.name, "size_bytes": node.size_bytes}
            if node.type == NodeType.COMM_COLL:
                arguments["collective"] = CollectiveType(node.collective).name
            elif node.type in (NodeType.COMM_SEND, NodeType.COMM_RECV):
                arguments |= {"peer": node.peer, "tag": node.tag}
            row = (int(part.start_ns[i]), int(part.end_ns[i]), node.name, arguments)
            rows.setdefault((rank, track), []).append(row)
    events: list[dict[str, Any]] = [
        _name("process_name", rank, 0, f"rank {rank}") for rank in sorted({r for r, _ in rows})
    ]
    for (rank, track), entries in sorted(rows.items()):
        events += _lanes(entries, rank, track * _LANES_MAX, _TRACKS[track])
    _write(path, events)


def write_tensors(path: Path, rank: int, uses: Iterable[TensorUse]) -> None:
    """Write how long a rank's tensors live, from the first use to the last, and how many bytes live at a time."""
    lives: dict[str, TensorUse] = {}
    for use in uses:
        known = lives.get(use.name, use)
        start_ns, end_ns = min(known.start_ns, use.start_ns), max(known.end_ns, use.end_ns)
        lives[use.name] = TensorUse(use.name, max(known.size_bytes, use.size_bytes), start_ns, end_ns)
    entries = [(t.start_ns, t.end_ns, t.name, {"size_bytes": t.size_bytes}) for t in lives.values()]
    events = [_name("process_name", rank, 0, f"rank {rank}"), *_lanes(entries, rank, 0, "tensors")]
    changes: dict[int, int] = {}
    for tensor in lives.values():
        changes[tensor.start_ns] = changes.get(tensor.start_ns, 0) + tensor.size_bytes
        changes[tensor.end_ns] = changes.get(tensor.end_ns, 0) - tensor.size_bytes
    live_bytes = 0
    for at_ns, change in sorted(changes.items()):
        live_bytes += change
        counter = {"name": "live bytes", "ph": "C", "pid": rank, "ts": at_ns / 1000, "args": {"bytes": live_bytes}}
        events.append(counter)
    _write(path, events)


def _lanes(
    entries: Sequence[tuple[int, int, str, dict[str, Any]]], rank: int, first: int, track: str
) -> Iterator[dict[str, Any]]:
    """Yield the events of a track, each in the lowest lane that is free, and the lanes' names."""
    free: list[int] = []
    busy: list[tuple[int, int]] = []
    used = 0
    for start_ns, end_ns, name, arguments in sorted(entries, key=lambda e: e[:2]):
        while busy and busy[0][0] <= start_ns:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if not free:
            yield _name("thread_name", rank, first + used, track if used == 0 else f"{track} {used + 1}")
            heapq.heappush(free, used)
            used += 1
        lane = heapq.heappop(free)
        heapq.heappush(busy, (end_ns, lane))
        yield {
            "name": name,
            "ph": "X",
            "pid": rank,
            "tid": first + lane,
            "ts": start_ns / 1000,
            "dur": (end_ns - start_ns) / 1000,
            "args": arguments,
        }


def _name(kind: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": thread, "args": {"name": name}}


def _write(path: Path, events: Sequence[dict[str, Any]]) -> None:
    """Write events, whose times are in microseconds as the format wants them."""
    path.write_bytes(msgspec.json.encode({"displayTimeUnit": "ns", "traceEvents": events}))
