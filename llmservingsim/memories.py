"""The memories of a run beside those of its accelerators: what they are, and who keeps how much where.

::

    tier      location of a graph's node   devices
    cpu       REMOTE                       one per node
    cxl       CXL                          those of the pool, which nodes share
    storage   STORAGE                      one per node
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, get_args

from msgspec.structs import replace

from llmservingsim.backend import MemoryLevelModel, MemoryModel, MemoryRateModel
from llmservingsim.backend.config import MEMORY_GB
from llmservingsim.config import MemorySpec, RunSpec
from llmservingsim.config.placement_spec import parse_blocks
from llmservingsim.config.quantities import QuantityError
from llmservingsim.config.tier_spec import TierName
from llmservingsim.errors import CapacityError, ConfigError, nearest, one_of
from llmservingsim.graph import MemoryLocation
from llmservingsim.memory_fabric import (
    Fabric,
    Ports,
    Switches,
    own_links,
    plan_fabric,
    pool_ports,
    pool_switches,
    seen_by,
)
from llmservingsim.units import format_size, parse_bandwidth, parse_size_bytes, parse_time_ns

TIERS: dict[TierName, MemoryLocation] = {
    "cpu": MemoryLocation.REMOTE,
    "cxl": MemoryLocation.CXL,
    "storage": MemoryLocation.STORAGE,
}

INTERLEAVED = -1
"""The device of what is striped over all devices of a tier."""


class Place(NamedTuple):
    """Where something lies.

    Attributes:
        tier: Which memory.
        device: Which of its devices, or `INTERLEAVED`; ``-2 - k`` is the k-th set of devices that somebody named.
    """

    tier: TierName
    device: int

    @property
    def location(self) -> MemoryLocation:
        """Of a graph's node."""
        return TIERS[self.tier]

    @staticmethod
    def at(location: MemoryLocation, device: int) -> Place:
        """Return the place of a graph's node."""
        return Place(next(tier for tier, there in TIERS.items() if there == location), device)

    def __str__(self) -> str:
        if self.tier == "cxl":
            return "cxl" if self.device == INTERLEAVED else f"cxl:{self.device}"  # of a set, see `Memories.name`
        return f"{self.tier} of node {self.device}"


class Claim(NamedTuple):
    """Bytes of a place that somebody keeps for the whole run.

    Attributes:
        what: Who and what for, for messages.
        place: Where.
        num_bytes: How much.
        node: Whose it is, -1 for nobody's.
        filled: Tells how much of it lies there now; None: all of it, all the time.
    """

    what: str
    place: Place
    num_bytes: int
    node: int = -1
    filled: Callable[[], int] | None = None

    @property
    def held_bytes(self) -> int:
        """What lies there now."""
        return self.num_bytes if self.filled is None else self.filled()


