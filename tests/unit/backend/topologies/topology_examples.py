"""What the tests of topologies measure: hops, capacities between sets of devices, and examples of every builder."""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from llmservingsim.backend.topologies import (
    Cluster,
    Device,
    DragonflyFabric,
    FatTreeFabric,
    Graph,
    Host,
    Islands,
    Link,
    MeshNode,
    PcieNode,
    RailFabric,
    SwitchNode,
    parse_topology,
)
from llmservingsim.backend.topologies.paths import bytes_per_s

GB = 1e9
WIRE: dict[str, Any] = {"bandwidth": "50GB/s", "latency": "1us"}
HOST = Host(
    sockets=2,
    switches_per_socket=2,
    bandwidth="32GB/s",
    latency="250ns",
    inter_socket_bandwidth="60GB/s",
    inter_socket_latency="150ns",
    memory_bandwidth="200GB/s",
    memory_latency="100ns",
)
NVSWITCH = SwitchNode(npus=8, nics=8, bandwidth="450GB/s", latency="500ns", host=HOST)
LONE = PcieNode(npus=1, nics=1, host=HOST)
"""One accelerator and one interface: what a cluster of these shows is the fabric."""

RING = Graph(
    npus=("a", "b", "c", "d"),
    cables=parse_topology(
        {
            "kind": "graph",
            "npus": ["a", "b", "c", "d"],
            "cables": [{"between": [x, y], **WIRE} for x, y in ("ab", "bc", "cd", "da")],
        },
        "ring",
    ).cables,  # type: ignore[union-attr]
)

EVERY_KIND: dict[str, Any] = {
    "mesh": MeshNode(npus=4, bandwidth="100GB/s", latency="1us"),
    "mesh with interfaces": MeshNode(npus=4, nics=4, bandwidth="100GB/s", latency="1us"),
    "nvswitch": NVSWITCH,
    "nvswitch in planes": SwitchNode(npus=8, switches=4, bandwidth="450GB/s", latency="500ns"),
    "pcie": PcieNode(npus=8, nics=2, host=HOST),
    "islands": Islands(
        sizes=((3, 1, 2), (4, 2)), bandwidth=("300GB/s", "100GB/s", "25GB/s"), latency=("500ns", "1us", "5us")
    ),
    "rail": Cluster(nodes=3, node=NVSWITCH, fabric=RailFabric(**WIRE)),
    "rail without pxn": Cluster(nodes=3, node=NVSWITCH, fabric=RailFabric(pxn=False, nodes_per_leaf=2, **WIRE)),
    "fat tree of two levels": Cluster(nodes=6, node=LONE, fabric=FatTreeFabric(leaf_ports=2, **WIRE)),
    "fat tree of three levels": Cluster(
        nodes=8, node=LONE, fabric=FatTreeFabric(levels=3, leaf_ports=2, leaves_per_pod=2, **WIRE)
    ),
    "dragonfly": Cluster(nodes=24, node=LONE, fabric=DragonflyFabric(groups=4, routers=3, nics_per_router=2, **WIRE)),
    "graph": RING,
}


def neighbours(links: Iterable[Link]) -> dict[Device, dict[Device, float]]:
    """Bytes per second from a device to each of its neighbours, parallel links summed."""
    found: dict[Device, dict[Device, float]] = {}
    for link in links:
        ways = [(link.source, link.target), (link.target, link.source)][: 2 if link.duplex else 1]
        for source, target in ways:
            capacities = found.setdefault(source, {})
            found.setdefault(target, {})
            capacities[target] = capacities.get(target, 0) + bytes_per_s(link.bandwidth)
    return found


def max_flow(links: Iterable[Link], sources: Sequence[Device], targets: Sequence[Device]) -> float:
    """Bytes per second that a set of devices can send to another at once (Edmonds and Karp)."""
    left = neighbours(links)
    unbounded = float("inf")
    left["from"] = dict.fromkeys(sources, unbounded)
    left["to"] = {}
    for target in targets:
        left[target]["to"] = unbounded
    total = 0.0
    while path := _augmenting(left):
        pairs = list(pairwise(path))
        amount = min(left[a][b] for a, b in pairs)
        for a, b in pairs:
            left[a][b] -= amount
            left[b][a] = left[b].get(a, 0) + amount
        total += amount
    return total


def _augmenting(left: dict[Device, dict[Device, float]]) -> list[Device]:
    before: dict[Device, Device] = {"from": "from"}
    waiting: deque[Device] = deque(["from"])
    while waiting:
        device = waiting.popleft()
        for neighbour, capacity in left[device].items():
            if capacity > 1 and neighbour not in before:  # a byte per second is rounding
                before[neighbour] = device
                waiting.append(neighbour)
    if "to" not in before:
        return []
    path: list[Device] = ["to"]
    while path[-1] != "from":
        path.append(before[path[-1]])
    return path[::-1]
