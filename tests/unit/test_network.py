"""The section `network` of a run: which links, which algorithms, whose ranks, and what is refused."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmservingsim.backend import NetworkModel, SystemModel
from llmservingsim.backend.config import FabricModel, MeasuredCollective
from llmservingsim.config import NetworkSpec
from llmservingsim.config.catalog import find_accelerator
from llmservingsim.errors import ConfigError, PluginError
from llmservingsim.network import NetworkPlan, auto_algorithms, plan_network
from llmservingsim.ranks import Footprint

H100 = find_accelerator("H100")
NETWORKS = Path(__file__).parents[2] / "inputs" / "networks"
COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all")


def plan(nodes: Sequence[Sequence[int]] = ((8,),), base: Path = NETWORKS, **keys: Any) -> NetworkPlan:
    places = [(n, i, size) for n, node in enumerate(nodes) for i, size in enumerate(node)]
    return planned([Footprint(f"nodes[{n}].instances[{i}]", n, size) for n, i, size in places], base, **keys)


def planned(footprints: Sequence[Footprint], base: Path = NETWORKS, **keys: Any) -> NetworkPlan:
    return plan_network(msgspec.convert(keys, NetworkSpec), footprints, [H100] * len(footprints), base)


class Star:
    """A switch in the middle."""

    def __init__(self, ranks: int = 4) -> None:
        self.npus_count = [ranks]

    def links(self) -> list[tuple[Any, ...]]:
        from llmservingsim.backend.topologies import Link

        return [Link(rank, "hub", "10GB/s", "1us") for rank in range(self.npus_count[0])]


class Nothing:
    """Has no links."""

    npus_count = (2,)


def test_what_a_run_has_without_a_word_about_its_network_has_not_changed() -> None:
    found = plan(((2, 1), (3,)))
    assert found.network == NetworkModel(
        ["FullyConnected"], [6], [H100.link_bandwidth * H100.efficiency.link / 2**30], [H100.link_latency_ns]
    )
    assert found.system == SystemModel(local_mem_bw_gbps=H100.memory_bandwidth / 10**9)
    assert found.ranks == (range(2), range(2, 3), range(3, 6))


def test_a_grid_has_a_value_per_dimension_and_one_value_stands_for_all() -> None:
    found = plan(
        ((8,), (8,)),
        topology=["Ring", "Switch"],
        npus_count=[8, 2],
        bandwidth=["100GiB/s", "10GiB/s"],
        latency="2us",
        model="aware",
    ).network
    assert found == NetworkModel(["Ring", "Switch"], [8, 2], [100.0, 10.0], [2000, 2000], "aware")


def test_a_dimension_may_have_more_devices_than_the_run_uses() -> None:
    assert plan(((2,),), topology="Ring", npus_count=[16]).network.npus == 16


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"topology": ["Ring", "Ring"]}, "network: npus_count: missing; a network of 2 dimensions has to state it"),
        ({"topology": ["Ring", "Ring"], "npus_count": [4, 4]}, "network: bandwidth: missing"),
        (
            {"topology": ["Ring", "Ring"], "npus_count": [16], "bandwidth": "1GB/s", "latency": "1us"},
            r"network: npus_count: expected one per dimension, 2, got \[16\]",
        ),
        ({"bandwidth": ["1GB/s", "2GB/s"]}, "network: bandwidth: expected one value, or one per dimension, 1, got"),
        ({"npus_count": [4]}, "network: topology: it has 4 ranks, but the instances use 8"),
        ({"options": {"nodes": 2}}, "network: options: a grid has none; expected bandwidth, latency and npus_count"),
        ({"topology": "DGX-H100", "bandwidth": "1GB/s"}, "network: bandwidth: the topology 'DGX-H100' states its own"),
        ({"topology": "DGX-H10"}, r"network: topology: 'DGX-H10' is unknown \(did you mean 'DGX-H100'\?\); expected"),
        ({"topology": "Rng"}, r"network: topology: 'Rng' is unknown \(did you mean 'Ring'\?\)"),
        ({"topology": "rail-h10.yaml"}, r"rail-h10.yaml: no such file \(did you mean 'rail-h100.yaml'\?\)"),
        ({"topology": "DGX-H100", "options": {"npu": 4}}, r"DGX-H100: unknown key 'npu'.*did you mean 'npus'"),
        ({"all_reduce": ["ring", "ring"]}, "network: all_reduce: expected an algorithm per dimension, 1, or none"),
    ],
)
def test_what_does_not_fit_is_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(**keys)


def test_a_catalogued_network_is_taken_with_options() -> None:
    found = plan(topology="dgx h100 superpod", options={"nodes": 2}, model="flow").network
    assert (found.npus_count, found.model) == ([8, 2], "flow")
    assert found.fabric is not None


def test_a_catalogued_torus_is_a_grid() -> None:
    found = plan(topology="TPU-v4-4x4x4", options={"npus_count": [4, 4]}).network
    assert (found.topology, found.npus_count) == (["Ring", "Ring"], [4, 4])


def test_a_file_is_looked_for_beside_the_run_file() -> None:
    assert plan(topology="two-islands.yaml").network.npus_count == [4, 2]


def test_a_class_of_ones_own_gets_the_options_as_arguments() -> None:
    assert plan(topology="test_network:Star", options={"ranks": 9}).network.npus_count == [9]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("test_network:Star", {"rank": 9}, r"cannot be built from options {'rank': 9}"),
        ("test_network:Nothing", {}, "has no 'links'; expected npus_count and links"),
        ("test_network:Sta", {}, r"has no 'Sta' \(did you mean 'Star'\?\)"),
    ],
)
def test_a_class_that_is_no_topology_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(PluginError, match=said):
        plan(topology=name, options=options)


def test_instances_get_ranks_of_the_server_that_their_node_is() -> None:
    found = plan(((4, 2), (8,), (1,)), topology="rail-h100.yaml")
    assert found.ranks == (range(4), range(4, 6), range(8, 16), range(16, 17))


def test_without_servers_ranks_go_on_from_node_to_node() -> None:
    assert plan(((2,), (2, 4)), topology="two-islands.yaml").ranks == (range(2), range(2, 4), range(4, 8))


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (((8,), (4, 5)), r"nodes\[1\] uses 9 devices; expected at most 16 nodes of at most 8 devices each"),
        (((1,),) * 17, r"nodes\[16\] uses 1 devices; expected at most 16 nodes"),
    ],
)
def test_a_node_that_does_not_fit_its_server_is_refused(nodes: Sequence[Sequence[int]], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan(nodes, topology="rail-h100.yaml")


def over(nnodes: int, devices: int = 8, **keys: Any) -> Footprint:
    return Footprint("nodes[0].instances[0]", 0, devices, nnodes, **keys)


def test_an_instance_may_stand_on_several_servers_of_a_cluster() -> None:
    found = planned([over(2), Footprint("nodes[1].instances[0]", 1, 4)], topology="rail-h100.yaml")
    assert found.ranks == ((0, 1, 2, 3, 8, 9, 10, 11), range(12, 16))


GRID = {"topology": ["FullyConnected", "Switch"], "npus_count": [4, 4], "bandwidth": "1GB/s", "latency": "1us"}


def test_the_outermost_dimension_of_a_grid_counts_servers_once_an_instance_takes_several() -> None:
    second = Footprint("nodes[1].instances[0]", 1, 1)
    assert planned([over(2, 4), second], **GRID).ranks == ((0, 1, 4, 5), range(6, 7))
    assert planned([over(1, 4), second], **GRID).ranks == (range(4), range(4, 5))
    assert planned([over(1, 3), second], **GRID).ranks == (range(3), range(3, 4))


def test_of_three_dimensions_the_inner_two_make_a_server() -> None:
    cube = {"topology": ["Ring"] * 3, "npus_count": [2, 4, 2], "bandwidth": "1GB/s", "latency": "1us"}
    assert planned([over(2, 12)], **cube).ranks == ((*range(6), *range(8, 14)),)


def test_one_dimension_has_no_servers() -> None:
    with pytest.raises(
        ConfigError, match=r"network: nodes\[0\].instances\[0\]: nnodes: 2 servers, but the network has"
    ):
        planned([over(2)])


def test_auto_takes_a_ring_where_a_collective_has_no_power_of_two_of_servers() -> None:
    """Halving and doubling over three servers would never end."""
    assert planned([over(2, 8)], **GRID).system.all_reduce == ["ring", "halvingDoubling"]
    assert planned([over(3, 12)], **GRID).system.all_reduce == ["ring", "ring"]
    members = [Footprint("", node, 8, group=0) for node in range(3)]
    system = planned(members, topology="rail-h100.yaml", options={"nodes": 4}).system
    assert (system.all_reduce, system.reduce_scatter) == (["ring", "halvingDoubling"], ["ring", "ring"])


def test_a_stated_algorithm_that_could_not_run_is_refused() -> None:
    said = "network: all_reduce: 'halvingDoubling' needs a power of two of ranks, but a collective has 3 in dimension 1"
    with pytest.raises(ConfigError, match=said):
        planned([over(3, 12)], all_reduce=["ring", "halvingDoubling"], **GRID)
    assert planned([over(3, 12)], reduce_scatter=["ring", "halvingDoubling"], **GRID).ranks == (tuple(range(12)),)


FABRIC = FabricModel([])


@pytest.mark.parametrize(
    ("network", "others", "all_to_all"),
    [
        (NetworkModel(["Switch"], [8], [1.0], [1.0]), ["ring"], ["ring"]),
        (
            NetworkModel(["Ring", "Switch"], [4, 4], [1.0] * 2, [1.0] * 2),
            ["ring", "halvingDoubling"],
            ["ring", "direct"],
        ),
        (NetworkModel(["Switch", "Ring"], [4, 4], [1.0] * 2, [1.0] * 2), ["ring", "ring"], ["direct", "ring"]),
        (NetworkModel([], [8], [], [], fabric=FABRIC), ["ring"], ["direct"]),
        (NetworkModel([], [8, 4], [], [], fabric=FABRIC), ["ring", "halvingDoubling"], ["direct", "direct"]),
        (NetworkModel([], [8, 6], [], [], fabric=FABRIC), ["ring", "ring"], ["direct", "direct"]),
    ],
)
def test_auto_chooses_as_the_page_says(network: NetworkModel, others: list[str], all_to_all: list[str]) -> None:
    for collective in COLLECTIVES:
        assert auto_algorithms(network, collective) == (all_to_all if collective == "all_to_all" else others)


def test_stated_algorithms_and_the_rest_of_the_system_layer_reach_the_backend(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("collective,ranks,size_bytes,time_us\nall_reduce,8,1024,10\n")
    system = plan(
        base=tmp_path,
        topology="DGX-H100",
        all_reduce=["direct"],
        all_gather=[],
        collective_optimization="baseline",
        num_queues_per_dim=2,
        scheduling_policy="FIFO",
        measured_collectives=["m.csv"],
    ).system
    assert (system.all_reduce, system.all_gather, system.reduce_scatter) == (["direct"], [], ["ring"])
    assert (system.collective_optimization, system.num_queues_per_dim) == ("baseline", 2)
    assert system.scheduling_policy == "FIFO"
    assert system.measured == [MeasuredCollective("all_reduce", 8, [1024], [10_000])]
