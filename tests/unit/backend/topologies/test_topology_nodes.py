"""Servers: who is linked to whom, how wide, and which way messages take."""

from typing import Any

import msgspec
import pytest
from topology_examples import EVERY_KIND, GB, HOST, NVSWITCH, max_flow

from llmservingsim.backend.topologies import (
    Device,
    Memory,
    MeshNode,
    PcieNode,
    SwitchNode,
    build_network,
    parse_topology,
)
from llmservingsim.errors import ConfigError


def test_a_mesh_has_a_link_per_pair_and_one_hop_between_any_two() -> None:
    """Eight accelerators are 8 * 7 / 2 = 28 pairs."""
    mesh = MeshNode(npus=8, bandwidth="64GB/s", latency="1us", efficiency=0.5)
    links = list(mesh.links())
    assert len(links) == 28
    assert {link.bandwidth for link in links} == {32 * GB}
    assert mesh.route(2, 7) == (2, 7)


def test_the_smallest_group_that_has_both_ends_says_how_fast_a_link_of_islands_is() -> None:
    """Instances of 3, 1 and 2 devices, the first two on one node."""
    islands = EVERY_KIND["islands"]
    found = {(link.source, link.target): (link.bandwidth, link.latency) for link in islands.links()}
    assert len(found) == 6 * 5 // 2
    assert found[0, 2] == found[4, 5] == ("300GB/s", "500ns")
    assert found[0, 3] == found[2, 3] == ("100GB/s", "1us")
    assert found[0, 4] == found[3, 5] == ("25GB/s", "5us")
    assert (islands.npus_count, islands.route(0, 5)) == ((6,), (0, 5))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bandwidth": ["1GB/s"]}, r"t: bandwidth: expected 3, one per level, got \['1GB/s'\]"),
        ({"latency": ["1us"] * 4}, "t: latency: expected 3, one per level"),
        (
            {"sizes": [[2, 2], [3, 1]]},
            r"t: sizes: expected every group of level 1 to consist of whole groups of level 0",
        ),
        ({"sizes": [[2, 2], [2]]}, r"t: sizes: expected every group of level 1 .* got \[2\] over \[2, 2\]"),
        ({"sizes": []}, "t: sizes: expected array of length >= 1"),
    ],
)
def test_islands_that_do_not_nest_are_refused(change: dict[str, Any], said: str) -> None:
    whole = {"kind": "islands", "sizes": [[2, 2], [4]], "bandwidth": ["1GB/s"] * 3, "latency": ["1us"] * 3}
    with pytest.raises(ConfigError, match=said):
        parse_topology(whole | change, "t")


def test_half_of_a_mesh_sends_to_the_other_half_over_every_pair_between_them() -> None:
    """4 * 4 pairs of 64 GB/s cross the middle of eight."""
    mesh = MeshNode(npus=8, bandwidth="64GB/s", latency="1us")
    assert max_flow(mesh.links(), range(4), range(4, 8)) == 16 * 64 * GB


@pytest.mark.parametrize("switches", [1, 2, 6])
def test_a_switch_blocks_nobody_however_many_planes_share_the_links(switches: int) -> None:
    """Four accelerators of 300 GB/s send 1200 GB/s."""
    node = SwitchNode(npus=8, switches=switches, bandwidth="300GB/s", latency="500ns")
    assert len(list(node.links())) == 8 * switches
    assert max_flow(node.links(), range(4), range(4, 8)) == pytest.approx(4 * 300 * GB)
    assert len(node.route(0, 5)) == 3


def test_pairs_spread_over_the_planes_of_switches() -> None:
    node = SwitchNode(npus=8, switches=4, bandwidth="300GB/s", latency="500ns")
    assert len({node.route(a, b)[1] for a in range(8) for b in range(8) if a != b}) == 4


def test_accelerators_with_nvlink_do_not_talk_over_pcie() -> None:
    """0 and 1 share a PCIe switch, two hops away as is the NVSwitch, and a tenth as fast."""
    assert NVSWITCH.route(0, 1) == (0, "nvswitch0", 1)


PCIE = PcieNode(npus=8, nics=2, host=HOST)


