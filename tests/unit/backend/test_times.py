"""What ranks wait for while they do not compute, by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from llmservingsim.backend import MemoryLevelModel, MemoryModel, NativeBackend, NetworkModel, SystemModel
from llmservingsim.backend.times import GraphTimes
from llmservingsim.graph import CollectiveType, Graph, MemoryLocation, Node, NodeType

FOREVER = 2**62
POOL = MemoryLevelModel("MEMORY_DEVICES", latency_ns=0, bandwidth_gbps=1.0, num_devices=2, pim_channels=1)
ALONE = MemoryLevelModel("PER_NPU_MEMORY_EXPANSION", latency_ns=0, bandwidth_gbps=1.0)


def comp(time_ns: int, *after: int, rank_class: int = 0) -> Node:
    return Node("comp", NodeType.COMP, rank_class, duration_ns=time_ns, data_deps=after)


def load(size: int, *after: int) -> Node:
    return Node("load", NodeType.MEM_LOAD, size_bytes=size, location=MemoryLocation.CXL, data_deps=after)


def reduce(*after: int, rank_class: int = 0) -> Node:
    kind = CollectiveType.ALL_REDUCE
    return Node("sum", NodeType.COMM_COLL, rank_class, size_bytes=8000, collective=kind, data_deps=after)


def times(
    nodes: Sequence[Node],
    classes: Sequence[Sequence[int]] = ((0,),),
    level: MemoryLevelModel = POOL,
    tickets: int = 1,
    **system: object,
) -> GraphTimes:
    network = NetworkModel(["Ring"], [2], [1e9 / 2**30], [0.0])
    native = NativeBackend(network, SystemModel(endpoint_delay_ns=0, **system), MemoryModel(cxl=level))  # type: ignore[arg-type]
    graph = Graph.from_nodes(nodes, classes)
    number = native.register(graph)
    for _ in range(tickets):
        native.submit(number)
    while native.advance(FOREVER) and tickets:
        tickets -= 1
    found = native.times_of(graph)
    assert found is not None
    return found


@pytest.mark.parametrize("level", [POOL, ALONE], ids=["with events", "in closed form"])
def test_a_chain_waits_for_all_that_is_no_computation(level: MemoryLevelModel) -> None:
    found = times([comp(100), load(300, 0), comp(50, 1)], level=level)
    assert (found.begin_ns.tolist(), found.access_ns.tolist(), found.lanes) == ([0], [[300]], [[0]])
    assert (found.messages_ns.tolist(), found.offload_ns.tolist()) == ([[0]], [[0]])


def test_a_load_that_computation_hides_is_not_waited_for() -> None:
    """The load takes 300 ns, of which 100 go by while the rank computes."""
    assert times([comp(100), load(300), comp(50, 0, 1)]).access_ns.tolist() == [[200]]
    assert times([comp(400), load(300), comp(50, 0, 1)]).access_ns.tolist() == [[0]]


@pytest.mark.parametrize("classes", [[(0, 1)], [(0,), (1,)]], ids=["collapsed", "one by one"])
def test_a_collective_is_waited_for_from_its_issue_to_its_end(classes: list[tuple[int, ...]]) -> None:
    """Two ranks exchange halves of 8,000 bytes twice, at 1 byte/ns."""
    nodes = []
    for rank_class in range(len(classes)):
        first = len(nodes)
        nodes += [comp(100, rank_class=rank_class), reduce(first, rank_class=rank_class)]
    found = times(nodes, classes)
    assert [list(lane) for lane in found.lanes] == [list(lane) for lane in classes]
    assert found.messages_ns.tolist() == [[8000] * len(classes)]


def test_the_rank_that_comes_first_to_a_collective_waits_for_the_other_too() -> None:
    """Rank 1 sends at 9,000 ns both what it has and what it has summed: rank 0 has that at 13,000, and answers."""
    nodes = [comp(100), reduce(0), comp(9000, rank_class=1), reduce(2, rank_class=1)]
    assert times(nodes, [(0,), (1,)]).messages_ns.tolist() == [[12_900, 8000]]


def test_memories_that_compute_come_before_loads_behind_them() -> None:
    pim = Node("gemv", NodeType.PIM_COMP, duration_ns=500, size_bytes=0, location=MemoryLocation.CXL, data_deps=(0,))
    found = times([comp(100), pim, load(700), comp(50, 1, 2)], dialect="llmservingsim")
    assert (found.offload_ns.tolist(), found.access_ns.tolist()) == ([[500]], [[100]])


def test_every_ticket_of_a_graph_has_a_row_that_says_when_it_began() -> None:
    native = NativeBackend(NetworkModel(["Ring"], [1], [50.0], [500.0]), memory=MemoryModel(cxl=POOL))
    graph = Graph.from_nodes([comp(100), load(300, 0)])
    number = native.register(graph)
    first = native.submit(number)
    native.submit(number, None, np.array([0, 500]), first)
    assert native.times_of(graph).begin_ns.tolist() == []  # type: ignore[union-attr]
    native.advance(FOREVER)
    native.advance(FOREVER)
    found = native.times_of(graph)
    assert found is not None
    assert (found.begin_ns.tolist(), found.access_ns.tolist()) == ([0, 400], [[300], [500]])


def test_several_steps_of_a_ticket_are_added_up() -> None:
    native = NativeBackend(NetworkModel(["Ring"], [1], [50.0], [500.0]), memory=MemoryModel(cxl=POOL))
    graph = Graph.from_nodes([comp(100), load(300, 0)])
    native.submit(native.register(graph), None, np.array([[0, 300], [0, 500]]))
    native.advance(FOREVER)
    found = native.times_of(graph)
    assert found is not None
    assert (found.begin_ns.tolist(), found.access_ns.tolist()) == ([0], [[800]])


def test_nothing_is_kept_of_a_lone_node_or_of_messages() -> None:
    native = NativeBackend(NetworkModel(["Ring"], [2], [50.0], [500.0]), memory=MemoryModel(cxl=POOL))
    for nodes in ([comp(100)], [load(100), load(100)]):
        graph = Graph.from_nodes(nodes)
        native.register(graph)
        assert native.times_of(graph) is None
