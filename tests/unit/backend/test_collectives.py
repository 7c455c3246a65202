"""Collectives take what ASTRA-sim's rules say, and outside parity mode what is right; every figure is worked out here.

Links of 50 GB/s (of 2^30 bytes) move 53.6870912 bytes per nanosecond and cost 500 ns; reducing m bytes at 1,600 GB/s
costs three times floor(m / 1600) ns, preparing a block 10 ns.
"""

from collections.abc import Sequence

import pytest

from llmservingsim.backend import MeasuredCollective, NativeBackend, NetworkModel, SharedBusModel, Step, SystemModel
from llmservingsim.errors import ConfigError, PluginError
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType

MIB = 2**20
FULL = NetworkModel(["FullyConnected"], [8], [50.0], [500.0])
RING_THEN_FULL = NetworkModel(["Ring", "FullyConnected"], [4, 2], [200.0, 50.0], [100.0, 500.0])


def astra(algorithm: str = "ring", dimensions: int = 1, **options: object) -> SystemModel:
    """The system of the reference's worked examples, with one algorithm for everything."""
    names = {c: [algorithm] * dimensions for c in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")}
    return SystemModel(**{"local_mem_bw_gbps": 1600, "parity": True, "zero_duration_ns": 1, **names, **options})  # type: ignore[arg-type]


def run(
    nodes: Sequence[Node], network: NetworkModel, system: SystemModel, groups: Sequence[Sequence[int]] = ()
) -> list[int]:
    """Return when each rank finishes the nodes of its own, or all the nodes if they are of class 0 alone."""
    ranks = range(network.npus)
    if all(n.rank_class == 0 for n in nodes):
        nodes = [
            Node(n.name, n.type, r, n.duration_ns, n.size_bytes, n.collective, involved_dims=n.involved_dims)
            for r in ranks
            for n in nodes
        ]
    backend = NativeBackend(network, system)
    ticket = backend.submit(backend.register(Graph.from_nodes(nodes, [(r,) for r in ranks], groups)))
    assert backend.advance(2**62) == [ticket]
    return backend.rank_finish_ns(ticket).tolist()


def collective(kind: CollectiveType, size: int, **node: object) -> Node:
    return Node("coll", NodeType.COMM_COLL, size_bytes=size, collective=kind, **node)  # type: ignore[arg-type]


# The reference document's own examples (section 4.10), each of which equals a run of ASTRA-sim.
EXAMPLES = [
    (CollectiveType.ALL_REDUCE, "ring", FULL, 43_025),
    (CollectiveType.ALL_REDUCE, "direct", FULL, 6_155),
    (CollectiveType.ALL_REDUCE, "halvingDoubling", FULL, 37_978),
    (CollectiveType.ALL_REDUCE, "doubleBinaryTree", FULL, 130_081),
    (CollectiveType.REDUCE_SCATTER, "direct", NetworkModel(["Switch"], [8], [50.0], [500.0]), 3_704),
    (CollectiveType.ALL_REDUCE, "ring", RING_THEN_FULL, 15_622),
]


@pytest.mark.parametrize(("kind", "algorithm", "network", "expected"), EXAMPLES)
def test_a_mebibyte_takes_what_astra_sim_says(
    kind: CollectiveType, algorithm: str, network: NetworkModel, expected: int
) -> None:
    system = astra(algorithm, len(network.topology))
    assert max(run([collective(kind, MIB)], network, system)) == expected


def test_a_mask_leaves_out_dimensions() -> None:
    """The ring of four alone: 3 blocks of 262,144 bytes in 1,320 ns, 4 preparations, 3 reductions of 489 ns."""
    node = collective(CollectiveType.REDUCE_SCATTER, MIB, involved_dims=0b01)
    assert set(run([node], RING_THEN_FULL, astra("ring", 2))) == {4 * 10 + 3 * 1320 + 3 * 489}


def test_parity_refuses_a_mask_that_leaves_nothing() -> None:
    node = collective(CollectiveType.ALL_REDUCE, MIB, involved_dims=0)
    with pytest.raises(ValueError, match="'coll': involved_dim leaves no dimension"):
        run([node], RING_THEN_FULL, astra("ring", 2))
    assert set(run([node], RING_THEN_FULL, SystemModel())) == {0}


def test_halving_and_doubling_reduces_every_block_outside_parity() -> None:
    """What ASTRA-sim leaves out is the largest block: 524,288 bytes, 3 * 327 ns. It then counts 65,536 bytes less."""
    got = run([collective(CollectiveType.ALL_REDUCE, MIB)], FULL, astra("halvingDoubling", parity=False))
    assert set(got) == {37_978 + 3 * 327}


def test_a_tree_reduces_on_the_way_up_only_outside_parity() -> None:
    """Three levels: 7 preparations, 6 messages of 20,031 ns, and 3 reductions of 1,965 ns instead of 5."""
    got = run(
        [collective(CollectiveType.ALL_REDUCE, MIB)],
        FULL,
        SystemModel(all_reduce=["doubleBinaryTree"], local_mem_bw_gbps=1600),
    )
    assert max(got) == 7 * 10 + 6 * 20_031 + 3 * 1_965


def test_a_tiny_collective_is_not_blown_up_outside_parity() -> None:
    """ASTRA-sim makes 8 bytes of 4 chunks each of 1 byte; with 4 chunks wanted, 1 byte is one chunk."""
    node = collective(CollectiveType.ALL_REDUCE, 1)
    one = set(run([node], FULL, SystemModel()))
    assert set(run([node], FULL, SystemModel(preferred_dataset_splits=4))) == one
    assert set(run([node], FULL, astra(preferred_dataset_splits=4))) == {4 * t for t in one}


def test_a_group_that_is_a_box_uses_its_dimensions_outside_parity() -> None:
    """Ranks 0, 1, 4, 5 are a 2 by 2 box: half the data scattered inside, all-reduced across, gathered inside."""
    group = (0, 1, 4, 5)
    nodes = [collective(CollectiveType.ALL_REDUCE, MIB, rank_class=r, group=0) for r in group]
    nodes += [Node("idle", NodeType.COMP, rank_class=r) for r in (2, 3, 6, 7)]
    system = SystemModel(local_mem_bw_gbps=1600)
    inside, across = 100 + 2441, 500 + 4882  # 524,288 bytes at 200 GB/s, 262,144 bytes at 50 GB/s
    expected = (2 * 10 + inside + 3 * 327) + (3 * 10 + 2 * across + 3 * 163) + (2 * 10 + inside)
    assert [run(nodes, RING_THEN_FULL, system, [group])[r] for r in group] == [expected] * 4


class BothWays:
    """All-gather of two ranks: each sends its share and receives the other's."""

    def steps(self, collective: CollectiveType, size_bytes: int, members: int, index: int) -> list[Step]:
        assert (collective, members) == (CollectiveType.ALL_GATHER, 2)
        return [
            Step("delay", duration_ns=7),
            Step("send", 1 - index, size_bytes, after=(0,)),
            Step("receive", 1 - index, size_bytes),
        ]


class Talk:
    """Says what is no step."""

    def steps(self, *arguments: object) -> list[str]:
        return ["send it"]


def test_a_users_own_algorithm_is_asked_for_its_steps() -> None:
    name = f"{__name__}:BothWays"
    pair = NetworkModel(["FullyConnected"], [2], [50.0], [500.0])
    got = run([collective(CollectiveType.ALL_GATHER, MIB)], pair, SystemModel(all_gather=[name]))
    assert got == [7 + 500 + 19_531] * 2


def test_a_users_algorithm_that_is_wrong_is_named() -> None:
    pair = NetworkModel(["FullyConnected"], [2], [50.0], [500.0])
    node = [collective(CollectiveType.ALL_GATHER, MIB)]
    with pytest.raises(ConfigError, match=r"Talk: step 0 is 'send it'; expected a llmservingsim"):
        run(node, pair, SystemModel(all_gather=[f"{__name__}:Talk"]))
    with pytest.raises(PluginError, match="no 'Walk'"):
        run(node, pair, SystemModel(all_gather=[f"{__name__}:Walk"]))


def test_programs_replace_an_algorithm() -> None:
    pair = NetworkModel(["FullyConnected"], [2], [50.0], [500.0])
    sender = (Step("delay", duration_ns=100), Step("send", 1, 1000, tag=5, after=(0,)))
    receiver = (Step("receive", 0, 1000, tag=5), Step("reduce", size_bytes=1600, after=(0,)))
    system = SystemModel(programs=((sender, receiver),), custom={"all_reduce": 0}, local_mem_bw_gbps=1600)
    # The message arrives after 100 + floor(500 + 18.6) ns; the receiver then prepares (10 ns) and reduces (3 ns).
    assert run([collective(CollectiveType.ALL_REDUCE, 1)], pair, system) == [618, 618 + 13]


def test_programs_must_fit_the_communicator() -> None:
    system = SystemModel(programs=(((Step("delay"),),),), custom={"all_reduce": 0})
    with pytest.raises(ValueError, match="over 8 ranks is given programs for 1"):
        run([collective(CollectiveType.ALL_REDUCE, 1)], FULL, system)
    with pytest.raises(ValueError, match="step 0: peer 3 is not one of 1 places"):
        run([], FULL, SystemModel(programs=(((Step("send", 3, 8),),),)))


def test_a_measured_collective_begins_when_the_last_rank_has_come() -> None:
    pair = NetworkModel(["FullyConnected"], [2], [50.0], [500.0])
    nodes = []
    for rank, late in enumerate((100, 250)):
        nodes.append(Node("work", NodeType.COMP, rank, duration_ns=late))
        nodes.append(collective(CollectiveType.ALL_REDUCE, 3000, rank_class=rank, data_deps=(2 * rank,)))
    table = MeasuredCollective("all_reduce", 2, [2000, 4000], [40, 60])
    assert run(nodes, pair, SystemModel(measured=[table])) == [250 + 50] * 2
    other = MeasuredCollective("all_reduce", 4, [2000, 4000], [40, 60])
    assert run(nodes, pair, SystemModel(measured=[other])) == run(nodes, pair, SystemModel())


def test_a_rendezvous_costs_a_handshake() -> None:
    ring = NetworkModel(["Ring"], [8], [50.0], [500.0])
    nodes = [
        Node("s", NodeType.COMM_SEND, 0, size_bytes=MIB, peer=1),
        Node("r", NodeType.COMM_RECV, 1, size_bytes=MIB, peer=0),
        *(Node("idle", NodeType.COMP, r) for r in range(2, 8)),
    ]
    assert run(nodes, ring, SystemModel())[:2] == [20_031] * 2
    assert run(nodes, ring, SystemModel(rendezvous=True))[:2] == [20_683] * 2  # 8,192 bytes: floor(500 + 152.6)


def test_the_shared_bus_takes_the_place_of_the_endpoint_delay() -> None:
    """An all-gather of two: there, out of memory and over the bus; the message; back, over the bus and into memory.

    A crossing takes o + G (m - 1) + L + o: 20 + 0.0038 * 1000 behind the bus, 20 + 0.01 * 1000 on it.
    """
    pair = NetworkModel(["FullyConnected"], [2], [50.0], [500.0])
    bus = SharedBusModel(L=10, o=5, g=2, G=0.01)
    got = run([collective(CollectiveType.ALL_GATHER, 1001)], pair, SystemModel(shared_bus=bus))
    assert got == [23 + 30 + 518 + 30 + 23] * 2


def test_roofline_times_nodes_by_operations_and_bytes() -> None:
    node = Node("op", NodeType.COMP, duration_ns=7, size_bytes=10**6, num_ops=10**9)
    system = SystemModel(roofline_enabled=True, peak_perf_tflops=312, local_mem_bw_gbps=1600)
    assert set(run_alone(node, system)) == {3205}  # compute bound: 10^9 / 312 TFLOP/s
    slow = SystemModel(roofline_enabled=True, peak_perf_tflops=312, local_mem_bw_gbps=100)
    assert set(run_alone(node, slow)) == {10_000}  # memory bound: 10^6 bytes at 100 bytes per ns


def run_alone(node: Node, system: SystemModel) -> list[int]:
    backend = NativeBackend(NetworkModel(["Ring"], [1], [1.0], [0.0]), system)
    ticket = backend.submit(backend.register(Graph.from_nodes([node])))
    backend.advance(2**62)
    return backend.rank_finish_ns(ticket).tolist()


def test_replay_takes_recorded_durations_for_everything() -> None:
    nodes = [
        Node("send", NodeType.COMM_SEND, duration_ns=30, peer=5),
        Node("recv", NodeType.COMM_RECV, duration_ns=80, peer=5),
        Node("load", NodeType.MEM_LOAD, duration_ns=20),
        Node("comp", NodeType.COMP, duration_ns=60),
    ]
    backend = NativeBackend(NetworkModel(["Ring"], [1], [1.0], [0.0]), SystemModel(replay_only=True))
    ticket = backend.submit(backend.register(Graph.from_nodes(nodes)))
    backend.advance(2**62)
    assert backend.rank_finish_ns(ticket).tolist() == [80]
    assert backend.rank_compute_ns(ticket).tolist() == [30 + 80 + 20 + 60]


def test_recorded_nodes_say_when_they_began_and_ended() -> None:
    nodes = [
        Node("a", NodeType.COMP, duration_ns=10),
        Node("b", NodeType.COMP, duration_ns=5),
        Node("cpu", NodeType.COMP, duration_ns=12, is_cpu_op=True),
    ]
    backend = NativeBackend(NetworkModel(["Ring"], [1], [1.0], [0.0]), SystemModel(record_nodes=True))
    ticket = backend.submit(backend.register(Graph.from_nodes(nodes)))
    backend.advance(2**62)
    starts, ends = backend.node_times(ticket)
    assert (starts.tolist(), ends.tolist()) == ([0, 10, 0], [10, 15, 12])
    plain = NativeBackend(NetworkModel(["Ring"], [1], [1.0], [0.0]))
    ticket = plain.submit(plain.register(Graph.from_nodes(nodes)))
    plain.advance(2**62)
    with pytest.raises(ValueError, match="record_nodes"):
        plain.node_times(ticket)


def test_llmservingsims_memory_nodes_occupy_no_slot() -> None:
    """ASTRA-sim has one slot for communication and memory; the fork lets loads run beside each other."""
    from llmservingsim.backend import MemoryLevelModel, MemoryModel

    nodes = [Node(f"load{i}", NodeType.MEM_LOAD, size_bytes=100) for i in range(3)]
    memory = MemoryModel(remote=MemoryLevelModel("PER_NPU_MEMORY_EXPANSION", 7, 1.0))
    finish = {}
    for dialect in ("astra-sim", "llmservingsim"):
        backend = NativeBackend(NetworkModel(["Ring"], [1], [1.0], [0.0]), SystemModel(dialect=dialect), memory)  # type: ignore[arg-type]
        ticket = backend.submit(backend.register(Graph.from_nodes(nodes)))
        backend.advance(2**62)
        finish[dialect] = backend.rank_finish_ns(ticket).tolist()
    assert finish == {"astra-sim": [3 * 107], "llmservingsim": [107]}
