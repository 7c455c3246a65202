"""Paths, a user's own topology, and what is refused about either."""

from collections.abc import Iterable
from typing import Any

import pytest

from llmservingsim.backend.config import NetworkModel
from llmservingsim.backend.topologies import Link, Torus, build_network, device_ids
from llmservingsim.backend.topologies.paths import CheapestPaths
from llmservingsim.errors import ConfigError


class Own:
    """Links as they are given."""

    def __init__(self, ranks: int, links: Iterable[Link], **more: Any) -> None:
        self.npus_count = [ranks]
        self._links = list(links)
        vars(self).update(more)

    def links(self) -> list[Link]:
        return self._links


def test_the_cheaper_way_wins_over_the_shorter_one() -> None:
    """1 MiB at 1 GB/s takes a millisecond; over two links of 100 GB/s it takes 21 microseconds."""
    links = [Link(0, 1, "1GB/s", "1us"), Link(0, "fast", "100GB/s", "1us"), Link("fast", 1, "100GB/s", "1us")]
    assert CheapestPaths(links)(0, 1) == (0, "fast", 1)


def test_ranks_pass_on_only_where_there_is_no_other_way() -> None:
    line = [Link(0, 1, "100GB/s"), Link(1, 2, "100GB/s")]
    assert CheapestPaths(line)(0, 2) == (0, 1, 2)
    beside = [Link(0, "slow", "1GB/s"), Link("slow", 2, "1GB/s")]
    assert CheapestPaths(line + beside)(0, 2) == (0, "slow", 2)


def test_memories_never_pass_on() -> None:
    links = [Link(0, "cxl", "100GB/s"), Link("cxl", 1, "100GB/s")]
    with pytest.raises(ConfigError, match="there is no way from 0 to 1"):
        CheapestPaths(links, ["cxl"])(0, 1)


def test_a_one_way_link_is_used_one_way() -> None:
    links = [Link(0, 1, "1GB/s", duplex=False), Link(1, 2, "1GB/s", duplex=False), Link(2, 0, "1GB/s", duplex=False)]
    fabric = build_network(Own(3, links)).fabric
    assert fabric is not None
    assert fabric.route is not None
    assert len(fabric.links) == 3
    assert (list(fabric.route(0, 1)), list(fabric.route(1, 0))) == ([0], [1, 2])


def test_pairs_spread_over_equal_ways_and_parallel_links() -> None:
    """16 ranks, 2 planes, 2 cables, both ways: 128. One that 15 pairs may choose stays empty with (3/4)^15 = 1.3 %."""
    planes = [Link(rank, f"plane{p}", "1GB/s") for rank in range(16) for p in range(2) for _ in range(2)]
    fabric = build_network(Own(16, planes)).fabric
    assert fabric is not None
    assert fabric.route is not None
    used = {number for a in range(16) for b in range(16) if a != b for number in fabric.route(a, b)}
    assert len(used) > 120


def test_a_users_route_is_kept() -> None:
    square = [Link(a, (a + 1) % 4, "1GB/s") for a in range(4)]
    own = Own(4, square, route=lambda a, b: [(a + i) % 4 for i in range((b - a) % 4 + 1)])
    fabric = build_network(own).fabric
    assert fabric is not None
    assert fabric.route is not None
    assert [fabric.links[n].target for n in fabric.route(1, 0)] == [2, 3, 0]


def test_memories_and_switches_are_found_by_their_names() -> None:
    own = Own(1, [Link(0, "switch", "1GB/s"), Link("switch", "cxl", "1GB/s")], endpoints=("cxl",))
    assert device_ids(own) == {0: 0, "cxl": 1, "switch": 2}


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ([Link(0, 2, "1GB/s")], "links: there is no rank 2; npus_count has the ranks 0 to 1"),
        ([Link(0, "a", "1GB/s")], "links: there is no way from rank 0 to rank 1"),
        ([Link(0, 1, "1GB/s", duplex=False)], "links: there is no way from rank 1 to rank 0"),
        ([Link(0, 1, "1GBs")], "links: 0 to 1: 'GBs' is no unit of bandwidth"),
        ([Link(0, 1, "1GB/s", "2uss")], r"links: 0 to 1: 'uss' is no unit of time \(did you mean 'us'\?\)"),
        ([Link(0, 1, 0)], "links: 0 to 1: bandwidth: expected more than 0"),
        ([Link(0, 1, "1GB/s", -1)], "links: 0 to 1: latency: expected a time that is not negative"),
        ([Link(0, 1, "1GB/s"), Link(0, 0, "1GB/s")], "links: 0 is linked to itself"),
    ],
)
def test_wrong_links_are_named(links: list[Link], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_network(Own(2, links))


def test_an_endpoint_that_no_link_names_is_refused() -> None:
    links = [Link(0, 1, "1GB/s"), Link(1, "cxl0", "1GB/s")]
    with pytest.raises(ConfigError, match=r"endpoints: no link leads to 'cxl' \(did you mean 'cxl0'\?\)"):
        build_network(Own(2, links, endpoints=("cxl",)))


def test_a_shape_without_ranks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"npus_count: expected a count of at least 1 per dimension, got \[0\]"):
        build_network(Own(0, []))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ([0, 2], r"expected a path between these two, got \[0, 2\]"),
        ([0, 1], "no link leads from 0 to 1"),
        ([0, "nowhere", 1], "no link leads from 0 to 'nowhere'"),
    ],
)
def test_a_route_that_does_not_lead_there_is_refused_when_it_is_asked(path: list[Any], said: str) -> None:
    links = [Link(0, "a", "1GB/s"), Link("a", 1, "1GB/s"), Link("a", 2, "1GB/s")]
    fabric = build_network(Own(3, links, route=lambda source, target: path)).fabric
    assert fabric is not None
    assert fabric.route is not None
    with pytest.raises(ConfigError, match="route from 0 to 1: " + said):
        fabric.route(0, 1)


def test_a_torus_is_a_grid_of_rings() -> None:
    torus = Torus(npus_count=(4, 4, 2), bandwidth="100GB/s", latency="1us", efficiency=0.5)
    expected = NetworkModel(["Ring"] * 3, [4, 4, 2], [50e9 / 2**30] * 3, [1000.0] * 3, "aware")
    assert build_network(torus, "aware") == expected
