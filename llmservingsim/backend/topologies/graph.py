"""An arbitrary graph, devices by name."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Annotated

from msgspec import Meta

from llmservingsim.backend.topologies.parts import Devices, Part, Share, scaled
from llmservingsim.backend.topologies.topology import Device, Link
from llmservingsim.config.quantities import QuantityError
from llmservingsim.errors import nearest, one_of


class Cable(Part, frozen=True, kw_only=True):
    """A cable of a `Graph`.

    Attributes:
        between: The two devices.
        bandwidth: In one direction.
        latency: Of the cable.
        count: So many of them side by side; a message takes one.
        one_way: From the first device to the second only.
    """

    between: tuple[str, str]
    bandwidth: str
    latency: str = "0ns"
    count: Devices = 1
    one_way: bool = False


class Graph(Part, frozen=True, kw_only=True, tag_field="kind", tag="graph"):
    """Any devices and any cables. Messages take the cheapest path.

    Attributes:
        npus: Names of the accelerators; their ranks in this order.
        memories: Names of memories.
        switches: Names of what only passes on: switches, root complexes, network interfaces.
        cables: What joins them.
        shape: Logical shape over which collectives are decomposed, innermost first; null for one dimension.
        npus_per_node: Accelerators of one server, if the ranks of a server are consecutive.
        efficiency: Share of every bandwidth that messages reach.
    """

    npus: Annotated[tuple[str, ...], Meta(min_length=1)]
    cables: Annotated[tuple[Cable, ...], Meta(min_length=1)]
    memories: tuple[str, ...] = ()
    switches: tuple[str, ...] = ()
    shape: tuple[Devices, ...] | None = None
    npus_per_node: Devices | None = None
    efficiency: Share = 1.0

    def __post_init__(self) -> None:
        names = (*self.npus, *self.memories, *self.switches)
        for name in names:
            if names.count(name) > 1:
                raise QuantityError(f"npus, memories and switches: {name!r} stands there twice; expected it once")
        for number, cable in enumerate(self.cables):
            for name in cable.between:
                if name not in names:
                    raise QuantityError(
                        f"cables[{number}].between: there is no device {name!r}{nearest(name, names)}; expected one "
                        f"of {one_of(names, 24)}, or to find it among npus, memories or switches"
                    )
        if len(self.npus) % (self.npus_per_node or 1):
            raise QuantityError(
                f"npus_per_node: expected a number that divides the {len(self.npus)} npus, got {self.npus_per_node}"
            )
        if self.shape is not None and prod(self.shape) != len(self.npus):
            raise QuantityError(f"shape: {list(self.shape)} has {prod(self.shape)} places for {len(self.npus)} npus")

    @property
    def npus_count(self) -> tuple[int, ...]:
        """The logical shape."""
        return self.shape or (len(self.npus),)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The memories."""
        return self.memories

    def links(self) -> Iterator[Link]:
        """The cables; accelerators are ranks."""
        ranks: dict[str, Device] = {name: rank for rank, name in enumerate(self.npus)}
        for cable in self.cables:
            source, target = (ranks.get(name, name) for name in cable.between)
            bandwidth = scaled(cable.bandwidth, self.efficiency)
            for _ in range(cable.count):
                yield Link(source, target, bandwidth, cable.latency, duplex=not cable.one_way)
