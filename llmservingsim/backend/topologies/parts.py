"""What the described topologies share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from llmservingsim.backend.topologies.paths import bytes_per_s
from llmservingsim.backend.topologies.topology import Device, Link
from llmservingsim.config.quantities import check_quantities
from llmservingsim.errors import ConfigError, nearest, one_of
from llmservingsim.units import parse_bandwidth, parse_time_ns

Devices = Annotated[int, Meta(ge=1, le=2**16)]
Share = Annotated[float, Meta(gt=0, le=1)]
Ratio = Annotated[float, Meta(ge=1)]


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of what a topology file is made of: keys that end in ``bandwidth`` or ``latency`` carry their unit."""

    def __post_init__(self) -> None:
        keys = self.__struct_fields__
        check_quantities(self, parse_bandwidth, *(k for k in keys if k.endswith("bandwidth")))
        check_quantities(self, parse_time_ns, *(k for k in keys if k.endswith("latency")), may_be_zero=True)


class Memory(Part, frozen=True, kw_only=True):
    """A memory that ranks reach over the network: CXL, a pool, another host.

    Attributes:
        name: What it is called; an endpoint of the network.
        at: Devices to which it is attached: ranks by number, switches and the like by name.
        bandwidth: Of each attachment, one direction.
        latency: Of each attachment.
    """

    name: str
    at: Annotated[tuple[str | int, ...], Meta(min_length=1)]
    bandwidth: str
    latency: str = "0ns"


def scaled(bandwidth: str, efficiency: float) -> float:
    """The share of a nominal bandwidth that messages reach, in bytes per second."""
    return bytes_per_s(bandwidth) * efficiency


def memory_links(memories: Iterable[Memory], known: Collection[Device]) -> Iterator[Link]:
    """Attach memories to devices that are there. Raises ConfigError for one that is not, or a name that is taken."""
    for memory in memories:
        if memory.name in known:
            raise ConfigError(f"memories: the name {memory.name!r} is taken; expected one of its own")
        for device in memory.at:
            if device not in known:
                names = [str(d) for d in known]
                raise ConfigError(
                    f"memories: {memory.name}: at: there is no device {device!r}{nearest(str(device), names)}; "
                    f"expected one of {one_of(names)}"
                )
            yield Link(device, memory.name, memory.bandwidth, memory.latency)


def devices_of(links: Iterable[Link]) -> dict[Device, None]:
    """Every device that a link names, in order of appearance."""
    return dict.fromkeys(device for link in links for device in (link.source, link.target))
