"""What joins servers: switches above their network interfaces."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import ceil
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from llmservingsim.backend.topologies.parts import Devices, Part, Ratio, Share, scaled
from llmservingsim.backend.topologies.paths import spread
from llmservingsim.backend.topologies.topology import Link
from llmservingsim.errors import ConfigError


class Port(NamedTuple):
    """A network interface of a cluster."""

    node: int
    nic: int

    @property
    def device(self) -> str:
        """Its name."""
        return f"node{self.node}/nic{self.nic}"


class Ports(NamedTuple):
    """All network interfaces of a cluster: so many nodes with so many each."""

    nodes: int
    nics: int

    def each(self) -> Iterator[Port]:
        """Every port, node by node."""
        return (Port(node, nic) for node in range(self.nodes) for nic in range(self.nics))

    @property
    def total(self) -> int:
        """How many."""
        return self.nodes * self.nics

    def position(self, port: Port) -> int:
        """A port's place when counted node by node."""
        return port.node * self.nics + port.nic


class Fabric(Part, frozen=True, kw_only=True, tag_field="kind"):
    """Base of the fabrics between servers.

    Attributes:
        bandwidth: Of a network interface, and of every cable between switches, in one direction.
        latency: Of a cable with the switch behind it.
        efficiency: Share of the bandwidth that messages reach.
    """

    bandwidth: str
    latency: str
    efficiency: Share = 1.0

    def cable(self, a: str, b: str) -> Link:
        """A cable of the fabric's bandwidth."""
        return Link(a, b, scaled(self.bandwidth, self.efficiency), self.latency)

    def links(self, ports: Ports) -> Iterator[Link]:
        """Every cable above the network interfaces."""
        raise NotImplementedError

    def switches(self, ports: Ports, source: Port, target: Port) -> list[str]:
        """The switches that a message passes between two network interfaces."""
        raise NotImplementedError


class RailFabric(Fabric, frozen=True, kw_only=True, tag="rail"):
    """Rail-optimised: interface i of every node hangs on the leaf switch of rail i; spines join the rails.

    Attributes:
        nodes_per_leaf: Ports of a leaf that go down; beyond so many nodes a rail has several leaves.
        oversubscription: Bandwidth of a leaf's ports down over that of its ports up; the number up is rounded up.
        spines: Spine switches; null for as many as a leaf has ports up.
        pxn: Between rails, first pass the message inside the node to the accelerator on the target's rail, as NCCL
            does (``NCCL_PXN_DISABLE=0``); false sends it over a spine, and so do nodes with nothing but PCIe.
    """

    nodes_per_leaf: Devices = 32
    oversubscription: Ratio = 1.0
    spines: Devices | None = None
    pxn: bool = True

    def leaf(self, port: Port) -> str:
        """The leaf switch of an interface."""
        return f"rail{port.nic}.leaf{port.node // self.nodes_per_leaf}"

    def uplinks(self, ports: Ports) -> int:
        """Cables from a leaf to the spines."""
        return ceil(min(ports.nodes, self.nodes_per_leaf) / self.oversubscription)

    def links(self, ports: Ports) -> Iterator[Link]:
        """Interfaces to leaves, leaves to spines."""
        leaves = dict.fromkeys(map(self.leaf, ports.each()))
        for port in ports.each():
            yield self.cable(port.device, self.leaf(port))
        if len(leaves) > 1:
            for leaf in leaves:
                for cable in range(self.uplinks(ports)):
                    yield self.cable(leaf, self._spine(cable))

    def switches(self, ports: Ports, source: Port, target: Port) -> list[str]:
        """The leaf of a rail, or two leaves with a spine between."""
        first, last = self.leaf(source), self.leaf(target)
        if first == last:
            return [first]
        return [first, self._spine(spread(source.device, target.device, self.uplinks(ports))), last]

    def _spine(self, cable: int) -> str:
        return f"spine{cable % self.spines if self.spines else cable}"


