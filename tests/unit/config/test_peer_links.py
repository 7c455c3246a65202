"""Links of LLMServingSim 2.0's cluster files: which level of the cluster each number is of."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.config import NetworkSpec
from llmservingsim.config.peer_links import Numbers, import_links
from llmservingsim.errors import ConfigError


def links(bandwidth: Numbers, latency: Numbers, *nodes: list[int]) -> tuple[NetworkSpec, list[str]]:
    return import_links(bandwidth, latency, nodes, "file")


def grid(found: NetworkSpec) -> tuple[Any, Any, Any]:
    return found.npus_count, found.bandwidth, found.latency


@pytest.mark.parametrize("number", [16.0, (16.0,)])
@pytest.mark.parametrize("nodes", [[[1]], [[2, 2]], [[4], [4]], [[4], [1, 2]]])
def test_one_number_joins_any_two_devices(number: Numbers, nodes: list[list[int]]) -> None:
    found, notes = links(number, 1000.0, *nodes)
    assert found == NetworkSpec(topology="FullyConnected", bandwidth="16.0GiB/s", latency="1000.0ns")
    assert notes == []


def test_two_numbers_are_within_and_between_nodes() -> None:
    """Two nodes of two instances of two devices: four of a node, two nodes."""
    found, notes = links((100.0, 10.0), (1.0, 5.0), [2, 2], [2, 2])
    assert found.topology == ("FullyConnected", "FullyConnected")
    assert grid(found) == ((4, 2), ("100.0GiB/s", "10.0GiB/s"), ("1.0ns", "5.0ns"))
    assert (found.all_reduce, found.all_to_all) == (("ring", "ring"),) * 2
    assert notes == [
        "link_bw and link_latency are read as [within a node, between nodes]",
        "the network is a grid of 4 x 2, each dimension linked all to all",
    ]


def test_on_one_node_two_numbers_are_within_and_between_instances() -> None:
    found, _ = links((100.0, 10.0), 1.0, [2, 2, 2, 2])
    assert grid(found) == ((2, 4), ("100.0GiB/s", "10.0GiB/s"), ("1.0ns", "1.0ns"))


def test_three_numbers_tell_instances_nodes_and_the_cluster_apart() -> None:
    found, notes = links((100.0, 50.0, 10.0), (1.0, 2.0, 5.0), [2, 2, 2], [2, 2, 2])
    assert grid(found) == ((2, 3, 2), ("100.0GiB/s", "50.0GiB/s", "10.0GiB/s"), ("1.0ns", "2.0ns", "5.0ns"))
    assert notes[0].endswith("[within an instance, between instances of a node, between nodes]")


@pytest.mark.parametrize(
    ("numbers", "nodes", "left", "vain"),
    [
        ((100.0, 10.0), [[1], [1]], (10.0,), "within a node"),
        ((100.0, 10.0), [[4]], (100.0,), "between instances of a node"),
        ((100.0, 10.0), [[1, 1]], (10.0,), "within an instance"),
        ((100.0, 50.0, 10.0), [[4], [4]], (100.0, 10.0), "between instances of a node"),
        ((100.0, 50.0, 10.0), [[2, 2]], (100.0, 50.0), "between nodes"),
        ((100.0, 50.0, 10.0), [[1, 1], [1, 1]], (50.0, 10.0), "within an instance"),
    ],
)
def test_a_number_that_joins_nothing_is_left_out_and_noted(
    numbers: Numbers, nodes: list[list[int]], left: tuple[float, ...], vain: str
) -> None:
    found, notes = links(numbers, 7.0, *nodes)
    values = tuple(f"{number}GiB/s" for number in left)
    assert found.bandwidth == (values if len(values) > 1 else values[0])
    assert f"nothing is joined {vain}" in notes[0]


def test_a_single_device_keeps_the_first_number() -> None:
    found, notes = links((100.0, 10.0), (1.0, 5.0), [1])
    assert (found.bandwidth, found.latency) == ("100.0GiB/s", "1.0ns")
    assert len(notes) == 1


def test_unequal_nodes_get_a_link_per_pair() -> None:
    found, notes = links((100.0, 10.0), (1.0, 5.0), [4, 2], [2])
    assert found.topology == "llmservingsim.backend.topologies:Islands"
    assert found.options == {
        "sizes": [[6, 2]],
        "bandwidth": ["100.0GiB/s", "10.0GiB/s"],
        "latency": ["1.0ns", "5.0ns"],
    }
    assert notes[1] == "the network has a link for every pair of devices: sizes differ, so that no grid fits"


def test_unequal_instances_of_equal_nodes_need_a_grid_only_where_instances_are_a_level() -> None:
    assert grid(links((100.0, 10.0), 1.0, [4, 2], [6])[0])[0] == (6, 2)
    found, _ = links((100.0, 50.0, 10.0), 1.0, [4, 2], [6])
    assert found.options is not None
    assert found.options["sizes"] == [[4, 2, 6], [6, 6]]


@pytest.mark.parametrize(
    ("bandwidth", "latency", "said"),
    [
        ((1.0, 2.0), (1.0,), "file: link_latency: expected 2 numbers, as many as the other key has, or one that is no"),
        ((1.0,), (1.0, 2.0, 3.0), "file: link_bw: expected 3 numbers, as many as the other key has"),
        ((1.0,) * 4, 5.0, "file: link_bw: expected at most 3 numbers, within an instance, between instances of a node"),
        ((1.0,) * 4, (1.0,) * 4, "file: link_bw and link_latency: expected at most 3 numbers"),
    ],
)
def test_numbers_that_have_no_level_are_refused(bandwidth: Numbers, latency: Numbers, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        links(bandwidth, latency, [2], [2])


@given(nodes=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), min_size=1, max_size=3))
def test_whatever_the_sizes_the_network_has_the_devices(nodes: list[list[int]]) -> None:
    devices = sum(map(sum, nodes))
    for numbers in ((3.0, 2.0), (3.0, 2.0, 1.0)):
        found, _ = links(numbers, 1.0, *nodes)
        if found.options is not None:
            assert sum(found.options["sizes"][0]) == devices
        elif found.npus_count is not None:
            assert len(found.npus_count) > 1
            product = 1
            for count in found.npus_count:
                assert count > 1
                product *= count
            assert product == devices
