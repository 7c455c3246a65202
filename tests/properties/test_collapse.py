"""A rank class is timed exactly like the ranks it stands for."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmservingsim.backend import MemoryLevelModel, MemoryModel, NativeBackend, NetworkModel, SystemModel
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType
from llmservingsim.trace.chakra import expand

KINDS = [
    CollectiveType.ALL_REDUCE,
    CollectiveType.ALL_GATHER,
    CollectiveType.REDUCE_SCATTER,
    CollectiveType.ALL_TO_ALL,
    CollectiveType.BROADCAST,
]
MEMORY = MemoryModel(remote=MemoryLevelModel("PER_NPU_MEMORY_EXPANSION", 311, 3.0))

# Two nodes of a rank that end at the same nanosecond release their children one after the other, and which is first may
# differ between the members of a class. Wide ranges of odd durations make that improbable.
DURATIONS = st.integers(1_000, 10**9).map(lambda ns: 2 * ns + 1)
SIZES = st.integers(64, 10**8)


@st.composite
def class_nodes(draw: st.DrawFn, rank_class: int) -> list[Node]:
    """Nodes of one class with group ``rank_class``, each waiting for some of the earlier ones."""
    nodes = []
    for i in range(draw(st.integers(1, 8))):
        kind = draw(st.sampled_from([NodeType.COMP, NodeType.COMP, NodeType.COMM_COLL, NodeType.MEM_LOAD]))
        node = Node(
            f"n{i}",
            kind,
            rank_class=rank_class,
            duration_ns=draw(DURATIONS),
            size_bytes=draw(SIZES),
            collective=draw(st.sampled_from(KINDS)),
            group=rank_class,
            is_cpu_op=kind is NodeType.COMP and draw(st.booleans()),
        )
        earlier = st.sets(st.integers(0, i - 1), max_size=2) if i else st.just(set[int]())
        nodes.append(replace(node, data_deps=tuple(draw(earlier)), ctrl_deps=tuple(draw(earlier))))
    return nodes


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[Graph, int]:
    """Two stages of some ranks each; the second may wait for the first's message. Returns the graph and its ranks."""
    members = draw(st.integers(1, 4))
    first, second = draw(class_nodes(0)), draw(class_nodes(1))
    classes = [tuple(range(members)), tuple(range(members, 2 * members))]
    if draw(st.booleans()):
        size = draw(SIZES)
        last = (len(first) - 1,)
        send = Node("send", NodeType.COMM_SEND, 0, size_bytes=size, peer=members, tag=1, data_deps=last)
        first.append(send)
        second = [replace(n, data_deps=n.data_deps or (len(second),)) for n in second]
        second.append(Node("recv", NodeType.COMM_RECV, 1, size_bytes=size, peer=0, tag=1))
    shift = len(first)
    second = [
        replace(
            n,
            data_deps=tuple(d + shift for d in n.data_deps),
            ctrl_deps=tuple(d + shift for d in n.ctrl_deps),
        )
        for n in second
    ]
    return Graph.from_nodes([*first, *second], classes, classes), 2 * members


ALGORITHMS = ["ring", "direct", "direct1", "direct2", "halvingDoubling", "doubleBinaryTree"]


@st.composite
def systems(draw: st.DrawFn, members: int) -> SystemModel:
    names = ALGORITHMS if members in (1, 2, 4) else ALGORITHMS[:4]
    reducing = st.sampled_from([[n] for n in names])
    scattering = st.sampled_from([[n] for n in names if n != "doubleBinaryTree"])
    return SystemModel(
        preferred_dataset_splits=draw(st.integers(1, 5)),
        active_chunks_per_dimension=draw(st.integers(1, 3)),
        scheduling_policy=draw(st.sampled_from(["LIFO", "FIFO"])),
        collective_optimization=draw(st.sampled_from(["baseline", "localBWAware"])),
        endpoint_delay_ns=draw(st.integers(0, 50)),
        local_mem_bw_gbps=draw(st.sampled_from([0.0, 13.0, 1600.0])),
        all_reduce=draw(reducing),
        all_gather=draw(scattering),
        reduce_scatter=draw(scattering),
        all_to_all=draw(st.sampled_from([["ring"], ["direct"], ["direct2"]])),
    )


def finish(graph: Graph, network: NetworkModel, system: SystemModel) -> tuple[list[int], list[int]]:
    backend = NativeBackend(network, system, MEMORY)
    ticket = backend.submit(backend.register(graph))
    assert backend.advance(2**62) == [ticket]
    return backend.rank_finish_ns(ticket).tolist(), backend.rank_compute_ns(ticket).tolist()


def networks(members: int) -> list[NetworkModel]:
    """One and two dimensions of two stages of ``members`` ranks."""
    flat = [NetworkModel([t], [2 * members], [50.0], [500.0]) for t in ("Ring", "FullyConnected", "Switch")]
    return [*flat, NetworkModel(["Ring", "Switch"], [members, 2], [200.0, 50.0], [99.5, 500.0])]


@pytest.mark.parametrize("choice", range(4), ids=["ring", "full", "switch", "ring and switch"])
@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_class_times_like_its_ranks(choice: int, data: st.DataObject) -> None:
    graph, ranks = data.draw(pipelines())
    system = data.draw(systems(ranks // 2))
    network = networks(ranks // 2)[choice]
    assert finish(graph, network, system) == finish(expand(graph), network, system)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_collective_over_several_dimensions_times_like_its_ranks(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 2, 4]), min_size=2, max_size=3))
    topology = [data.draw(st.sampled_from(["Ring", "FullyConnected", "Switch"])) for _ in shape]
    network = NetworkModel(topology, shape, [200.0, 50.0, 12.5][: len(shape)], [99.5, 500.0, 1000.0][: len(shape)])
    system = data.draw(systems(4))
    ranks = tuple(range(network.npus))
    nodes = [
        Node(
            "coll",
            NodeType.COMM_COLL,
            size_bytes=data.draw(SIZES),
            collective=data.draw(st.sampled_from(KINDS)),
            involved_dims=data.draw(st.integers(0, 7)),
        )
    ]
    graph = Graph.from_nodes(nodes, [ranks])
    assert finish(graph, network, system) == finish(expand(graph), network, system)
