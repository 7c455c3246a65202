"""What devices executed, as rows."""

import numpy as np

from llmservingsim.activity import ActivityLog
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType
from llmservingsim.shapes import BatchShape, Chunk

MIXED = BatchShape((Chunk(30, 0),), num_decodes=5, decode_kv_tokens=500, max_decode_kv_tokens=200, num_tokens=35)


def two_classes() -> Graph:
    """Ranks 0 and 1 do the same; rank 2 is another instance's."""
    nodes = [
        Node("gemm", NodeType.COMP, 0),
        Node("fetch", NodeType.MEM_LOAD, 0),
        Node("reduce", NodeType.COMM_COLL, 0, collective=CollectiveType.ALL_REDUCE, group=0),
        Node("gemm", NodeType.COMP, 1),
    ]
    return Graph.from_nodes(nodes, [[0, 1], [2]], [[0, 1]])


def values(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_times_and_bytes_are_added_up_over_the_devices_of_the_instance_alone() -> None:
    log = ActivityLog([0, 1])
    log.submitted(two_classes(), (values(100, 0, 0, 7000), values(0, 64, 32, 0)), MIXED, 10)
    log.ended(150)
    row = log.activity()
    assert row.compute_ns.tolist() == [200]
    assert (row.memory_bytes.tolist(), row.collective_bytes.tolist()) == ([128], [64])
    assert (row.prompt_tokens.tolist(), row.decodes.tolist()) == ([30], [5])
    assert (row.begin_ns.tolist(), row.end_ns.tolist()) == ([10], [150])


def test_a_graph_begins_when_the_one_before_has_ended_and_not_before_it_is_there() -> None:
    log, graph = ActivityLog([2]), two_classes()
    for now_ns in (0, 50):  # the second is submitted while the first runs
        log.submitted(graph, (values(0, 0, 0, 90), None), MIXED, now_ns)
    for end_ns in (100, 190):
        log.ended(end_ns)
    log.submitted(graph, (values(0, 0, 0, 90), None), MIXED, 400)
    assert log.activity().begin_ns.tolist() == [0, 100]
    assert log.activity(450).begin_ns.tolist() == [0, 100, 400]
    assert log.activity(450).end_ns.tolist() == [100, 190, 450]


def test_what_memories_compute_is_told_apart() -> None:
    graph = Graph.from_nodes([Node("attention", NodeType.PIM_COMP), Node("ffn", NodeType.COMP)], [[4]])
    log = ActivityLog([4])
    log.submitted(graph, (values(300, 20), None), MIXED, 0)
    log.ended(320)
    assert (log.activity().offload_ns.tolist(), log.activity().compute_ns.tolist()) == ([300], [20])


def test_a_lone_node_counts_once_per_device_and_a_dummy_has_no_tokens() -> None:
    log = ActivityLog([3, 4])
    log.submitted(Graph.from_nodes([Node("all", NodeType.COMP)], [[3, 4]]), (values(70), None), None, 0)
    log.ended(70)
    row = log.activity()
    assert (row.compute_ns.tolist(), row.prompt_tokens.tolist(), row.decodes.tolist()) == ([140], [0], [0])
