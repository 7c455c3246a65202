"""What lies between the accelerators of a run and the devices of a memory: ports, and switches with an uplink.

::

    accelerator 0 -- port --+-- node port --+-- switch "leaf" -- uplink --+-- cxl:0
    accelerator 1 -- port --+               |                             +-- cxl:1
    accelerator 2 -- ...                    +-- cxl:2
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from msgspec.structs import replace

from llmservingsim.backend import MemoryLevelModel, MemoryLinkModel
from llmservingsim.backend.config import MEMORY_GB
from llmservingsim.config import CxlSpec, NodeMemorySpec, PortSpec, SwitchSpec
from llmservingsim.config.memory_spec import Numbers, parse_numbers
from llmservingsim.errors import ConfigError, located, nearest, one_of
from llmservingsim.units import parse_bandwidth, parse_time_ns


class FabricLink(NamedTuple):
    """A link, in both directions.

    Attributes:
        kind: What it is.
        name: What the outputs call it.
        model: As the backend takes it.
    """

    kind: Literal["ports", "uplinks"]
    name: str
    model: MemoryLinkModel


@dataclass(frozen=True, slots=True)
class Fabric:
    """Links between ranks and devices.

    Attributes:
        links: Ports first.
        rank_links: Which of them each rank is behind.
        device_links: Likewise each device.
    """

    links: tuple[FabricLink, ...]
    rank_links: tuple[tuple[int, ...], ...]
    device_links: tuple[tuple[int, ...], ...]

    def over(self, level: MemoryLevelModel) -> MemoryLevelModel:
        """Return a level with these links."""
        return replace(
            level,
            discipline="flow",
            links=[link.model for link in self.links],
            rank_links=[list(own) for own in self.rank_links],
            device_links=[list(own) for own in self.device_links],
        )


class Ports:
    """Who reaches a memory over which links.

    Args:
        sections: As stated.
        num_nodes: Of the run.

    Raises:
        ConfigError: If they name a node that is not there, or say different things of one.
    """

    def __init__(self, sections: Sequence[PortSpec], num_nodes: int) -> None:
        self._of: dict[str, dict[int, PortSpec]] = {"accelerator": {}, "node": {}}
        rest: dict[str, PortSpec] = {}
        for position, section in enumerate(sections):
            with located(f"ports[{position}]"):
                if section.nodes is None:
                    if section.of in rest:
                        raise ConfigError(
                            f"another entry says it of each {section.of}; expected 'nodes' in one of them"
                        )
                    rest[section.of] = section
                for node in _checked("nodes", section.nodes or (), num_nodes, "nodes"):
                    if node in self._of[section.of]:
                        raise ConfigError(f"nodes: another entry of each {section.of} names node {node} too")
                    self._of[section.of][node] = section
        for of, section in rest.items():
            for node in range(num_nodes):
                self._of[of].setdefault(node, section)

    def links(self, nodes_of_ranks: Sequence[int]) -> tuple[list[FabricLink], list[list[int]]]:
        """Return the links, and for each rank which of them it is behind, its own first."""
        found: dict[str, FabricLink] = {}
        names: list[list[str]] = [[] for _ in nodes_of_ranks]
        for of, sections in self._of.items():
            for rank, node in enumerate(nodes_of_ranks):
                if node not in sections:
                    continue
                name = f"node {node}" if of == "node" else f"accelerator {rank}"
                found.setdefault(name, FabricLink("ports", name, _link(sections[node])))
                names[rank].append(name)
        numbers = {name: number for number, name in enumerate(found)}
        return list(found.values()), [[numbers[name] for name in own] for own in names]


class Switches:
    """What is behind which switches, and who reaches it.

    Args:
        sections: As stated.
        num_devices: Of the pool.
        num_nodes: Of the run.

    Raises:
        ConfigError: If they name what is not there, or a device is behind two of them.
    """

    def __init__(self, sections: Sequence[SwitchSpec], num_devices: int, num_nodes: int) -> None:
        self._sections = tuple(sections)
        self._place = _places(self._sections)
        everybody = frozenset(range(num_nodes))
        self.chains: list[tuple[int, ...]] = [()] * num_devices
        self._reached_from: list[frozenset[int]] = [everybody] * num_devices
        used = {section.behind for section in self._sections}
        for position, section in enumerate(self._sections):
            with located(f"switches[{position}]"):
                devices = _checked("devices", section.devices, num_devices, "devices")
                if not devices and section.name not in used:
                    raise ConfigError("devices: nothing is behind this switch; expected devices, or a switch")
                chain = self._chain(position)
                nodes = everybody
                for switch in (self._sections[number] for number in chain):
                    if switch.nodes is not None:
                        nodes &= frozenset(_checked("nodes", switch.nodes, num_nodes, "nodes"))
                for device in devices:
                    if self.chains[device]:
                        other = self._sections[self.chains[device][-1]].name
                        raise ConfigError(f"devices: {device} is behind {other!r} already; expected it once")
                    self.chains[device], self._reached_from[device] = chain, nodes

    def reached_from(self, nodes: Iterable[int]) -> tuple[int, ...]:
        """Return the devices that all of some nodes reach."""
        wanted = frozenset(nodes)
        return tuple(device for device, reached in enumerate(self._reached_from) if wanted <= reached)

    def links(self) -> list[FabricLink]:
        """Return the uplinks, in the order of the sections."""
        return [FabricLink("uplinks", f"switch {section.name}", _link(section)) for section in self._sections]

    def _chain(self, position: int) -> tuple[int, ...]:
        """The switches between the ports and what is behind one of them, that one included."""
        chain = [position]
        while (name := self._sections[chain[-1]].behind) is not None:
            if name not in self._place:
                raise ConfigError(
                    f"behind: there is no switch {name!r}{nearest(name, self._place)}; expected {one_of(self._place)}"
                )
            if self._place[name] in chain:
                raise ConfigError(f"behind: {name!r} is behind this switch itself; expected a way to the ports")
            chain.append(self._place[name])
        return tuple(reversed(chain))


def pool_ports(pool: CxlSpec | None, num_nodes: int) -> Ports:
    """Return the ports of the pool, checked."""
    sections = pool.ports if pool is not None else ()
    with located("cxl_memory"):
        return Ports((sections,) if isinstance(sections, PortSpec) else sections, num_nodes)


def pool_switches(pool: CxlSpec | None, num_nodes: int) -> Switches:
    """Return the switches of the pool, checked."""
    with located("cxl_memory"):
        return Switches(pool.switches if pool else (), pool.num_devices if pool else 0, num_nodes)


def own_links(memories: Sequence[NodeMemorySpec | None]) -> Ports:
    """Return a link per accelerator to the memory of its node, where that states one; a memory per node."""
    stated = {n: m.link_bandwidth for n, m in enumerate(memories) if m is not None and m.link_bandwidth is not None}
    sections = [PortSpec(bandwidth=b, of="accelerator", nodes=(node,)) for node, b in stated.items()]
    return Ports(sections, len(memories))


def plan_fabric(ports: Ports, switches: Switches, nodes_of_ranks: Sequence[int]) -> Fabric:
    """Return the links between the ranks and the devices of a memory."""
    own, rank_links = ports.links(nodes_of_ranks)
    return Fabric(
        (*own, *switches.links()),
        tuple(map(tuple, rank_links)),
        tuple(tuple(len(own) + number for number in chain) for chain in switches.chains),
    )


def seen_by(level: MemoryLevelModel, ranks: Sequence[int]) -> MemoryLevelModel:
    """Return a level as a system of its own sees it, which consists of some ranks, numbered from 0.

    Links are numbered as they are met, so that two systems that see the same have equal levels.
    """
    if not level.links:
        return level
    mine = [level.rank_links[rank] for rank in ranks]
    numbers = {link: number for number, link in enumerate(dict.fromkeys(_flat((*mine, *level.device_links))))}
    return replace(
        level,
        links=[level.links[link] for link in numbers],
        rank_links=[[numbers[link] for link in own] for own in mine],
        device_links=[[numbers[link] for link in own] for own in level.device_links],
    )


def _places(sections: Sequence[SwitchSpec]) -> dict[str, int]:
    found: dict[str, int] = {}
    for position, section in enumerate(sections):
        if found.setdefault(section.name, position) != position:
            raise ConfigError(f"switches[{position}].name: {section.name!r} is the name of another one too")
    return found


def _checked(key: str, numbers: Numbers, count: int, what: str) -> tuple[int, ...]:
    found = parse_numbers(numbers)
    for number in found:
        if number >= count:
            raise ConfigError(f"{key}: there is no {number}; the {what} are 0 to {count - 1}")
    if len(set(found)) < len(found):
        raise ConfigError(f"{key}: {numbers!r} names one twice")
    return found


def _link(section: PortSpec | SwitchSpec) -> MemoryLinkModel:
    return MemoryLinkModel(parse_bandwidth(section.bandwidth) / MEMORY_GB, int(parse_time_ns(section.latency)))


def _flat(lists: Iterable[Iterable[int]]) -> Iterator[int]:
    for numbers in lists:
        yield from numbers
