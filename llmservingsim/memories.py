"""The memories of a run beside those of its accelerators: what they are, and who keeps how much where.

::

    tier      location of a graph's node   devices
    cpu       REMOTE                       one per node
    cxl       CXL                          those of the pool, which all nodes reach
    storage   STORAGE                      one per node
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

from msgspec.structs import replace

from llmservingsim.backend import MemoryLevelModel, MemoryModel, MemoryRateModel
from llmservingsim.backend.config import MEMORY_GB
from llmservingsim.config import MemorySpec, RunSpec
from llmservingsim.config.tier_spec import TierName
from llmservingsim.errors import CapacityError, ConfigError, nearest
from llmservingsim.graph import MemoryLocation
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
        device: Which of its devices, or `INTERLEAVED`.
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
            return "cxl" if self.device == INTERLEAVED else f"cxl:{self.device}"
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
    """

    def __init__(self, spec: RunSpec) -> None:
        devices: dict[TierName, list[MemorySpec | None]] = {
            "cpu": [node.cpu_memory for node in spec.nodes],
            "cxl": [spec.cxl_memory] * (spec.cxl_memory.num_devices if spec.cxl_memory else 0),
            "storage": [node.storage for node in spec.nodes],
        }
        self._sizes = {tier: [parse_size_bytes(m.size) if m else 0 for m in found] for tier, found in devices.items()}
        self._levels = {tier: _level(found) for tier, found in devices.items()}
        self._used: set[TierName] = set()
        self._channels: dict[TierName, int] = {}
        self.claims: list[Claim] = []

    @property
    def model(self) -> MemoryModel:
        """The memories that somebody has found so far, as the backend takes them."""
        found = {tier: self._levels[tier] if tier in self._used else MemoryLevelModel() for tier in TIERS}
        for tier, channels in self._channels.items():
            found[tier] = replace(found[tier], pim_channels=channels)
        return MemoryModel(remote=found["cpu"], cxl=found["cxl"], storage=found["storage"])

    def find(self, name: str, node: int, nnodes: int = 1) -> Place:
        """Return the place that a file calls ``cpu``, ``cxl``, ``cxl:<i>`` or ``storage``, seen from a node.

        Raises:
            ConfigError: If there is no such memory, or it is that of one of several servers (``nnodes``).
        """
        tier, _, number = name.partition(":")
        if tier not in TIERS or (number and (tier != "cxl" or not number.isdecimal())):
            raise ConfigError(f"{name!r} is no memory{nearest(name, TIERS)}; expected cpu, cxl, cxl:<i> or storage")
        sizes = self._sizes[tier]
        if not any(sizes) if tier == "cxl" else not sizes[node]:
            key = {"cpu": f"nodes[{node}].cpu_memory", "cxl": "cxl_memory", "storage": f"nodes[{node}].storage"}[tier]
            raise ConfigError(f"{name!r} is asked for, but the run describes no such memory; expected {key}")
        self._used.add(tier)
        if tier != "cxl":
            if nnodes > 1:
                raise ConfigError(
                    f"{name!r} is the memory of one server, but the instance is on {nnodes}; expected cxl, which all "
                    "servers reach, or nnodes 1"
                )
            return Place(tier, node)
        device = int(number) if number else INTERLEAVED
        if device >= len(sizes):
            raise ConfigError(f"{name!r}: the pool has {len(sizes)} devices; expected cxl:0 to cxl:{len(sizes) - 1}")
        return Place(tier, device if len(sizes) > 1 else 0)

    def computes(self, place: Place, channels: int) -> None:
        """Say that graphs name so many channels of a place that compute."""
        self._channels[place.tier] = max(channels, self._channels.get(place.tier, 0))

    def rate(self, place: Place) -> tuple[int, float, float]:
        """Return what one device takes per access, in ns, and its bandwidths of loads and stores, in bytes per ns."""
        rate = self._levels[place.tier].rates[place.device]
        return rate.latency_ns, rate.bandwidth_gbps, rate.write_bandwidth_gbps or rate.bandwidth_gbps

    def size_bytes(self, place: Place) -> int:
        """Return how much a place holds."""
        sizes = self._sizes[place.tier]
        return sum(sizes) if place.device == INTERLEAVED else sizes[place.device]

    def free_bytes(self, place: Place) -> int:
        """Return what nobody has claimed; of an interleaved place, what an even stripe can still take."""
        sizes = self._sizes[place.tier]
        if place.device != INTERLEAVED:
            return sizes[place.device] - self._claimed(place.tier, place.device)
        return min(size - self._claimed(place.tier, d) for d, size in enumerate(sizes)) * len(sizes)

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
            there = [claim for claim in self.claims if claim.place.tier == place.tier and _overlap(claim.place, place)]
            rows = [f"\n  {format_size(c.num_bytes):>12}  {c.place}  {c.what}" for c in there]
            raise CapacityError(
                f"{what}: {format_size(num_bytes)} do not fit into {place}, which holds "
                f"{format_size(self.size_bytes(place))}, of which {format_size(self.free_bytes(place))} are free"
                + (". There are already:" + "".join(rows) if rows else "")
            )
        self.claims.append(Claim(what, place, num_bytes, node, filled))

    def _claimed(self, tier: TierName, device: int) -> int:
        """Bytes of one device that claims hold; of an interleaved claim its even part, rounded up."""
        total = 0
        for claim in self.claims:
            if claim.place.tier == tier and claim.place.device in (device, INTERLEAVED):
                parts = len(self._sizes[tier]) if claim.place.device == INTERLEAVED else 1
                total += -(-claim.num_bytes // parts)
        return total


def _overlap(one: Place, other: Place) -> bool:
    return one.device == other.device or INTERLEAVED in (one.device, other.device)


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
