"""Nodes become arrays and arrays nodes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.graph import CollectiveType, Graph, MemoryLocation, Node, NodeType

NODES = [
    Node("compute", NodeType.COMP, duration_ns=2**40, is_cpu_op=True),
    Node("sum", NodeType.COMM_COLL, size_bytes=2**35, collective=CollectiveType.ALL_GATHER, group=1, data_deps=(0,)),
    Node("send", NodeType.COMM_SEND, rank_class=1, size_bytes=7, peer=3, tag=9, ctrl_deps=(0, 1)),
    Node("load", NodeType.MEM_LOAD, size_bytes=5, location=MemoryLocation.CXL, data_deps=(1, 2), ctrl_deps=(0,)),
    Node("masked", NodeType.COMM_COLL, size_bytes=5, involved_dims=0b101, priority=-3, program=1),
    Node("pim", NodeType.PIM_COMP, size_bytes=5, device=2, channel=3),
]


def test_nodes_come_back_as_they_were():
    assert Graph.from_nodes(NODES, [(0, 1), (2, 3)], [(0,), (0, 1)]).nodes() == NODES


def test_classes_and_groups_are_kept_as_tuples():
    graph = Graph.from_nodes(NODES, [range(2), [2]], groups=[[0, 1]])
    assert graph.rank_classes == ((0, 1), (2,))
    assert graph.groups == ((0, 1),)


def test_dependencies_lie_in_compressed_rows():
    graph = Graph.from_nodes(NODES)
    assert graph.data_offsets.tolist() == [0, 0, 1, 1, 3, 3, 3]
    assert graph.data_deps.tolist() == [0, 1, 2]
    assert graph.ctrl_offsets.tolist() == [0, 0, 0, 2, 3, 3, 3]
    assert graph.ctrl_deps.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        ("type", np.uint8),
        ("rank_class", np.int32),
        ("duration_ns", np.int64),
        ("size_bytes", np.int64),
        ("collective", np.uint8),
        ("peer", np.int32),
        ("tag", np.int32),
        ("location", np.uint8),
        ("group", np.int32),
        ("is_cpu_op", np.bool_),
        ("involved_dims", np.uint32),
        ("priority", np.int32),
        ("num_ops", np.int64),
        ("device", np.int32),
        ("channel", np.int32),
        ("program", np.int32),
        ("data_deps", np.int32),
        ("ctrl_offsets", np.int32),
    ],
)
@pytest.mark.parametrize("nodes", [NODES, []])
def test_every_column_has_the_type_that_the_backend_reads(column, dtype, nodes):
    assert getattr(Graph.from_nodes(nodes), column).dtype == dtype


def test_a_graph_may_be_empty():
    graph = Graph.from_nodes([])
    assert len(graph) == 0
    assert graph.nodes() == []
    assert graph.data_offsets.tolist() == [0]


def test_the_numbers_of_node_and_collective_types_are_those_of_chakra():
    assert [kind.value for kind in NodeType if kind != NodeType.PIM_COMP] == list(range(8))
    assert (NodeType.MEM_LOAD, NodeType.COMP, NodeType.COMM_COLL) == (2, 4, 7)
    assert (CollectiveType.ALL_REDUCE, CollectiveType.ALL_GATHER, CollectiveType.ALL_TO_ALL) == (0, 2, 6)
    assert (CollectiveType.REDUCE_SCATTER, CollectiveType.BARRIER) == (7, 9)


NODE = st.builds(
    Node,
    name=st.text(max_size=8),
    type=st.sampled_from(NodeType),
    rank_class=st.integers(0, 3),
    duration_ns=st.integers(0, 2**62),
    size_bytes=st.integers(0, 2**62),
    collective=st.sampled_from(CollectiveType),
    peer=st.integers(-1, 1000),
    tag=st.integers(0, 2**31 - 1),
    location=st.sampled_from(MemoryLocation),
    group=st.integers(-1, 10),
    is_cpu_op=st.booleans(),
    involved_dims=st.integers(0, 2**32 - 1),
    priority=st.integers(-(2**31), 2**31 - 1),
    num_ops=st.integers(0, 2**62),
    device=st.integers(0, 1000),
    channel=st.integers(0, 1000),
    program=st.integers(-1, 10),
    data_deps=st.lists(st.integers(0, 50), max_size=4).map(tuple),
    ctrl_deps=st.lists(st.integers(0, 50), max_size=4).map(tuple),
)


@given(nodes=st.lists(NODE, max_size=12))
def test_any_nodes_come_back_as_they_were(nodes):
    graph = Graph.from_nodes(nodes)
    assert len(graph) == len(nodes)
    assert graph.nodes() == nodes
