"""Links of cluster files of LLMServingSim 2.0: numbers per level of the cluster, the innermost first.

One number holds between any two devices. Two numbers are [within a node, between nodes], or, where there is one node,
[within an instance, between instances]. Three are [within an instance, between instances of a node, between nodes]. A
level at which nothing is joined, such as the first one where instances have one device, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from llmservingsim.config.quantities import Shape
from llmservingsim.config.spec import NetworkSpec
from llmservingsim.errors import ConfigError

Numbers = float | tuple[float, ...]
Sizes = tuple[int, ...]

_INSTANCE, _NODE, _CLUSTER = "within an instance", "between instances of a node", "between nodes"
_MANY = 3


class _Level(NamedTuple):
    """Links of one kind.

    Attributes:
        name: What they join.
        sizes: Devices of each group within which they do.
        bandwidth: GiB/s.
        latency: ns.
    """

    name: str
    sizes: Sizes
    bandwidth: float
    latency: float


def import_links(
    bandwidth: Numbers, latency: Numbers, nodes: Sequence[Sequence[int]], where: str
) -> tuple[NetworkSpec, list[str]]:
    """Return the network that ``link_bw`` and ``link_latency`` describe, and notes on how they were read.

    Groups of equal sizes become a grid with a dimension per level, others islands with a link per pair of devices.

    Args:
        bandwidth: ``link_bw``, GB/s of 2^30 bytes.
        latency: ``link_latency``, ns.
        nodes: Devices of every instance of every node.
        where: Begins messages.

    Raises:
        ConfigError: If the two have different numbers of levels, or too many.
    """
    count = _count({"link_bw": bandwidth, "link_latency": latency}, where)
    each = (value if isinstance(value, tuple) else (value,) * count for value in (bandwidth, latency))
    stated = [_Level(*kind, *pair) for kind, *pair in zip(_kinds(count, nodes), *each, strict=True)]
    below = (1,) * sum(stated[0].sizes)
    used = [b for a, b in pairwise([_Level("", below, 0, 0), *stated]) if a.sizes != b.sizes]
    notes = []
    if count > 1:
        names = ", ".join(level.name for level in stated)
        vain = "".join(f"; nothing is joined {level.name}" for level in stated if level not in used)
        notes.append(f"link_bw and link_latency are read as [{names}]{vain}")
    if len(used) < 2:
        (only,) = used or stated[:1]
        return NetworkSpec(bandwidth=f"{only.bandwidth}GiB/s", latency=f"{only.latency}ns"), notes
    network, note = _network(used)
    return network, [*notes, note]


def _count(numbers: dict[str, Numbers], where: str) -> int:
    """How many levels the two keys state; a number that is no list holds at all levels."""
    lists = {key: value for key, value in numbers.items() if isinstance(value, tuple)}
    count = max(map(len, lists.values()), default=1)
    for key, value in lists.items():
        if len(value) != count:
            raise ConfigError(
                f"{where}: {key}: expected {count} numbers, as many as the other key has, or one that is no list, got "
                f"{list(value)}"
            )
    if count > _MANY:
        raise ConfigError(
            f"{where}: {' and '.join(lists)}: expected at most {_MANY} numbers, {_INSTANCE}, {_NODE} and {_CLUSTER}, "
            f"got {count}"
        )
    return count


def _kinds(count: int, nodes: Sequence[Sequence[int]]) -> list[tuple[str, Sizes]]:
    """Name and groups of every level."""
    instances = tuple(size for node in nodes for size in node)
    per_node = tuple(map(sum, nodes))
    whole = (sum(instances),)
    if count == 1:
        return [("between any two devices", whole)]
    if count == _MANY:
        return [(_INSTANCE, instances), (_NODE, per_node), (_CLUSTER, whole)]
    if len(nodes) > 1:
        return [("within a node", per_node), (_CLUSTER, whole)]
    return [(_INSTANCE, instances), (_NODE, whole)]


def _parts(levels: Sequence[_Level]) -> list[set[int]]:
    """Of every level, the numbers of groups of the level below that its groups consist of."""
    below = list(range(1, sum(levels[0].sizes) + 1))
    found = []
    for level in levels:
        ends = list(accumulate(level.sizes))
        found.append({below.index(b) - (below.index(a) if a else -1) for a, b in pairwise([0, *ends])})
        below = ends
    return found


def _network(levels: Sequence[_Level]) -> tuple[NetworkSpec, str]:
    """A grid where groups are equal, else islands, and a note; rings for collectives, as in that program's files."""
    parts = _parts(levels)
    is_even = all(len(counts) == 1 for counts in parts)
    rings = ("ring",) * (len(levels) if is_even else 1)
    collectives: dict[str, Any] = dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all"), rings)
    bandwidth = tuple(f"{level.bandwidth}GiB/s" for level in levels)
    latency = tuple(f"{level.latency}ns" for level in levels)
    if is_even:
        counts = tuple(count for of_level in parts for count in of_level)
        note = f"the network is a grid of {' x '.join(map(str, counts))}, each dimension linked all to all"
        shapes: list[Shape] = ["FullyConnected"] * len(levels)
        network = NetworkSpec(
            topology=tuple(shapes), npus_count=counts, bandwidth=bandwidth, latency=latency, **collectives
        )
        return network, note
    sizes = [list(level.sizes) for level in levels[:-1]]
    options = {"sizes": sizes, "bandwidth": list(bandwidth), "latency": list(latency)}
    network = NetworkSpec(topology="llmservingsim.backend.topologies:Islands", options=options, **collectives)
    return network, "the network has a link for every pair of devices: sizes differ, so that no grid fits"
