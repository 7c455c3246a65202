"""Rank classes written out as single ranks."""

import numpy as np
import pytest

from llmservingsim.errors import InvariantError
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.trace.chakra import expand

COMP, SEND, RECV, COLL = NodeType.COMP, NodeType.COMM_SEND, NodeType.COMM_RECV, NodeType.COMM_COLL


def two_stages():
    """Two pipeline stages of two ranks each, nodes of the classes mixed; stage 0 sends to stage 1."""
    nodes = [
        Node("recv", RECV, rank_class=1, peer=0, tag=5, size_bytes=8),
        Node("comp", COMP, duration_ns=10),
        Node("send", SEND, peer=2, tag=5, size_bytes=8, data_deps=(1,)),
        Node("reduce", COLL, rank_class=1, group=0, size_bytes=4, data_deps=(0,), ctrl_deps=(0,)),
    ]
    return Graph.from_nodes(nodes, rank_classes=[(0, 1), (2, 3)], groups=[(2, 3)])


def test_every_member_gets_the_nodes_of_its_class_in_ascending_order_of_ranks():
    expanded = expand(two_stages())
    assert expanded.rank_classes == ((0,), (1,), (2,), (3,))
    assert expanded.names == ("comp", "send", "comp", "send", "recv", "reduce", "recv", "reduce")
    assert expanded.rank_class.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_dependencies_stay_within_the_copy():
    nodes = expand(two_stages()).nodes()
    assert [n.data_deps for n in nodes] == [(), (0,), (), (2,), (), (4,), (), (6,)]
    assert [n.ctrl_deps for n in nodes] == [(), (), (), (), (), (4,), (), (6,)]


def test_member_j_of_a_class_exchanges_with_member_j_of_the_peers_class():
    nodes = expand(two_stages()).nodes()
    assert [n.peer for n in nodes if n.type == SEND] == [2, 3]
    assert [n.peer for n in nodes if n.type == RECV] == [0, 1]


def test_a_peer_within_the_class_shifts_around_its_end():
    ring = [Node("send", SEND, peer=4), Node("recv", RECV, peer=7)]
    nodes = expand(Graph.from_nodes(ring, rank_classes=[(3, 4, 7)])).nodes()
    assert [n.peer for n in nodes] == [4, 7, 7, 3, 3, 4]


def test_groups_hold_ranks_and_stay():
    expanded = expand(two_stages())
    assert expanded.groups == ((2, 3),)
    assert expanded.group[expanded.type == COLL].tolist() == [0, 0]


def test_an_expanded_graph_is_its_own_expansion_to_the_dtype():
    once = expand(two_stages())
    twice = expand(once)
    for name in Graph.__dataclass_fields__:
        first, second = getattr(once, name), getattr(twice, name)
        assert np.array_equal(first, second), name
        assert (
            getattr(first, "dtype", None)
            == getattr(second, "dtype", None)
            == getattr(getattr(two_stages(), name), "dtype", None)
        ), name


def test_a_graph_without_nodes_expands_to_one_without_nodes():
    expanded = expand(Graph.from_nodes([], rank_classes=[(0, 1)]))
    assert len(expanded) == 0
    assert expanded.data_offsets.tolist() == [0]


@pytest.mark.parametrize(
    ("nodes", "classes", "groups", "message"),
    [
        ([], [(0, 1), (1,)], [], "rank 1 is in rank classes 0 and 1"),
        ([Node("a", COMP), Node("b", COMP, rank_class=1, data_deps=(0,))], [(0,), (1,)], [], "another rank class"),
        ([Node("c", COLL, group=0)], [(0, 1)], [(0, 2)], "lacks rank 1"),
        ([Node("s", SEND, peer=2)], [(0, 1), (2,)], [], "a class of 1 ranks"),
        ([Node("s", SEND, peer=9)], [(0, 1)], [], "exchange with rank 9, of a class of 0 ranks"),
    ],
)
def test_a_graph_that_cannot_be_expanded_is_refused(nodes, classes, groups, message):
    with pytest.raises(InvariantError, match=message):
        expand(Graph.from_nodes(nodes, rank_classes=classes, groups=groups))
