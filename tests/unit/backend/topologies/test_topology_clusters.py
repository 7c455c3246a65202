"""Clusters: rails, fat trees and dragonflies by their hops and by what crosses their middle."""

import pytest
from topology_examples import GB, HOST, LONE, NVSWITCH, WIRE, max_flow

from llmservingsim.backend.topologies import (
    Cluster,
    Device,
    DragonflyFabric,
    FatTreeFabric,
    Memory,
    PcieNode,
    RailFabric,
    build_network,
)
from llmservingsim.backend.topologies.fabrics import Port, Ports
from llmservingsim.errors import ConfigError


def nics(nodes: range, per_node: int = 1) -> list[Device]:
    return [f"node{n}/nic{i}" for n in nodes for i in range(per_node)]


def rail(**keys: object) -> Cluster:
    return Cluster(nodes=4, node=NVSWITCH, fabric=RailFabric(**WIRE, **keys))  # type: ignore[arg-type]


def test_ranks_count_node_by_node_and_collectives_go_inside_first() -> None:
    cluster = rail()
    assert cluster.npus_count == (8, 4)
    assert cluster.npus_per_node == 8
    assert cluster.route(8, 15) == (8, "node1/nvswitch0", 15)


def test_one_rail_is_one_leaf() -> None:
    """Accelerator 5 of node 0 to accelerator 5 of node 2."""
    way = rail().route(5, 21)
    assert way == (5, "node0/pcie2", "node0/nic5", "rail5.leaf0", "node2/nic5", "node2/pcie2", 21)


def test_between_rails_nvlink_carries_the_message_to_the_right_one() -> None:
    way = rail().route(5, 16)
    assert way[:3] == (5, "node0/nvswitch0", 0)
    assert way[3:] == ("node0/pcie0", "node0/nic0", "rail0.leaf0", "node2/nic0", "node2/pcie0", 16)


def test_between_rails_without_pxn_a_spine_is_crossed() -> None:
    way = rail(pxn=False).route(5, 16)
    assert way[3] == "rail5.leaf0"
    assert str(way[4]).startswith("spine")
    assert way[5] == "rail0.leaf0"


def test_nodes_without_nvlink_cross_a_spine_between_rails() -> None:
    cluster = Cluster(nodes=2, node=PcieNode(npus=2, nics=2, host=HOST), fabric=RailFabric(**WIRE))
    assert cluster.route(0, 3)[:3] == (0, "node0/pcie0", "node0/nic0")
    assert str(cluster.route(0, 3)[4]).startswith("spine")


def test_a_memory_of_a_node_uses_the_interface_of_the_target_itself() -> None:
    way = rail().route("node0/cpu0", 19)
    assert 3 not in way
    assert way[-5:] == ("node0/nic3", "rail3.leaf0", "node2/nic3", "node2/pcie1", 19)


@pytest.mark.parametrize(("oversubscription", "up"), [(1, 4), (2, 2), (4, 1), (3, 2)])
def test_the_spines_of_rails_carry_what_oversubscription_leaves(oversubscription: float, up: int) -> None:
    """Four nodes are four cables of 50 GB/s down a leaf. From rail 0 to rail 1 go as many as lead up; 4/3 is 2."""
    links = list(rail(pxn=False, oversubscription=oversubscription).fabric.links(Ports(4, 8)))
    sources, targets = ([f"node{n}/nic{i}" for n in range(4)] for i in (0, 1))
    assert max_flow(links, sources, targets) == up * 50 * GB


def test_a_long_rail_has_several_leaves() -> None:
    fabric = RailFabric(nodes_per_leaf=2, **WIRE)
    ports = Ports(4, 1)
    assert fabric.switches(ports, Port(0, 0), Port(1, 0)) == ["rail0.leaf0"]
    assert len(fabric.switches(ports, Port(0, 0), Port(2, 0))) == 3
    assert max_flow(fabric.links(ports), nics(range(2)), nics(range(2, 4))) == 2 * 50 * GB


def test_few_spines_have_several_cables_from_a_leaf() -> None:
    fabric = RailFabric(spines=2, pxn=False, **WIRE)
    names = {link.target for link in fabric.links(Ports(4, 2)) if str(link.target).startswith("spine")}
    assert names == {"spine0", "spine1"}
    assert max_flow(fabric.links(Ports(4, 2)), nics(range(4), 1), [f"node{n}/nic1" for n in range(4)]) == 4 * 50 * GB


def tree(nodes: int, **keys: object) -> Cluster:
    return Cluster(nodes=nodes, node=LONE, fabric=FatTreeFabric(**WIRE, **keys))  # type: ignore[arg-type]


def switches(cluster: Cluster, source: int, target: int) -> list[str]:
    """The switches of the fabric on the way: those outside any node."""
    return [d for d in cluster.route(source, target) if isinstance(d, str) and "/" not in d]