class Memories:
    """The memories that a run file describes.

    Args:
        spec: The run.

    Attributes:
        claims: In the order in which they were made.
        fabrics: What lies between the ranks and the devices of memories that somebody uses, where something does.
    """

    def __init__(self, spec: RunSpec) -> None:
        devices: dict[TierName, list[MemorySpec | None]] = {
            "cpu": [node.cpu_memory for node in spec.nodes],
            "cxl": [spec.cxl_memory] * (spec.cxl_memory.num_devices if spec.cxl_memory else 0),
            "storage": [node.storage for node in spec.nodes],
        }
        self._sizes = {tier: [parse_size_bytes(m.size) if m else 0 for m in found] for tier, found in devices.items()}
        self._levels = {tier: _level(found) for tier, found in devices.items()}
        self._ports = _ports(spec)
        self._switches = pool_switches(spec.cxl_memory, len(spec.nodes))
        self._endpoint_names = spec.cxl_memory.endpoints if spec.cxl_memory else ()
        self._endpoints: list[int] = []
        self._sets: list[tuple[int, ...]] = []
        self._used: set[TierName] = set()
        self.fabrics: dict[TierName, Fabric] = {}
        self.claims: list[Claim] = []

    def attach(self, nodes_of_ranks: Sequence[int], endpoints: Mapping[str, int]) -> None:
        """Find out what lies between the accelerators and the memories.

        Args:
            nodes_of_ranks: The node of each rank of the network, -1 for none.
            endpoints: Memories of the network's topology, and their numbers among its devices.

        Raises:
            ConfigError: If the pool is said to be where the network has no memory.
        """
        for name in self._endpoint_names:
            if name not in endpoints:
                raise ConfigError(
                    f"cxl_memory.endpoints: the network's topology has no memory {name!r}{nearest(name, endpoints)}; "
                    f"expected {one_of(endpoints, 24) if endpoints else 'a topology file with memories'}"
                )
        self._endpoints = [endpoints[name] for name in self._endpoint_names]
        for tier, ports in self._ports.items():
            behind = self._switches if tier == "cxl" else Switches((), len(self._sizes[tier]), len(self._sizes[tier]))
            fabric = plan_fabric(ports, behind, nodes_of_ranks)
            if tier in self._used and fabric.links:
                self.fabrics[tier] = fabric

    @property
    def model(self) -> MemoryModel:
        """The memories that somebody has found so far, as the backend takes them."""
        return MemoryModel(remote=self._model("cpu"), cxl=self._model("cxl"), storage=self._model("storage"))

    def model_of(self, ranks: Sequence[int]) -> MemoryModel:
        """Return the memories as a system of its own sees them, which consists of some ranks, numbered from 0."""
        whole = self.model
        return MemoryModel(**{level: seen_by(getattr(whole, level), ranks) for level in ("remote", "cxl", "storage")})

    def find(self, name: str, node: int, nnodes: int = 1) -> Place:
        """Return the place that a file calls ``cpu``, ``cxl``, ``cxl:<i>`` or ``storage``, seen from a node.

        ``cxl:0-3`` is interleaved over these devices, ``cxl`` over all that the node reaches.

        Raises:
            ConfigError: If there is no such memory, or it is that of one of several servers (``nnodes``).
        """
        tier, _, numbers = name.partition(":")
        if tier not in TIERS or (numbers and tier != "cxl"):
            raise _no_memory(name)
        sizes = self._sizes[tier]
        if not any(sizes) if tier == "cxl" else not sizes[node]:
            key = {"cpu": f"nodes[{node}].cpu_memory", "cxl": "cxl_memory", "storage": f"nodes[{node}].storage"}[tier]
            raise ConfigError(f"{name!r} is asked for, but the run describes no such memory; expected {key}")
        self._used.add(tier)
        if tier == "cxl":
            return self._find_devices(name, numbers, range(node, node + nnodes))
        if nnodes > 1:
            raise ConfigError(
                f"{name!r} is the memory of one server, but the instance is on {nnodes}; expected cxl, which all "
                "servers reach, or nnodes 1"
            )
        return Place(tier, node)

    def name(self, place: Place) -> str:
        """Return what files call a place."""
        if place.device >= INTERLEAVED:
            return str(place)
        return f"{place.tier}:{','.join(_ranges(self._sets[-2 - place.device]))}"

    def reaches(self, node: int, place: Place) -> bool:
        """Whether the accelerators of a node reach a place of the pool."""
        return place.tier != "cxl" or set(self._devices(place)) <= set(self._switches.reached_from((node,)))

    def size_bytes(self, place: Place) -> int:
        """Return how much a place holds."""
        sizes = self._sizes[place.tier]
        return sum(sizes[device] for device in self._devices(place))

    def free_bytes(self, place: Place) -> int:
        """Return what nobody has claimed; of an interleaved place, what an even stripe can still take."""
        devices = self._devices(place)
        return min(self._sizes[place.tier][d] - self._claimed(place.tier, d) for d in devices) * len(devices)

    def held_bytes(self, tier: TierName, node: int | None = None) -> int | None:
        """Return what lies in a memory, of one node or of all together; None if nobody uses it."""
        if tier not in self._used:
            return None
        there = [c for c in self.claims if c.place.tier == tier]
        return sum(c.held_bytes for c in there if node in (None, c.node if tier == "cxl" else c.place.device))

    def claim(
        self, what: str, place: Place, num_bytes: int, node: int = -1, filled: Callable[[], int] | None = None
    ) -> None:
        """Keep bytes of a place for the whole run; `Claim` explains the arguments.

        Raises:
            CapacityError: If they do not fit; the message lists who has what there.
        """
        if num_bytes > self.free_bytes(place):
            there = [claim for claim in self.claims if self._overlap(claim.place, place)]
            rows = [f"\n  {format_size(c.num_bytes):>12}  {self.name(c.place)}  {c.what}" for c in there]
            raise CapacityError(
                f"{what}: {format_size(num_bytes)} do not fit into {self.name(place)}, which holds "
                f"{format_size(self.size_bytes(place))}, of which {format_size(self.free_bytes(place))} are free"
                + (". There are already:" + "".join(rows) if rows else "")
            )
        self.claims.append(Claim(what, place, num_bytes, node, filled))

    def _claimed(self, tier: TierName, device: int) -> int:
        """Bytes of one device that claims hold; of an interleaved claim its even part, rounded up."""
        total = 0
        for claim in self.claims:
            devices = self._devices(claim.place)
            if claim.place.tier == tier and device in devices:
                total += -(-claim.num_bytes // len(devices))
        return total

    def _devices(self, place: Place) -> Sequence[int]:
        if place.device >= 0:
            return (place.device,)
        return range(len(self._sizes[place.tier])) if place.device == INTERLEAVED else self._sets[-2 - place.device]

    def _overlap(self, one: Place, other: Place) -> bool:
        return one.tier == other.tier and not set(self._devices(one)).isdisjoint(self._devices(other))

    def _find_devices(self, name: str, numbers: str, nodes: range) -> Place:
        """The place of some devices of the pool, of all that some nodes reach if there is no number."""
        count = len(self._sizes["cxl"])
        reached = self._switches.reached_from(nodes)
        wanted = _numbers(name, numbers) if numbers else reached
        if any(device >= count for device in wanted):
            raise ConfigError(f"{name!r}: the pool has {count} devices; expected cxl:0 to cxl:{count - 1}")
        if not wanted or not set(wanted) <= set(reached):
            who = f"node {nodes[0]}" if len(nodes) == 1 else f"nodes {nodes[0]} to {nodes[-1]} together"
            what = f"cxl:{','.join(_ranges(reached))}" if reached else "a switch with these nodes"
            raise ConfigError(
                f"{name!r} is asked for, but cxl_memory.switches do not let {who} reach it; expected {what}"
            )
        if len(wanted) == 1:
            return Place("cxl", wanted[0])
        if len(wanted) == count:
            return Place("cxl", INTERLEAVED)
        if wanted not in self._sets:
            self._sets.append(wanted)
        return Place("cxl", -2 - self._sets.index(wanted))

    def _model(self, tier: TierName) -> MemoryLevelModel:
        if tier not in self._used:
            return MemoryLevelModel()
        level = self._levels[tier]
        if tier == "cxl":
            sets = [list(devices) for devices in self._sets]
            level = replace(level, interleaves=sets, endpoints=self._endpoints)
        return self.fabrics[tier].over(level) if tier in self.fabrics else level


def _ports(spec: RunSpec) -> dict[TierName, Ports]:
    """The links through which accelerators reach each tier."""
    count = len(spec.nodes)
    return {
        "cpu": own_links([node.cpu_memory for node in spec.nodes]),
        "cxl": pool_ports(spec.cxl_memory, count),
        "storage": own_links([node.storage for node in spec.nodes]),
    }


def _no_memory(name: str) -> ConfigError:
    return ConfigError(f"{name!r} is no memory{nearest(name, TIERS)}; expected cpu, cxl, cxl:<i> or storage")


def _numbers(name: str, numbers: str) -> tuple[int, ...]:
    try:
        found = parse_blocks(numbers)
    except QuantityError:
        raise _no_memory(name) from None
    if len(set(found)) < len(found):
        raise ConfigError(f"{name!r} names a device twice")
    return tuple(sorted(found))


def _ranges(numbers: Sequence[int]) -> list[str]:
    """Ascending numbers, as ``0-3`` and ``8``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in found]


def _level(devices: Sequence[MemorySpec | None]) -> MemoryLevelModel:
    """A level of the backend; a device that is not there has no bandwidth and gets no access."""
    if not any(devices):
        return MemoryLevelModel()
    rates = [_rate(memory) if memory else MemoryRateModel() for memory in devices]
    return MemoryLevelModel("MEMORY_DEVICES", num_devices=len(rates), discipline="shared", rates=rates)


def _rate(memory: MemorySpec) -> MemoryRateModel:
    write = memory.write_bandwidth
    return MemoryRateModel(
        int(parse_time_ns(memory.latency)),
        parse_bandwidth(memory.bandwidth) / MEMORY_GB,
        parse_bandwidth(write) / MEMORY_GB if write else 0.0,
    )


assert set(TIERS) == set(get_args(TierName))
