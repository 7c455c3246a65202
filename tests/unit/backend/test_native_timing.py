"""The native backend times graphs by ASTRA-sim's rules."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from llmservingsim.backend import MemoryLevelModel, MemoryModel, NativeBackend, NetworkModel, SystemModel
from llmservingsim.errors import DeadlockError
from llmservingsim.graph import CollectiveType, Graph, MemoryLocation, Node, NodeType

FOREVER = 2**62
ASTRA = SystemModel(local_mem_bw_gbps=1600, zero_duration_ns=1, parity=True)


def network(topology: str = "Ring", npus: int = 4) -> NetworkModel:
    return NetworkModel([topology], [npus], [50.0], [500.0])


def run(
    nodes: Sequence[Node],
    classes: Sequence[Sequence[int]] = ((0,),),
    groups: Sequence[Sequence[int]] = (),
    **backend: object,
) -> list[int]:
    """Return the finish time of every rank."""
    native = NativeBackend(**{"network": network(), **backend})  # type: ignore[arg-type]
    ticket = native.submit(native.register(Graph.from_nodes(nodes, classes, groups)))
    native.advance(FOREVER)
    return native.rank_finish_ns(ticket).tolist()


def collective(kind: CollectiveType, size: int, **node: object) -> Node:
    return Node("coll", NodeType.COMM_COLL, size_bytes=size, collective=kind, **node)  # type: ignore[arg-type]


# The worked examples of ASTRA-sim's own runs: (network, system, size, nanoseconds).
EXAMPLES = [
    (network(), ASTRA, 65_536, 4_990),
    (network(), SystemModel(preferred_dataset_splits=4, local_mem_bw_gbps=1600), 65_536, 14_176),
    (network("FullyConnected", 8), ASTRA, 2**20, 43_025),
]


@pytest.mark.parametrize(("net", "system", "size", "expected"), EXAMPLES)
@pytest.mark.parametrize("is_collapsed", [True, False])
def test_a_ring_all_reduce_takes_what_astra_sim_says(
    net: NetworkModel, system: SystemModel, size: int, expected: int, is_collapsed: bool
) -> None:
    ranks = range(net.npus)
    classes = [tuple(ranks)] if is_collapsed else [(r,) for r in ranks]
    nodes = [collective(CollectiveType.ALL_REDUCE, size, rank_class=c) for c in range(len(classes))]
    assert run(nodes, classes, network=net, system=system) == [expected] * net.npus


def test_nodes_start_in_ascending_order_when_their_slot_is_free() -> None:
    """Node 1 becomes ready before node 2, but 2 and 3 wait for the compute slot together."""
    nodes = [
        Node("a", NodeType.COMP, duration_ns=10),
        Node("c", NodeType.COMP, duration_ns=5, data_deps=(0,)),
        Node("b", NodeType.COMP, duration_ns=3),
        Node("mem", NodeType.MEM_LOAD, size_bytes=100, data_deps=(1,)),
    ]
    memory = MemoryModel(remote=MemoryLevelModel("PER_NPU_MEMORY_EXPANSION", 7, 1.0))
    # a until 10, then c (lower id than b) until 15, then b until 18 beside the load until 15 + 107.
    assert run(nodes, memory=memory) == [122]


def test_a_host_node_runs_beside_the_accelerator() -> None:
    nodes = [
        Node("gpu", NodeType.COMP, duration_ns=10),
        Node("cpu", NodeType.COMP, duration_ns=12, is_cpu_op=True),
    ]
    assert run(nodes) == [12]


def test_a_send_holds_the_communication_slot_until_it_arrives() -> None:
    nodes = [
        Node("s1", NodeType.COMM_SEND, rank_class=0, size_bytes=16_384, peer=1, tag=1),
        Node("s2", NodeType.COMM_SEND, rank_class=0, size_bytes=16_384, peer=1, tag=2),
        Node("r2", NodeType.COMM_RECV, rank_class=1, size_bytes=16_384, peer=0, tag=2),
        Node("r1", NodeType.COMM_RECV, rank_class=1, size_bytes=16_384, peer=0, tag=1),
    ]
    assert run(nodes, [(0,), (1,)]) == [2 * 805, 2 * 805]


def test_messages_between_classes_go_member_by_member() -> None:
    nodes = [
        Node("s", NodeType.COMM_SEND, rank_class=0, size_bytes=16_384, peer=2),
        Node("r", NodeType.COMM_RECV, rank_class=1, size_bytes=16_384, peer=0),
    ]
    assert run(nodes, [(0, 1), (2, 3)], network=network("Switch")) == [1305] * 4


def test_a_pool_serves_the_members_of_a_class_in_turn() -> None:
    """A class whose members would differ is simulated rank by rank."""
    memory = MemoryModel(remote=MemoryLevelModel("MEMORY_POOL", 10, 2.0))
    nodes = [Node("load", NodeType.MEM_LOAD, size_bytes=100)]
    assert run(nodes, [(0, 1, 2, 3)], memory=memory) == [60, 120, 180, 240]


def test_ranks_of_a_node_share_its_memory_server() -> None:
    memory = MemoryModel(remote=MemoryLevelModel("PER_NODE_MEMORY_EXPANSION", 10, 2.0, npus_per_node=2))
    nodes = [Node("load", NodeType.MEM_STORE, size_bytes=100)]
    assert run(nodes, [(0, 1, 2, 3)], memory=memory) == [60, 120, 60, 120]


def test_submissions_share_memory_servers() -> None:
    memory = MemoryModel(local=MemoryLevelModel("MEMORY_POOL", 10, 2.0))
    backend = NativeBackend(network(), memory=memory)
    graph = backend.register(
        Graph.from_nodes([Node("l", NodeType.MEM_LOAD, size_bytes=100, location=MemoryLocation.LOCAL)])
    )
    first, second = backend.submit(graph), backend.submit(graph)
    assert backend.advance(FOREVER) == [first]
    assert backend.advance(FOREVER) == [second]
    assert backend.now_ns == 120


def test_submissions_on_the_same_rank_do_not_share_slots() -> None:
    backend = NativeBackend(network())
    graph = backend.register(Graph.from_nodes([Node("a", NodeType.COMP, duration_ns=10)]))
    tickets = [backend.submit(graph), backend.submit(graph)]
    assert backend.advance(FOREVER) == tickets
    assert backend.now_ns == 10


def test_a_group_on_a_ring_pays_its_real_distances() -> None:
    """Ranks 0, 1, 3 of a ring of 8 are 1, 2 and 3 links apart, so no one stands for all."""
    net = network("Ring", 8)
    kinds = [collective(CollectiveType.ALL_GATHER, 1024, group=0)]
    collapsed = run(kinds, [(0, 1, 3)], [(0, 1, 3)], network=net)
    nodes = [collective(CollectiveType.ALL_GATHER, 1024, group=0, rank_class=c) for c in range(3)]
    assert collapsed == run(nodes, [(0,), (1,), (3,)], [(0, 1, 3)], network=net)
    assert len(set(collapsed)) > 1


def test_a_collective_may_span_rank_classes() -> None:
    nodes = [collective(CollectiveType.ALL_REDUCE, 65_536, rank_class=c) for c in range(2)]
    nodes.insert(1, Node("late", NodeType.COMP, rank_class=1, duration_ns=100))
    nodes[2] = collective(CollectiveType.ALL_REDUCE, 65_536, rank_class=1, data_deps=(1,))
    together = run(nodes, [(0, 1), (2, 3)], system=ASTRA)
    assert together == run(
        [
            *(collective(CollectiveType.ALL_REDUCE, 65_536, rank_class=c) for c in range(2)),
            *(Node("late", NodeType.COMP, rank_class=c, duration_ns=100) for c in (2, 3)),
            *(collective(CollectiveType.ALL_REDUCE, 65_536, rank_class=c, data_deps=(c,)) for c in (2, 3)),
        ],
        [(0,), (1,), (2,), (3,)],
        system=ASTRA,
    )


def test_collectives_of_one_rank_or_of_nothing_take_no_time() -> None:
    alone = collective(CollectiveType.ALL_REDUCE, 1000, group=0)
    assert run([alone], groups=[(0,)]) == [0]
    nothing = [collective(CollectiveType.ALL_GATHER, 0, rank_class=c) for c in range(4)]
    assert run(nothing, [(r,) for r in range(4)]) == [0] * 4
    assert run(nothing[:1], [(0, 1, 2, 3)]) == [0] * 4


def test_with_parity_a_collective_of_one_rank_is_refused_because_it_would_never_complete() -> None:
    with pytest.raises(ValueError, match="node 0 'coll': a collective of one rank never completes in ASTRA-sim"):
        run([collective(CollectiveType.ALL_REDUCE, 1000, group=0)], groups=[(0,)], system=ASTRA)


def test_with_parity_an_all_gather_that_cannot_be_split_is_refused() -> None:
    """ASTRA-sim would loop for ever."""
    nodes = [collective(CollectiveType.ALL_GATHER, 63)]
    system = SystemModel(preferred_dataset_splits=64)
    with pytest.raises(ValueError, match="all-gather of 63 bytes cannot be split into 64 chunks"):
        run(nodes, [(0, 1, 2, 3)], system=msgspec.structs.replace(system, parity=True))
    assert min(run(nodes, [(0, 1, 2, 3)], system=system)) > 0


def test_a_zero_duration_takes_what_the_system_says() -> None:
    nodes = [Node("a", NodeType.COMP), Node("b", NodeType.COMP)]
    assert run(nodes) == [0]
    assert run(nodes, system=ASTRA) == [2]


def test_an_instant_node_triggers_no_issue_pass_with_parity() -> None:
    nodes = [Node("i", NodeType.INVALID), Node("a", NodeType.COMP, duration_ns=3, data_deps=(0,))]
    assert run(nodes) == [3]
    with pytest.raises(DeadlockError, match="node 1 'a' is ready, but nothing on its rank completes any more"):
        run(nodes, system=ASTRA)


def test_exposed_time_counts_the_accelerators_compute_only() -> None:
    nodes = [
        Node("gpu", NodeType.COMP, duration_ns=10),
        Node("cpu", NodeType.COMP, duration_ns=12, is_cpu_op=True),
        Node("gpu2", NodeType.COMP, duration_ns=20, data_deps=(1,)),
    ]
    backend = NativeBackend(network())
    ticket = backend.submit(backend.register(Graph.from_nodes(nodes)), np.array([[10, 12, 20], [1, 2, 3]]))
    backend.advance(FOREVER)
    assert backend.now_ns == 32 + 5
    assert backend.rank_compute_ns(ticket).tolist() == [34]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node("n", NodeType.METADATA), "node type 1 is not supported"),
        (Node("n", NodeType.COMM_COLL, size_bytes=8, is_cpu_op=True), "only COMP nodes run on the CPU"),
        (Node("n", NodeType.COMM_COLL, size_bytes=8, group=3), "group 3 does not exist"),
        (Node("n", NodeType.COMM_COLL, size_bytes=8), "spans rank 2, which is in no rank class"),
        (Node("n", NodeType.COMM_COLL, size_bytes=8, group=0), "its own rank is not in group 0"),
        (Node("n", NodeType.COMM_COLL, collective=CollectiveType.BARRIER), "collective type 9 is not one of"),
        (Node("n", NodeType.COMM_SEND, size_bytes=8, peer=0), "is in its own rank class"),
        (Node("n", NodeType.COMM_SEND, size_bytes=8, peer=9), "rank 9, is in no rank class"),
        (Node("n", NodeType.COMM_SEND, size_bytes=0, peer=1), "needs at least one byte"),
        (Node("n", NodeType.MEM_LOAD, size_bytes=8), "the remote memory is NO_MEMORY_EXPANSION"),
        (Node("n", NodeType.MEM_LOAD, location=MemoryLocation.CXL), "the cxl memory is NO_MEMORY_EXPANSION"),
        (Node("n", NodeType.COMP, duration_ns=-1), "must be between 0 and 2\\^59, not -1"),
        (Node("n", NodeType.COMP, data_deps=(5,)), "depends on node 5, which does not exist"),
    ],
)
def test_a_graph_that_makes_no_sense_is_refused(node: Node, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run([node], [(0,), (1,)], [(1,)])


def test_a_missing_algorithm_is_refused_where_it_is_used() -> None:
    with pytest.raises(ValueError, match="names no algorithm for collective type 0"):
        run([collective(CollectiveType.ALL_REDUCE, 8)], [(0, 1, 2, 3)], system=SystemModel(all_reduce=[]))


def test_simulations_run_side_by_side_in_threads() -> None:
    def simulate(seed: int) -> int:
        backend = NativeBackend(network())
        graph = backend.register(Graph.from_nodes([Node("a", NodeType.COMP), Node("b", NodeType.COMP)]))
        values = np.random.default_rng(seed).integers(1, 100, (200, 2))
        for row in values:
            backend.submit(graph, row)
            backend.advance(FOREVER)
        return backend.now_ns - int(values.sum())

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(simulate, range(16))) == [0] * 16


def test_a_backend_in_use_refuses_other_threads() -> None:
    backend = NativeBackend(network())
    nodes = [Node("a", NodeType.COMP, duration_ns=1), Node("b", NodeType.COMP, duration_ns=1)]
    graph = backend.register(Graph.from_nodes(nodes))
    # Half a second of events: long enough to be seen from here.
    ticket = backend.submit(graph, np.ones((2_000_000, 2), dtype=np.int64))
    with ThreadPoolExecutor(1) as pool:
        completed = pool.submit(backend.advance, FOREVER)
        refusals = []
        while not completed.done() and not refusals:
            try:
                assert backend.now_ns in (0, 4_000_000)
            except RuntimeError as error:
                refusals.append(str(error))
        assert completed.result() == [ticket]
    assert refusals == ["the backend is in use: another call of it has not returned"]
    assert backend.now_ns == 4_000_000


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("duration_ns", np.array([1.7])),
        ("rank_class", np.array([2**32])),
        ("is_cpu_op", np.array([2])),
        ("names", (1,)),
        ("rank_classes", ((0.5,),)),
    ],
)
def test_columns_of_another_type_are_refused_rather_than_converted(column: str, values: object) -> None:
    graph = replace(Graph.from_nodes([Node("a", NodeType.COMP, duration_ns=10)]), **{column: values})
    with pytest.raises(ValueError, match=f"graph: {column} is not a"):
        NativeBackend(network()).register(graph)


def test_memory_does_not_grow_with_submissions() -> None:
    """A million submissions would show; a hundred thousand leave the same few objects behind as ten thousand."""
    import resource

    backend = NativeBackend(network())
    graph = backend.register(Graph.from_nodes([Node("a", NodeType.COMP, duration_ns=1)] * 2))
    peaks = []
    for _ in range(2):
        for _ in range(50_000):
            backend.submit(graph)
            backend.advance(FOREVER)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    # ru_maxrss is in KiB; 50,000 leaked submissions of some 400 bytes would be 20 MB.
    assert peaks[1] - peaks[0] < 4_000
