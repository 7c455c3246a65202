"""Servers: accelerators joined by a mesh or a switch, a PCIe tree with its memories, network interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from typing import Annotated, Literal

from msgspec import Meta

from llmservingsim.backend.topologies.parts import Devices, Memory, Part, Share, devices_of, memory_links, scaled
from llmservingsim.backend.topologies.paths import CheapestPaths
from llmservingsim.backend.topologies.topology import Device, Link
from llmservingsim.errors import ConfigError


class Host(Part, frozen=True, kw_only=True):
    """The PCIe tree of a server: accelerators under switches under root complexes, one per socket.

    Its devices are called ``pcie0``, ``socket0`` and so on, and ``cpu0`` the memory of socket 0.

    Attributes:
        sockets: NUMA domains; each has a root complex and a memory.
        switches_per_socket: PCIe switches under a root complex; 0 puts accelerators at the root complex itself.
        bandwidth: Of a PCIe link in one direction; a switch has one such link up.
        latency: Of a PCIe link.
        inter_socket_bandwidth: Between two sockets, one direction, all their links together.
        inter_socket_latency: Between two sockets.
        memory_bandwidth: Of a socket's memory.
        memory_latency: Of a socket's memory.
        nics_at: Where network interfaces are plugged in.
        efficiency: Share of the bandwidth of PCIe links that messages reach.
    """

    sockets: Devices = 2
    switches_per_socket: Annotated[int, Meta(ge=0, le=64)] = 1
    bandwidth: str
    latency: str
    inter_socket_bandwidth: str
    inter_socket_latency: str
    memory_bandwidth: str
    memory_latency: str
    nics_at: Literal["switch", "socket"] = "switch"
    efficiency: Share = 1.0

    def slot(self, index: int, count: int, *, at_socket: bool = False) -> str:
        """Where the ``index``-th of ``count`` equal cards is plugged in: neighbours share."""
        switches = self.sockets * self.switches_per_socket
        if at_socket or not switches:
            return f"socket{index * self.sockets // count}"
        return f"pcie{index * switches // count}"

    def links(self) -> Iterator[Link]:
        """The tree without its cards."""
        for a, b in combinations(range(self.sockets), 2):
            yield Link(f"socket{a}", f"socket{b}", self.inter_socket_bandwidth, self.inter_socket_latency)
        for socket in range(self.sockets):
            yield Link(f"cpu{socket}", f"socket{socket}", self.memory_bandwidth, self.memory_latency)
        for switch in range(self.sockets * self.switches_per_socket):
            root = f"socket{switch // self.switches_per_socket}"
            yield self.cable(f"pcie{switch}", root)

    def cable(self, a: Device, b: Device) -> Link:
        """A PCIe link."""
        return Link(a, b, scaled(self.bandwidth, self.efficiency), self.latency)


class Node(Part, frozen=True, kw_only=True, tag_field="kind"):
    """Base of the kinds of server; a topology by itself, and the part of which a `Cluster` is made.

    Attributes:
        npus: Accelerators.
        nics: Network interfaces, called ``nic0`` and so on. Accelerators use the nearest; of equally near ones the
            i-th accelerator uses the i-th. Without a host they are part of the accelerators, joined by a link like
            those between these.
        host: The PCIe tree; null where nothing passes it.
        memories: Further memories.
    """

    npus: Annotated[int, Meta(ge=1, le=1024)] = 8
    nics: Annotated[int, Meta(ge=0, le=1024)] = 0
    host: Host | None = None
    memories: tuple[Memory, ...] = ()

    @property
    def npus_count(self) -> tuple[int, ...]:
        """One logical dimension."""
        return (self.npus,)

    @property
    def npus_per_node(self) -> int:
        """All of them."""
        return self.npus

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Memories of the sockets, and further ones."""
        sockets = self.host.sockets if self.host is not None else 0
        return (*(f"cpu{s}" for s in range(sockets)), *(m.name for m in self.memories))

    def links(self) -> Iterator[Link]:
        """Every cable; accelerators are ranks."""
        links = [*self.peer_links(), *self._card_links()]
        yield from links
        yield from memory_links(self.memories, devices_of(links))

    def peer_links(self) -> Iterator[Link]:
        """Cables between accelerators."""
        raise NotImplementedError

    def nic_link(self) -> tuple[float, str]:
        """Bandwidth and latency between an accelerator and a network interface that is part of it."""
        raise NotImplementedError

    def route(self, source: Device, target: Device) -> tuple[Device, ...]:
        """The cheapest path."""
        return _paths(self)(source, target)

    def nic_of(self, device: Device) -> int:
        """The network interface that a device of this server uses."""
        if not self.nics:
            raise ConfigError("nics: a server that is joined to others needs at least one network interface")
        costs = [_paths(self).cost_ps(device, f"nic{n}") for n in range(self.nics)]
        nearest = [n for n, cost in enumerate(costs) if cost == min(costs)]
        position = device if isinstance(device, int) else 0
        return nearest[position * self.nics // self.npus % len(nearest)]

    def _card_links(self) -> Iterator[Link]:
        host = self.host
        if host is None:
            cards = max(self.npus, self.nics)
            for card in range(cards if self.nics else 0):
                yield Link(card * self.npus // cards, f"nic{card * self.nics // cards}", *self.nic_link())
            return
        yield from host.links()
        for npu in range(self.npus):
            yield host.cable(npu, host.slot(npu, self.npus))
        for nic in range(self.nics):
            yield host.cable(f"nic{nic}", host.slot(nic, self.nics, at_socket=host.nics_at == "socket"))


class MeshNode(Node, frozen=True, kw_only=True, tag="mesh"):
    """A server whose accelerators are linked pair by pair: NVLink bridges, Infinity Fabric, Gaudi.

    Attributes:
        bandwidth: Of one pair in one direction, all their links together.
        latency: Of one link.
        efficiency: Share of the bandwidth that messages reach.
    """

    bandwidth: str
    latency: str
    efficiency: Share = 1.0

    def peer_links(self) -> Iterator[Link]:
        """One link per pair."""
        for a, b in combinations(range(self.npus), 2):
            yield Link(a, b, scaled(self.bandwidth, self.efficiency), self.latency)

    def nic_link(self) -> tuple[float, str]:
        """As between a pair."""
        return scaled(self.bandwidth, self.efficiency), self.latency


class SwitchNode(Node, frozen=True, kw_only=True, tag="switch"):
    """A server whose accelerators are linked through switches that block nobody: NVSwitch.

    Attributes:
        bandwidth: Of one accelerator in one direction, to all switches together.
        latency: Of one link; a message crosses two.
        switches: Over how many switches the links of an accelerator are spread. A message takes one of them and gets
            its share of the bandwidth alone; hardware that stripes messages over all is one switch.
        efficiency: Share of the bandwidth that messages reach.
    """

    bandwidth: str
    latency: str
    switches: Devices = 1
    efficiency: Share = 1.0

    def peer_links(self) -> Iterator[Link]:
        """One link per accelerator and switch."""
        share = scaled(self.bandwidth, self.efficiency) / self.switches
        for npu in range(self.npus):
            for switch in range(self.switches):
                yield Link(npu, f"nvswitch{switch}", share, self.latency)

    def nic_link(self) -> tuple[float, str]:
        """As to the switches."""
        return scaled(self.bandwidth, self.efficiency), self.latency


class PcieNode(Node, frozen=True, kw_only=True, tag="pcie"):
    """A server whose accelerators have nothing but PCIe.

    Attributes:
        host: The PCIe tree.
    """

    host: Host

    def peer_links(self) -> Iterator[Link]:
        """None beside the tree."""
        return iter(())


NodeKind = MeshNode | SwitchNode | PcieNode


@lru_cache(maxsize=64)
def _paths(node: Node) -> CheapestPaths:
    return CheapestPaths(node.links(), node.endpoints)