def test_two_levels_are_crossed_up_and_down() -> None:
    cluster = tree(8, leaf_ports=4)
    assert switches(cluster, 0, 3) == ["leaf0"]
    assert [name[:5] for name in switches(cluster, 0, 4)] == ["leaf0", "spine", "leaf1"]


@pytest.mark.parametrize(("oversubscription", "share"), [(1, 1.0), (2, 0.5), (4, 0.25)])
def test_the_bisection_of_a_fat_tree_is_its_ports_over_the_oversubscription(
    oversubscription: float, share: float
) -> None:
    """Sixteen interfaces: eight of 50 GB/s send to the other eight, over leaves of four."""
    cluster = tree(16, leaf_ports=4, oversubscription=oversubscription)
    assert max_flow(cluster.fabric.links(Ports(16, 1)), nics(range(8)), nics(range(8, 16))) == 8 * 50 * GB * share


def test_three_levels_stay_in_a_pod_where_they_can() -> None:
    cluster = tree(16, levels=3, leaf_ports=2, leaves_per_pod=4)
    assert switches(cluster, 0, 1) == ["leaf0"]
    assert [n.split(".")[0] for n in switches(cluster, 0, 7)] == ["leaf0", "pod0", "leaf3"]
    over_the_core = switches(cluster, 0, 15)
    assert [n.rstrip("0123456789.") for n in over_the_core] == ["leaf", "pod0.agg", "core", "pod1.agg", "leaf"]


@pytest.mark.parametrize(("leaf", "core", "share"), [(1, 1, 1.0), (2, 1, 0.5), (1, 4, 0.25), (2, 4, 0.125)])
def test_oversubscription_of_both_levels_multiplies(leaf: float, core: float, share: float) -> None:
    """Two pods of four leaves of two: eight interfaces of 50 GB/s on either side."""
    fabric = tree(
        16, levels=3, leaf_ports=2, leaves_per_pod=4, oversubscription=leaf, core_oversubscription=core
    ).fabric
    assert max_flow(fabric.links(Ports(16, 1)), nics(range(8)), nics(range(8, 16))) == 8 * 50 * GB * share


def test_pairs_spread_over_the_spines() -> None:
    cluster = tree(16, leaf_ports=4)
    assert len({switches(cluster, a, b)[1] for a in range(4) for b in range(4, 16)}) == 4


DRAGONFLY = DragonflyFabric(groups=4, routers=3, nics_per_router=2, global_bandwidth="25GB/s", **WIRE)
"""Twelve routers; a group has one global cable to each of the three others, on a router each."""


def test_a_dragonfly_has_all_local_and_one_global_cable_per_pair() -> None:
    """24 interfaces, 4 * 3 local cables inside groups, 4 * 3 / 2 global ones."""
    links = list(DRAGONFLY.links(Ports(24, 1)))
    assert len(links) == 24 + 4 * 3 + 6
    assert sum(link.bandwidth == 25 * GB for link in links) == 6


@pytest.mark.parametrize(
    ("target", "way"),
    [
        (1, ["group0.router0"]),
        (2, ["group0.router0", "group0.router1"]),
        (6, ["group0.router0", "group1.router0"]),
        (8, ["group0.router0", "group1.router0", "group1.router1"]),
        (12, ["group0.router0", "group0.router1", "group2.router0"]),
        (16, ["group0.router0", "group0.router1", "group2.router0", "group2.router2"]),
    ],
)
def test_a_dragonfly_routes_minimally(target: int, way: list[str]) -> None:
    """By hand: two interfaces per router, six per group; the cable of group 0 to group g is on router g - 1, and those
    of the others to group 0 on their router 0."""
    assert DRAGONFLY.switches(Ports(24, 1), Port(0, 0), Port(target, 0)) == way


def test_global_cables_bound_what_two_groups_exchange() -> None:
    """Only minimal ways count: one cable of 25 GB/s; over other groups two more such ways exist."""
    assert max_flow(DRAGONFLY.links(Ports(24, 1)), nics(range(6)), nics(range(6, 12))) == 3 * 25 * GB


def test_a_dragonfly_without_a_place_for_every_interface_is_refused() -> None:
    cluster = Cluster(nodes=25, node=LONE, fabric=DRAGONFLY)
    with pytest.raises(ConfigError, match="has 24 places, but the nodes have 25 interfaces"):
        build_network(cluster)


def test_a_memory_of_no_node_is_reached_over_what_it_is_attached_to() -> None:
    pool = Memory(name="pool", at=("rail0.leaf0",), bandwidth="100GB/s", latency="1us")
    cluster = Cluster(nodes=2, node=NVSWITCH, fabric=RailFabric(**WIRE), memories=(pool,))
    assert cluster.endpoints == ("node0/cpu0", "node0/cpu1", "node1/cpu0", "node1/cpu1", "pool")
    assert cluster.route(0, "pool") == (0, "node0/pcie0", "node0/nic0", "rail0.leaf0", "pool")
    assert cluster.route("pool", 8)[1:3] == ("rail0.leaf0", "node1/nic0")
