"""Chakra workloads run one after another, and somebody may watch."""

from llmservingsim.backend import MemoryModel, NetworkModel, SystemModel
from llmservingsim.backend.astra import run_workloads
from llmservingsim.graph import Graph, Node, NodeType

NETWORK = NetworkModel(["FullyConnected"], [2], [50.0], [500.0])


def compute(*durations_ns: int) -> Graph:
    """A COMP node on each rank, none where the duration is 0."""
    nodes = [Node("c", NodeType.COMP, r, duration_ns=d) for r, d in enumerate(durations_ns) if d]
    return Graph.from_nodes(nodes, [(r,) for r in range(len(durations_ns))])


def test_a_workload_begins_when_all_ranks_have_finished_the_one_before() -> None:
    first, second = run_workloads([compute(300, 500), compute(70, 20)], NETWORK, SystemModel(), MemoryModel())
    assert [tuple(r) for r in first.ranks] == [(0, 300, 0), (1, 500, 0)]
    # exposed: the finish time less all of the rank's compute so far
    assert [tuple(r) for r in second.ranks] == [(0, 570, 200), (1, 520, 0)]
    assert (first.begin_ns, second.begin_ns) == (0, 500)


def test_a_rank_that_has_nothing_to_do_finishes_at_once() -> None:
    _, second = run_workloads([compute(300, 500), compute(70, 0)], NETWORK, SystemModel(), MemoryModel())
    assert [r.finish_ns for r in second.ranks] == [570, 500]


def test_who_watches_hears_the_time_rise_and_changes_nothing() -> None:
    heard: list[int] = []
    graphs = [compute(40_000_000, 7), compute(9_000_000, 1)]
    watched = run_workloads(graphs, NETWORK, SystemModel(), MemoryModel(), heard.append)
    alone = run_workloads(graphs, NETWORK, SystemModel(), MemoryModel())
    assert [e.ranks for e in watched] == [e.ranks for e in alone]
    assert heard
    assert heard == sorted(heard)
    assert heard[-1] < 49_000_000
