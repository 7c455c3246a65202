"""Which devices an instance gets: on its server, over several, and which collectives fill a box."""

import re
from collections.abc import Sequence
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.errors import ConfigError
from llmservingsim.ranks import Footprint, box_of, communicators, place


def spread(node: int, devices: int, nnodes: int = 1, stages: int = 1, group: int = -1) -> Footprint:
    return Footprint(f"nodes[{node}].instances[0]", node, devices, nnodes, stages, group)


def test_without_servers_devices_are_numbered_through() -> None:
    assert place([spread(0, 2), spread(0, 3), spread(1, 1)], 8, None) == (range(2), range(2, 5), range(5, 6))


def test_an_instance_over_servers_gets_as_many_devices_of_each() -> None:
    assert place([spread(0, 8, 2)], 16, 8) == ((0, 1, 2, 3, 8, 9, 10, 11),)
    assert place([spread(1, 16, 2)], 32, 8) == (tuple(range(8, 24)),)


def test_what_comes_later_stands_behind_it_on_every_server() -> None:
    found = place([spread(0, 2), spread(0, 4, 2), spread(1, 3), spread(1, 2, 2)], 24, 8)
    assert found == (range(2), (2, 3, 8, 9), range(10, 13), (13, 16))


@pytest.mark.parametrize(
    ("footprints", "npus_per_node", "said"),
    [
        ([spread(0, 4, 2)], None, "nodes[0].instances[0]: nnodes: 2 servers, but the network has none; expected"),
        ([spread(0, 6, 4)], 8, "nnodes: its 6 devices cannot be spread evenly over 4 servers; expected a divisor of 6"),
        ([spread(0, 1, 2)], 8, "nnodes: its 1 devices cannot be spread evenly over 2 servers"),
        ([spread(2, 8, 2)], 8, "nodes[2].instances[0]: nnodes: it would take the servers 2 to 3; the topology has the"),
        ([spread(0, 8, 2), spread(1, 5)], 8, "topology: nodes[1] uses 9 devices; expected at most 3 nodes of at most"),
        ([spread(3, 1)], 8, "topology: nodes[3] uses 1 devices; expected at most 3 nodes of at most 8 devices each"),
        ([spread(0, 25)], None, "topology: it has 24 ranks, but the instances use 25; expected at least as many"),
    ],
)
def test_what_has_no_place_is_refused(footprints: list[Footprint], npus_per_node: int | None, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        place(footprints, 24, npus_per_node)


drawn = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=8)


@given(drawn=drawn)
def test_no_device_is_given_twice_and_all_are_on_the_instances_servers(drawn: list[tuple[int, int, int]]) -> None:
    footprints = [spread(node, per_server * nnodes, nnodes) for node, nnodes, per_server in drawn]
    try:
        found = place(footprints, 64, 8)
    except ConfigError:
        return
    ranks = [rank for own in found for rank in own]
    assert len(set(ranks)) == len(ranks) == sum(f.devices for f in footprints)
    for footprint, own in zip(footprints, found, strict=True):
        share = footprint.devices // footprint.nnodes
        servers = [footprint.node + i for i in range(footprint.nnodes) for _ in range(share)]
        assert [rank // 8 for rank in own] == servers


def test_stages_reduce_and_the_stages_of_members_exchange_tokens() -> None:
    footprints = [spread(0, 4, 1, 2, 0), spread(0, 4, 1, 2, 0), spread(1, 2)]
    found = communicators(footprints, place(footprints, 10, None))
    own = [range(2), range(2, 4), range(4, 6), range(6, 8), range(8, 10)]
    shared: list[Sequence[int]] = [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert found == {
        "all_reduce": own,
        "all_gather": [*own, *shared],
        "reduce_scatter": shared,
        "all_to_all": shared,
    }


@pytest.mark.parametrize(
    ("ranks", "shape", "box"),
    [
        (range(8), [4, 4], (4, 2)),
        ([0, 1, 4, 5], [4, 4], (2, 2)),
        ([4, 8], [4, 4], (1, 2)),
        ([2, 3, 4, 5], [4, 4], None),
        ([0, 4, 1, 5], [4, 4], None),
        ([0, 1, 2, 4], [4, 4], None),
        (range(3), [8], (3,)),
        ([0, 1, 4, 5, 8, 9, 12, 13], [2, 2, 4], (2, 1, 4)),
    ],
)
def test_ranks_that_fill_a_box_in_the_networks_order_are_known(
    ranks: Sequence[int], shape: list[int], box: tuple[int, ...] | None
) -> None:
    assert box_of(ranks, shape) == box


def test_every_box_of_a_grid_is_found_and_nothing_else_of_its_size() -> None:
    shape = [2, 3, 2]
    boxes = {}
    for low in product(*map(range, shape)):
        for high in product(*(range(a, n) for a, n in zip(low, shape, strict=True))):
            inside = product(*(range(a, b + 1) for a, b in reversed(list(zip(low, high, strict=True)))))
            ranks = tuple(x + 2 * y + 6 * z for z, y, x in inside)
            boxes[ranks] = tuple(b - a + 1 for a, b in zip(low, high, strict=True))
    for ranks, extents in boxes.items():
        assert box_of(ranks, shape) == extents
        moved = (*ranks[1:], ranks[0])
        if len(ranks) > 1:
            assert box_of(moved, shape) is None
