"""Tori: grids of rings, as TPU slices are wired."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from llmservingsim.backend.config import LINK_GB, CongestionModel, NetworkModel
from llmservingsim.backend.topologies.parts import Devices, Part, Share, scaled
from llmservingsim.units import parse_time_ns


class Torus(Part, frozen=True, kw_only=True, tag_field="kind", tag="torus"):
    """Chips in a grid whose lines are rings; messages correct one dimension after the other, the innermost first.

    Attributes:
        npus_count: Chips along each dimension, as ``[4, 4, 4]``.
        bandwidth: Of one link in one direction; a chip has two links per dimension.
        latency: Of one link.
        efficiency: Share of the bandwidth that messages reach.
    """

    npus_count: Annotated[tuple[Devices, ...], Meta(min_length=1)]
    bandwidth: str
    latency: str
    efficiency: Share = 1.0

    def network(self, model: CongestionModel = "unaware") -> NetworkModel:
        """Return the grid."""
        dimensions = len(self.npus_count)
        return NetworkModel(
            topology=["Ring"] * dimensions,
            npus_count=list(self.npus_count),
            bandwidth_gbps=[scaled(self.bandwidth, self.efficiency) / LINK_GB] * dimensions,
            latency_ns=[parse_time_ns(self.latency)] * dimensions,
            model=model,
        )
