"""The section of the run file that describes a tier of a prefix cache."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from llmservingsim.config.quantities import check_quantities
from llmservingsim.units import parse_size_bytes

TierName = Literal["cpu", "cxl", "storage"]


class TierSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tier of the prefix cache, below the device. `docs/concepts/kv-tiers.md` explains it.

    Attributes:
        tier: Which memory: ``cpu_memory`` or ``storage`` of the node, or ``cxl_memory``.
        size: Of this cache in it, as ``"64GiB"``; by default an even part of what nobody else has there.
        eviction: Which chunk goes when it is full: ``lru``, ``lfu``, ``fifo``, ``cost_aware`` or
            ``package.module:Class``; or a section with that name as ``policy``, and its options.
    """

    tier: TierName
    size: str | None = None
    eviction: str | dict[str, Any] = "lru"

    def __post_init__(self) -> None:
        check_quantities(self, parse_size_bytes, "size")


def tier_names(stated: object) -> object:
    """Return what a message says of the value of a key: of a list of tiers, their names."""
    if not isinstance(stated, tuple):
        return stated
    return [tier.tier if isinstance(tier, TierSpec) else tier for tier in stated]
