"""Traces run as an ASTRA-sim binary would run them."""

import pytest

from llmservingsim.backend import MemoryModel, NetworkModel, SystemModel
from llmservingsim.backend.astra import RankResult, run_traces
from llmservingsim.errors import DeadlockError, TraceError
from llmservingsim.graph import Graph, Node, NodeType

NETWORK = NetworkModel(["Ring"], [2], [50.0], [500.0])


def graph(*nodes: Node, ranks: int = 2) -> Graph:
    return Graph.from_nodes(nodes, [(r,) for r in range(ranks)])


def test_a_rank_reports_its_finish_and_what_its_compute_did_not_hide() -> None:
    nodes = [
        Node("work", NodeType.COMP, rank_class=0, duration_ns=1000),
        Node("send", NodeType.COMM_SEND, rank_class=0, size_bytes=16_384, peer=1, data_deps=(0,)),
        Node("recv", NodeType.COMM_RECV, rank_class=1, size_bytes=16_384, peer=0),
        Node("zero", NodeType.COMP, rank_class=1, data_deps=(2,)),
    ]
    results = run_traces(graph(*nodes), NETWORK, SystemModel(), MemoryModel())
    assert results == [RankResult(0, 1805, 805), RankResult(1, 1806, 1805)]


def test_a_rank_that_never_finishes_is_an_error() -> None:
    nodes = [Node("a", NodeType.COMP), Node("r", NodeType.COMM_RECV, rank_class=1, size_bytes=1, peer=0)]
    with pytest.raises(DeadlockError, match="rank 1"):
        run_traces(graph(*nodes), NETWORK, SystemModel(), MemoryModel())


def test_traces_must_be_as_many_as_ranks() -> None:
    with pytest.raises(TraceError, match="the network has 2 ranks, but there are traces of 1"):
        run_traces(graph(Node("a", NodeType.COMP), ranks=1), NETWORK, SystemModel(), MemoryModel())


def test_what_the_system_cannot_do_is_a_trace_error() -> None:
    nodes = [Node("c", NodeType.COMM_COLL, rank_class=r, size_bytes=64) for r in range(2)]
    with pytest.raises(TraceError, match="collective algorithm 'tree' is not one of direct"):
        run_traces(graph(*nodes), NETWORK, SystemModel(all_reduce=["tree"]), MemoryModel())
