"""Graphs in the systems on which a stock ASTRA-sim runs them, and what it cannot be told."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from astra_in_process import InThisProcess

from llmservingsim.astra_sim import AstraSimBackend, whole_microseconds
from llmservingsim.backend import MemoryLevelModel, MemoryModel, NativeBackend, NetworkModel, SystemModel
from llmservingsim.backend.config import FabricModel, LinkModel
from llmservingsim.errors import ConfigError, TraceError
from llmservingsim.graph import Graph, MemoryLocation, Node, NodeType

FOREVER = 2**62
FULL = NetworkModel(["FullyConnected"], [8], [50.0], [500.0])
RING = NetworkModel(["Ring"], [8], [50.0], [500.0])


def tensor_parallel(*ranks: int, duration_ns: int = 3000, size_bytes: int = 65_536) -> Graph:
    """Compute, then an all-reduce over all ranks of the class."""
    nodes = [
        Node("work", NodeType.COMP, duration_ns=duration_ns),
        Node("sum", NodeType.COMM_COLL, size_bytes=size_bytes, group=0, data_deps=(0,)),
    ]
    return Graph.from_nodes(nodes, [ranks], [ranks])


def backend(network: NetworkModel, memory: MemoryModel | None = None) -> tuple[AstraSimBackend, InThisProcess]:
    binary = InThisProcess()
    return AstraSimBackend(network, SystemModel(), memory or MemoryModel(), binary), binary


@pytest.mark.parametrize(
    ("network", "ranks", "npus"),
    [
        (FULL, (4, 5, 6), [3]),
        (FULL, tuple(range(8)), [8]),
        (RING, tuple(range(8)), [8]),
        (RING, (2, 3, 4), [8]),  # distances on the ring depend on the others, which idle
    ],
)
def test_times_are_the_native_ones_on_a_system_of_its_own_or_the_whole(
    network: NetworkModel, ranks: tuple[int, ...], npus: list[int]
) -> None:
    ours, binary = backend(network)
    native = NativeBackend(network)
    for simulation in (ours, native):
        assert simulation.advance(10_000) == []
        simulation.submit(simulation.register(tensor_parallel(*ranks)))
        assert simulation.advance(FOREVER) == [0]
    assert [n.npus_count for n in binary.networks] == [npus]
    assert ours.now_ns == native.now_ns
    for values in ("ranks", "rank_finish_ns", "rank_compute_ns"):
        ours_values, native_values = getattr(ours, values)(0), getattr(native, values)(0)
        assert ours_values.tolist() == native_values.tolist()
        assert ours_values.dtype == native_values.dtype


def test_a_device_alone_gets_an_idle_neighbour_that_does_not_count() -> None:
    """The neighbour idles for a microsecond, longer than the graph takes: its end is nobody's."""
    ours, binary = backend(NetworkModel(["Ring"], [1], [50.0], [500.0]))
    graph = Graph.from_nodes([Node("zero", NodeType.COMP)])
    ours.submit(ours.register(graph))
    assert ours.advance(FOREVER) == [0]
    assert binary.networks[0].npus_count == [2]
    assert ours.now_ns == 1
    assert ours.ranks(0).tolist() == [0]


def test_equal_work_is_run_once_wherever_it_lies() -> None:
    ours, binary = backend(FULL)
    graphs = [ours.register(tensor_parallel(*ranks)) for ranks in ((0, 1), (4, 5), (0, 1, 2))]
    tickets = [ours.submit(graph) for graph in graphs]
    assert ours.advance(FOREVER) == tickets[:2]
    assert ours.advance(FOREVER) == tickets[2:]
    ours.submit(graphs[0], np.array([3000, 0]), np.array([0, 65_536]))
    ours.submit(graphs[0], np.array([3000, 0]), np.array([0, 65_537]))
    ours.advance(FOREVER)
    assert [n.npus_count for n in binary.networks] == [[2], [3], [2]]
    assert ours.notes()[0].endswith(
        "run 3 times for 5 iterations; iterations of different instances share no links there"
    )


