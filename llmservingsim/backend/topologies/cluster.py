"""Clusters: equal servers joined by a fabric."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from llmservingsim.backend.topologies.fabrics import FabricKind, Port, Ports, RailFabric
from llmservingsim.backend.topologies.nodes import NodeKind, PcieNode
from llmservingsim.backend.topologies.parts import Devices, Memory, Part, devices_of, memory_links
from llmservingsim.backend.topologies.paths import CheapestPaths
from llmservingsim.backend.topologies.topology import Device, Link


class Cluster(Part, frozen=True, kw_only=True, tag_field="kind", tag="cluster"):
    """So many servers of one kind, with a fabric between their network interfaces.

    Ranks count node by node; device ``x`` of node 2 is called ``node2/x``. A message leaves its node through the
    sender's network interface and enters the other through the receiver's.

    Attributes:
        nodes: How many servers.
        node: What each of them is.
        fabric: What joins them.
        memories: Memories that belong to no node.
    """

    nodes: Devices
    node: NodeKind
    fabric: FabricKind
    memories: tuple[Memory, ...] = ()

    @property
    def npus_count(self) -> tuple[int, ...]:
        """Two logical dimensions: inside a node, and between nodes."""
        return (self.node.npus, self.nodes)

    @property
    def npus_per_node(self) -> int:
        """Ranks of one server."""
        return self.node.npus

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Memories of every node, and those that belong to none."""
        inside = [f"node{n}/{name}" for n in range(self.nodes) for name in self.node.endpoints]
        return (*inside, *(m.name for m in self.memories))

    def links(self) -> Iterator[Link]:
        """Cables of every node, of the fabric, and of memories."""
        inside = list(self.node.links())
        links = [
            link._replace(source=self._global(n, link.source), target=self._global(n, link.target))
            for n in range(self.nodes)
            for link in inside
        ]
        links += self.fabric.links(self._ports)
        yield from links
        yield from memory_links(self.memories, devices_of(links))

    def route(self, source: Device, target: Device) -> tuple[Device, ...]:
        """Inside a node the cheapest path; between nodes over the fabric; to a memory of no node the cheapest path."""
        here, there = self._place(source), self._place(target)
        if here is None or there is None:
            return _all_paths(self)(source, target)
        (first, start), (last, end) = here, there
        if first == last:
            return self._inside(first, start, end)
        before: tuple[Device, ...] = ()
        nics = self.node.nic_of(start), self.node.nic_of(end)
        if nics[0] != nics[1] and self._relays_to_rails():
            relay = self._on_rail(start, nics[1])
            before = self._inside(first, start, relay)[:-1]
            start, nics = relay, (nics[1], nics[1])
        ports = Port(first, nics[0]), Port(last, nics[1])
        return (
            *before,
            *self._inside(first, start, f"nic{ports[0].nic}"),
            *self.fabric.switches(self._ports, *ports),
            *self._inside(last, f"nic{ports[1].nic}", end),
        )

    def _relays_to_rails(self) -> bool:
        return isinstance(self.fabric, RailFabric) and self.fabric.pxn and not isinstance(self.node, PcieNode)

    def _on_rail(self, device: Device, nic: int) -> Device:
        """The accelerator that relays to a rail; a memory does not relay, it uses the interface itself."""
        on_rail = [npu for npu in range(self.node.npus) if self.node.nic_of(npu) == nic]
        return on_rail[0] if on_rail and isinstance(device, int) else device

    @property
    def _ports(self) -> Ports:
        return Ports(self.nodes, self.node.nics)

    def _inside(self, node: int, start: Device, end: Device) -> tuple[Device, ...]:
        return tuple(self._global(node, device) for device in self.node.route(start, end))

    def _global(self, node: int, device: Device) -> Device:
        return node * self.node.npus + device if isinstance(device, int) else f"node{node}/{device}"

    def _place(self, device: Device) -> tuple[int, Device] | None:
        """Node and name inside it; None for a memory of no node."""
        if isinstance(device, int):
            return divmod(device, self.node.npus)
        node, slash, name = device.partition("/")
        return (int(node.removeprefix("node")), name) if slash else None


@lru_cache(maxsize=4)
def _all_paths(cluster: Cluster) -> CheapestPaths:
    return CheapestPaths(cluster.links(), cluster.endpoints)
