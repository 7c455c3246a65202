"""Node times and tensor lifetimes as Chrome trace JSON."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from llmservingsim.backend.timeline import TensorUse, Timed, write_tensors, write_timeline
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType

NODES = [
    Node("mm", NodeType.COMP, size_bytes=7),
    Node("ar", NodeType.COMM_COLL, size_bytes=64, collective=CollectiveType.ALL_GATHER),
    Node("ld", NodeType.MEM_LOAD),
    Node("pim", NodeType.PIM_COMP),
    Node("host", NodeType.COMP, is_cpu_op=True),
    Node("rx", NodeType.COMM_RECV, rank_class=1, peer=4, tag=3),
]


def events(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    assert content["displayTimeUnit"] == "ns"
    found: list[dict[str, Any]] = content["traceEvents"]
    return found


def names(found: list[dict[str, Any]], kind: str) -> dict[tuple[int, int], str]:
    return {(e["pid"], e["tid"]): e["args"]["name"] for e in found if e["ph"] == "M" and e["name"] == kind}


def timed(nodes: list[Node], starts: list[int], ends: list[int], classes: list[tuple[int, ...]]) -> Timed:
    return Timed(Graph.from_nodes(nodes, classes), np.array(starts), np.array(ends))


def test_a_rank_is_a_process_with_a_track_for_each_kind_of_node(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    write_timeline(path, timed(NODES, [0, 1500, 0, 9, 1, 2], [1500, 2000, 9, 12, 4, 8], [(0,), (4,)]))
    found = events(path)
    assert names(found, "process_name") == {(0, 0): "rank 0", (4, 0): "rank 4"}
    tracks = names(found, "thread_name")
    shown = {e["name"]: (e["pid"], tracks[e["pid"], e["tid"]], e["ts"], e["dur"]) for e in found if e["ph"] == "X"}
    assert shown == {
        "mm": (0, "compute", 0, 1.5),
        "ar": (0, "communication", 1.5, 0.5),
        "ld": (0, "memory", 0, 0.009),
        "pim": (0, "memory", 0.009, 0.003),
        "host": (0, "CPU", 0.001, 0.003),
        "rx": (4, "communication", 0.002, 0.006),
    }
    arguments = {e["name"]: e["args"] for e in found if e["ph"] == "X"}
    assert arguments["mm"] == {"type": "COMP", "size_bytes": 7}
    assert arguments["ar"] == {"type": "COMM_COLL", "size_bytes": 64, "collective": "ALL_GATHER"}
    assert arguments["rx"] == {"type": "COMM_RECV", "size_bytes": 0, "peer": 4, "tag": 3}


def test_what_runs_at_once_stands_in_lanes(tmp_path: Path) -> None:
    receives = [Node(name, NodeType.COMM_RECV) for name in "abcd"]
    write_timeline(tmp_path / "t.json", timed(receives, [0, 5, 10, 12], [10, 20, 15, 13], [(0,)]))
    found = events(tmp_path / "t.json")
    tracks = names(found, "thread_name")
    lanes = {e["name"]: tracks[e["pid"], e["tid"]] for e in found if e["ph"] == "X"}
    assert lanes == {"a": "communication", "b": "communication 2", "c": "communication", "d": "communication 3"}


def test_graphs_that_follow_one_another_share_the_tracks(tmp_path: Path) -> None:
    parts = [timed([Node(name, NodeType.COMP)], [t], [t + 5], [(0,)]) for name, t in (("a", 0), ("b", 5))]
    write_timeline(tmp_path / "t.json", *parts)
    shown = [e for e in events(tmp_path / "t.json") if e["ph"] == "X"]
    assert [(e["name"], e["tid"]) for e in shown] == [("a", 0), ("b", 0)]


def test_a_tensor_lives_from_its_first_use_to_its_last(tmp_path: Path) -> None:
    uses = [TensorUse("x", 8, 2000, 3000), TensorUse("y", 16, 2000, 5000), TensorUse("x", 8, 5000, 7000)]
    write_tensors(tmp_path / "t.json", 3, uses)
    found = events(tmp_path / "t.json")
    lives = {e["name"]: (e["pid"], e["ts"], e["dur"], e["args"]) for e in found if e["ph"] == "X"}
    assert lives == {"x": (3, 2, 5, {"size_bytes": 8}), "y": (3, 2, 3, {"size_bytes": 16})}
    assert [(e["ts"], e["args"]["bytes"]) for e in found if e["ph"] == "C"] == [(2, 24), (5, 8), (7, 0)]
