"""What a topology is: devices, links between them, and the way from one to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

Device = int | str
"""A rank by its number, or a memory or switch by its name."""


class Link(NamedTuple):
    """A cable.

    Attributes:
        source, target: What it joins.
        bandwidth: Of one direction: text with its unit, as ``"450GB/s"``, or a number of bytes per second.
        latency: Text with its unit, as ``"500ns"``, or a number of nanoseconds, which may be fractional.
        duplex: Whether it carries the same the other way too.
    """

    source: Device
    target: Device
    bandwidth: str | float
    latency: str | float = 0
    duplex: bool = True


class Topology(Protocol):
    """A network of arbitrary links.

    Besides what stands here a topology may have:

    - ``endpoints``: names of memories. They send and receive; every other name is a switch.
    - ``npus_per_node``: ranks of one server, if the ranks of a server are consecutive. The instances of a run file's
      ``nodes[i]`` then get ranks of server i.
    - ``route(source, target)``: the devices that a message visits, both ends included. Without it a message takes the
      cheapest path, see `llmservingsim.backend.topologies.paths.CheapestPaths`.
    """

    @property
    def npus_count(self) -> Sequence[int]:
        """The logical shape over which collectives are decomposed, innermost first; its product is the ranks."""
        ...

    def links(self) -> Iterable[Link]:
        """Every cable."""
        ...
