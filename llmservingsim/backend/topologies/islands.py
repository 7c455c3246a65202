"""Islands: devices that are closer to some than to others, with a link for every pair."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, combinations, pairwise
from typing import Annotated

from msgspec import Meta

from llmservingsim.backend.topologies.parts import Devices, Part
from llmservingsim.backend.topologies.topology import Device, Link
from llmservingsim.config.quantities import QuantityError


class Islands(Part, frozen=True, kw_only=True, tag_field="kind", tag="islands"):
    """Groups of devices of any sizes. Every pair has a link of its own; the smallest group with both says how fast.

    What a grid of several ``FullyConnected`` dimensions is for groups of equal sizes; collectives run over one logical
    dimension, in which neighbours are close to each other.

    Attributes:
        sizes: Devices of every group, a list per level, the innermost first; the outermost group has them all and is
            not listed. ``[[4, 2, 2], [6, 2]]``: three instances, two of them on one node.
        bandwidth: Of a link in one direction, one per level, all devices' included.
        latency: Of a link, likewise.
    """

    sizes: Annotated[tuple[tuple[Devices, ...], ...], Meta(min_length=1)]
    bandwidth: tuple[str, ...]
    latency: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = len(self.sizes) + 1
        for key in ("bandwidth", "latency"):
            if len(getattr(self, key)) != levels:
                raise QuantityError(f"{key}: expected {levels}, one per level, got {list(getattr(self, key))}")
        bounds = [list(accumulate(level)) for level in self.sizes]
        for number, (inner, outer) in enumerate(pairwise(bounds), start=1):
            if not set(outer) <= set(inner) or outer[-1] != inner[-1]:
                raise QuantityError(
                    f"sizes: expected every group of level {number} to consist of whole groups of level {number - 1}, "
                    f"got {list(self.sizes[number])} over {list(self.sizes[number - 1])}"
                )

    @property
    def npus_count(self) -> tuple[int, ...]:
        """One logical dimension."""
        return (sum(self.sizes[0]),)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """No memories."""
        return ()

    def links(self) -> Iterator[Link]:
        """One per pair."""
        groups = [[group for group, size in enumerate(level) for _ in range(size)] for level in self.sizes]
        for a, b in combinations(range(self.npus_count[0]), 2):
            level = next((n for n, of in enumerate(groups) if of[a] == of[b]), len(groups))
            yield Link(a, b, self.bandwidth[level], self.latency[level])

    def route(self, source: Device, target: Device) -> tuple[Device, ...]:
        """The link between the two."""
        return (source, target) if source != target else (source,)
