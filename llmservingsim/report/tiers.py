"""What lower tiers brought, for summary.json."""

from __future__ import annotations

from typing import Any

from llmservingsim.kv_traffic import KvTraffic, TierAccess, TierSide
from llmservingsim.report.statistics import describe
from llmservingsim.units import NS_PER_MS


def prefix_tiers(traffic: KvTraffic | None) -> dict[str, Any]:
    """Return per tier what was found there, what lies there and what moved; ``swap`` is that of preempted requests."""
    if traffic is None:
        return {}
    queried = sum(side.instance.engine.kv.queried_tokens for side in traffic.sides)
    tiers = dict.fromkeys(store.tier for side in traffic.sides for store in side.tiers.stores)
    found: dict[str, Any] = {tier: _tier(traffic, tier, queried) for tier in tiers}
    if any(side.swap_place is not None for side in traffic.sides):
        found["swap"] = {
            "refused": sum(side.tiers.swap.refused for side in traffic.sides if side.tiers.swap is not None),
            **_moved(traffic, "swap"),
        }
    return found


def _tier(traffic: KvTraffic, tier: str, queried: int) -> dict[str, Any]:
    hit = sum(_hit_tokens(side, tier) for side in traffic.sides)
    stores = {id(store): store for side in traffic.sides for store in side.tiers.stores if store.tier == tier}
    return {
        "hit_tokens": hit,
        "hit_pct": 100 * hit / queried if queried else 0.0,
        "capacity_tokens": sum(store.capacity for store in stores.values()),
        "used_tokens": sum(store.used_tokens for store in stores.values()),
        "evicted_chunks": sum(store.evictions for store in stores.values()),
        **_moved(traffic, tier),
    }


def _hit_tokens(side: TierSide, tier: str) -> int:
    return sum(hit for store, hit in zip(side.tiers.stores, side.tiers.hit_tokens, strict=True) if store.tier == tier)


def _moved(traffic: KvTraffic, tier: str) -> dict[str, Any]:
    accesses = [traffic.accesses(side.instance.index) for side in traffic.sides]
    return {
        f"{kind}s": _accesses([found[tier, kind] for found in accesses if (tier, kind) in found])
        for kind in ("read", "write")
    }


def _accesses(accesses: list[TierAccess]) -> dict[str, Any]:
    times = [time for access in accesses for time in access.times_ns]
    return {
        "count": len(times),
        "tokens": sum(access.tokens for access in accesses),
        "bytes": sum(access.num_bytes for access in accesses),
        "time_ms": describe(time / NS_PER_MS for time in times),
    }