@pytest.mark.parametrize(
    ("pair", "way"),
    [
        ((0, 1), (0, "pcie0", 1)),
        ((0, 2), (0, "pcie0", "socket0", "pcie1", 2)),
        ((0, 7), (0, "pcie0", "socket0", "socket1", "pcie3", 7)),
        ((0, "cpu0"), (0, "pcie0", "socket0", "cpu0")),
        ((0, "cpu1"), (0, "pcie0", "socket0", "socket1", "cpu1")),
        ((7, "nic1"), (7, "pcie3", "socket1", "pcie2", "nic1")),
    ],
)
def test_a_pcie_tree_is_climbed_as_far_as_needed(pair: tuple[Device, Device], way: tuple[Device, ...]) -> None:
    """Eight accelerators under four switches under two sockets; interface 1 of 2 is under switch 2 of 4."""
    assert PCIE.route(*pair) == way


def test_the_link_between_sockets_is_all_that_crosses_them() -> None:
    """Two uplinks of 32 GB/s per socket would carry 64; the sockets are joined by 60."""
    assert max_flow(PCIE.links(), range(4), range(4, 8)) == 60 * GB


def test_an_uplink_is_shared_by_the_cards_below_it() -> None:
    """Accelerators 0 and 1 have 32 GB/s each, and 32 together to the rest of the tree."""
    assert max_flow(PCIE.links(), (0, 1), (2, 3, "cpu0")) == 32 * GB


def test_cards_without_switches_sit_in_the_sockets() -> None:
    node = PcieNode(npus=4, nics=1, host=msgspec.structs.replace(HOST, switches_per_socket=0))
    assert node.route(0, 1) == (0, "socket0", 1)
    assert node.route(1, 2) == (1, "socket0", "socket1", 2)


def test_interfaces_may_sit_in_the_sockets_beside_the_switches() -> None:
    node = PcieNode(npus=8, nics=2, host=msgspec.structs.replace(HOST, nics_at="socket"))
    assert node.route(0, "nic1") == (0, "pcie0", "socket0", "socket1", "nic1")


@pytest.mark.parametrize(
    ("nics", "used"),
    [(8, [0, 1, 2, 3, 4, 5, 6, 7]), (4, [0, 0, 1, 1, 2, 2, 3, 3]), (2, [0, 0, 0, 0, 1, 1, 1, 1])],
)
def test_every_accelerator_uses_the_interface_nearest_to_it(nics: int, used: list[int]) -> None:
    node = msgspec.structs.replace(NVSWITCH, nics=nics)
    assert [node.nic_of(npu) for npu in range(8)] == used


@pytest.mark.parametrize(("npus", "nics"), [(8, 8), (8, 2), (2, 4)])
def test_interfaces_that_are_part_of_accelerators_need_no_host(npus: int, nics: int) -> None:
    """As on Gaudi: a direct link, with no accelerator between."""
    node = MeshNode(npus=npus, nics=nics, bandwidth="75GB/s", latency="1us")
    assert [node.nic_of(npu) for npu in range(npus)] == [npu * nics // npus for npu in range(npus)]
    assert all(len(node.route(npu, f"nic{node.nic_of(npu)}")) == 2 for npu in range(npus))


def test_a_node_without_interfaces_cannot_be_joined() -> None:
    with pytest.raises(ConfigError, match="nics: a server that is joined to others needs at least one"):
        MeshNode(npus=2, bandwidth="1GB/s", latency="1us").nic_of(0)


def test_a_memory_is_an_endpoint_behind_what_it_is_attached_to() -> None:
    cxl = Memory(name="cxl0", at=("socket0", "socket1"), bandwidth="50GB/s", latency="300ns")
    node = PcieNode(npus=4, host=HOST, memories=(cxl,))
    assert node.endpoints == ("cpu0", "cpu1", "cxl0")
    assert node.route(3, "cxl0")[-2:] == ("socket1", "cxl0")
    assert build_network(node).fabric.endpoints == 3  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("memory", "said"),
    [
        (Memory(name="cxl0", at=("sockt1",), bandwidth="1GB/s"), r"cxl0: at: there is no device 'sockt1' \(did you"),
        (Memory(name="cpu0", at=("socket1",), bandwidth="1GB/s"), "the name 'cpu0' is taken"),
    ],
)
def test_a_memory_at_nothing_or_with_a_taken_name_is_refused(memory: Memory, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        list(PcieNode(npus=4, host=HOST, memories=(memory,)).links())
