"""What holds for whatever a builder builds."""

from itertools import permutations
from typing import Any

import pytest
from topology_examples import EVERY_KIND

from llmservingsim.backend.config import LINK_GB
from llmservingsim.backend.topologies import build_network, device_ids

KINDS = pytest.mark.parametrize("topology", EVERY_KIND.values(), ids=EVERY_KIND.keys())


def talkers(topology: Any) -> range:
    """Ranks and memories, by number."""
    network = build_network(topology)
    assert network.fabric is not None
    return range(network.npus + network.fabric.endpoints)


@KINDS
def test_every_pair_has_a_way_of_joined_links_that_visits_no_device_twice(topology: Any) -> None:
    fabric = build_network(topology).fabric
    assert fabric is not None
    assert fabric.route is not None
    for source, target in permutations(talkers(topology), 2):
        links = [fabric.links[number] for number in fabric.route(source, target)]
        visited = [source, *(link.target for link in links)]
        assert [link.source for link in links] == visited[:-1]
        assert visited[-1] == target
        assert len(set(visited)) == len(visited)


@KINDS
def test_no_way_passes_through_a_memory(topology: Any) -> None:
    network = build_network(topology)
    assert network.fabric is not None
    assert network.fabric.route is not None
    memories = set(talkers(topology)) - set(range(network.npus))
    for source, target in permutations(talkers(topology), 2):
        passed = {network.fabric.links[n].target for n in network.fabric.route(source, target)[:-1]}
        assert not passed & memories


@KINDS
def test_every_cable_carries_the_same_both_ways(topology: Any) -> None:
    fabric = build_network(topology).fabric
    assert fabric is not None
    ways = sorted((x.source, x.target, x.bandwidth_gbps, x.latency_ns) for x in fabric.links)
    assert ways == sorted((x.target, x.source, x.bandwidth_gbps, x.latency_ns) for x in fabric.links)


@KINDS
def test_devices_are_numbered_ranks_first_then_memories_then_switches(topology: Any) -> None:
    network, ids = build_network(topology), device_ids(topology)
    assert network.fabric is not None
    assert list(ids.values()) == list(range(network.npus + network.fabric.endpoints + network.fabric.switches))
    assert [d for d, n in ids.items() if n < network.npus] == list(range(network.npus))
    assert [ids[name] for name in topology.endpoints] == list(talkers(topology))[network.npus :]


@KINDS
def test_equal_builders_build_the_same(topology: Any) -> None:
    first, second = build_network(topology), build_network(type(topology)(**fields(topology)))
    assert first.fabric is not None
    assert second.fabric is not None
    assert (first.npus_count, first.fabric.links) == (second.npus_count, second.fabric.links)
    assert first.fabric.route is not None
    assert second.fabric.route is not None
    for pair in permutations(talkers(topology), 2):
        assert first.fabric.route(*pair) == second.fabric.route(*pair)


def fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def test_bandwidths_become_the_backends_gigabytes() -> None:
    """100 GB/s of 10^9 bytes are 100e9 / 2^30 of the backend's."""
    fabric = build_network(EVERY_KIND["mesh"]).fabric
    assert fabric is not None
    assert {(x.bandwidth_gbps, x.latency_ns) for x in fabric.links} == {(100e9 / LINK_GB, 1000)}