class FatTreeFabric(Fabric, frozen=True, kw_only=True, tag="fat_tree"):
    """A folded Clos network: leaves below spines, or leaves below the aggregation switches of pods below cores.

    Interfaces fill the leaves node by node.

    Attributes:
        levels: Of switches.
        leaf_ports: Ports of a leaf that go down.
        oversubscription: Bandwidth of a leaf's ports down over that of its ports up; the number up is rounded up.
        leaves_per_pod: Three levels only.
        core_oversubscription: Likewise of an aggregation switch, three levels only.
    """

    levels: Literal[2, 3] = 2
    leaf_ports: Devices = 32
    oversubscription: Ratio = 1.0
    leaves_per_pod: Devices = 16
    core_oversubscription: Ratio = 1.0

    def links(self, ports: Ports) -> Iterator[Link]:
        """Interfaces to leaves, leaves to what is above, pods to cores."""
        for port in ports.each():
            yield self.cable(port.device, f"leaf{self._leaf(ports, port)}")
        leaves = ceil(ports.total / self.leaf_ports)
        pods = ceil(leaves / self.leaves_per_pod) if self.levels == 3 else 1
        for leaf in range(leaves if leaves > 1 else 0):
            for up in range(self._leaf_uplinks()):
                yield self.cable(f"leaf{leaf}", self._above(leaf, up))
        for pod in range(pods if pods > 1 else 0):
            for aggregation in range(self._leaf_uplinks()):
                for up in range(self._core_uplinks()):
                    yield self.cable(f"pod{pod}.agg{aggregation}", f"core{aggregation}.{up}")

    def switches(self, ports: Ports, source: Port, target: Port) -> list[str]:
        """Up as far as needed, and down again."""
        first, last = self._leaf(ports, source), self._leaf(ports, target)
        if first == last:
            return [f"leaf{first}"]
        up = spread(source.device, target.device, self._leaf_uplinks())
        above, below = self._above(first, up), self._above(last, up)
        if above == below:
            return [f"leaf{first}", above, f"leaf{last}"]
        core = f"core{up}.{spread(source.device, target.device, self._core_uplinks(), above)}"
        return [f"leaf{first}", above, core, below, f"leaf{last}"]

    def _leaf(self, ports: Ports, port: Port) -> int:
        return ports.position(port) // self.leaf_ports

    def _leaf_uplinks(self) -> int:
        return ceil(self.leaf_ports / self.oversubscription)

    def _core_uplinks(self) -> int:
        return ceil(self.leaves_per_pod / self.core_oversubscription)

    def _above(self, leaf: int, up: int) -> str:
        return f"spine{up}" if self.levels == 2 else f"pod{leaf // self.leaves_per_pod}.agg{up}"


class DragonflyFabric(Fabric, frozen=True, kw_only=True, tag="dragonfly"):
    """Groups of routers, all joined inside a group, one global cable between any two groups (Kim et al., ISCA 2008).

    Routing is minimal: at most one local hop, the global one, another local one. Interfaces fill the routers node by
    node.

    Attributes:
        groups: Of routers.
        routers: Per group.
        nics_per_router: Network interfaces on a router.
        global_bandwidth: Of a cable between groups in one direction; null as the others.
        global_latency: Of such a cable; null as the others.
    """

    groups: Annotated[int, Meta(ge=2, le=2**16)]
    routers: Devices
    nics_per_router: Devices
    global_bandwidth: str | None = None
    global_latency: str | None = None

    def links(self, ports: Ports) -> Iterator[Link]:
        """Interfaces to routers, routers of a group, groups."""
        places = self.groups * self.routers * self.nics_per_router
        if ports.total > places:
            raise ConfigError(
                f"fabric: a dragonfly of {self.groups} groups of {self.routers} routers with {self.nics_per_router} "
                f"interfaces each has {places} places, but the nodes have {ports.total} interfaces"
            )
        for port in ports.each():
            yield self.cable(port.device, self._router(*self._place(ports, port)))
        for group in range(self.groups):
            for a, b in combinations(range(self.routers), 2):
                yield self.cable(self._router(group, a), self._router(group, b))
        bandwidth = scaled(self.global_bandwidth or self.bandwidth, self.efficiency)
        latency = self.global_latency or self.latency
        for a, b in combinations(range(self.groups), 2):
            yield Link(self._gateway(a, b), self._gateway(b, a), bandwidth, latency)

    def switches(self, ports: Ports, source: Port, target: Port) -> list[str]:
        """Local, global, local; hops that lead nowhere are left out."""
        (here, first), (there, last) = self._place(ports, source), self._place(ports, target)
        way = [self._router(here, first)]
        if here != there:
            way += [self._gateway(here, there), self._gateway(there, here)]
        way.append(self._router(there, last))
        return list(dict.fromkeys(way))

    def _place(self, ports: Ports, port: Port) -> tuple[int, int]:
        return divmod(ports.position(port) // self.nics_per_router, self.routers)

    def _router(self, group: int, router: int) -> str:
        return f"group{group}.router{router}"

    def _gateway(self, group: int, other: int) -> str:
        """The router of a group that holds the cable to another group; cables are dealt out in turn."""
        return self._router(group, (other if other < group else other - 1) % self.routers)


FabricKind = RailFabric | FatTreeFabric | DragonflyFabric