def test_steps_and_their_results_are_those_of_the_native_backend() -> None:
    ours, _ = backend(FULL)
    native = NativeBackend(FULL)
    durations = np.array([[1000, 0], [2000, 0], [5000, 0]])
    sizes = np.array([[0, 1000], [0, 2000], [0, 3000]])
    for simulation in (ours, native):
        simulation.submit(simulation.register(tensor_parallel(0, 1)), durations, sizes)
        assert simulation.advance(FOREVER) == [0]
    for values in ("step_ends_ns", "rank_finish_ns", "rank_compute_ns"):
        assert getattr(ours, values)(0).tolist() == getattr(native, values)(0).tolist()


def test_results_of_what_still_runs_are_refused() -> None:
    ours, _ = backend(FULL)
    ours.submit(ours.register(tensor_parallel(0, 1)))
    with pytest.raises(ValueError, match="ticket 0 has not completed"):
        ours.rank_finish_ns(0)


def test_durations_become_the_nearest_microsecond_and_never_none() -> None:
    exact = np.array([0, 1, 499, 500, 1499, 1500, 2501])
    assert whole_microseconds(exact).tolist() == [0, 1000, 1000, 1000, 1000, 2000, 3000]


def test_negative_values_are_refused() -> None:
    ours, _ = backend(FULL)
    graph = ours.register(tensor_parallel(0, 1))
    with pytest.raises(ValueError, match="durations_ns: -1 is negative"):
        ours.submit(graph, np.array([-1, 0]))


def test_remote_memory_is_handed_on_and_other_memory_refused() -> None:
    remote = MemoryModel(remote=MemoryLevelModel("PER_NPU_MEMORY_EXPANSION", 100, 2.0))
    ours, _ = backend(FULL, remote)
    load = Node("load", NodeType.MEM_LOAD, size_bytes=1000)
    ours.submit(ours.register(Graph.from_nodes([load])))
    ours.advance(FOREVER)
    assert ours.now_ns == 100 + 1000 // 2
    with pytest.raises(ConfigError, match=r"--backend astra-sim: memory: ASTRA-sim's files cannot say local = "):
        backend(FULL, MemoryModel(local=MemoryLevelModel("PER_NPU_MEMORY_EXPANSION", 100, 2.0)))


@pytest.mark.parametrize(
    "node", [Node("x", NodeType.PIM_COMP), Node("x", NodeType.MEM_LOAD, location=MemoryLocation.CXL)]
)
def test_nodes_that_it_does_not_know_are_refused(node: Node) -> None:
    """By the native backend's check where the system has no such device, else for what they are."""
    ours, _ = backend(FULL)
    with pytest.raises((TraceError, ValueError), match="'x'"):
        ours.register(Graph.from_nodes([node]))


def test_a_graph_whose_traces_say_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmservingsim import astra_sim

    ours, _ = backend(FULL)
    read = astra_sim.read_traces

    def forget(*arguments: Any, **keys: Any) -> Graph:
        graph = read(*arguments, **keys)
        return replace(graph, priority=np.zeros_like(graph.priority))

    monkeypatch.setattr(astra_sim, "read_traces", forget)
    nodes = [Node("sum", NodeType.COMM_COLL, size_bytes=64, group=0, priority=3)]
    with pytest.raises(TraceError, match="node 'sum': its trace cannot say priority = 3"):
        ours.register(Graph.from_nodes(nodes, [(0, 1)], [(0, 1)]))


@pytest.mark.parametrize(
    ("network", "system", "said"),
    [
        ({"fabric": FabricModel([LinkModel(0, 1, 50.0, 1.0)])}, {}, "network: .* a fabric of links of its own"),
        ({"model": "flow"}, {}, "network: .* links that share their bandwidth"),
        ({"bandwidth_gbps": [50.0, 50.0]}, {}, "one entry per dimension"),
        ({}, {"custom": {"all_reduce": 0}}, "system layer: ASTRA-sim's files cannot say custom = "),
        ({}, {"dialect": "llmservingsim"}, "system layer: ASTRA-sim's files cannot say dialect = 'llmservingsim'"),
    ],
)
def test_what_the_files_cannot_say_is_refused(network: dict[str, Any], system: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^--backend astra-sim: {said}|^--backend astra-sim: .*{said}"):
        AstraSimBackend(msgspec.structs.replace(FULL, **network), SystemModel(**system), MemoryModel(), InThisProcess())
