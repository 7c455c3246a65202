"""KV caches that crossed between instances, summed up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmservingsim.report.statistics import describe
from llmservingsim.transfer import KvTransfers, TransferRecord
from llmservingsim.units import NS_PER_MS


def stall_ms(record: TransferRecord) -> float:
    """How long a computed prompt waited until the first byte of it left."""
    return max(0, record.start_ns - record.handed_ns) / NS_PER_MS


def exposed_ms(record: TransferRecord) -> float:
    """How long a computed prompt waited until the last byte of it had arrived."""
    return max(0, record.end_ns - record.handed_ns) / NS_PER_MS


def summarise_transfers(transfers: KvTransfers | None) -> dict[str, Any] | None:
    """Return what crossed, how long it took, and how much of it prefill hid; None if nothing crossed."""
    if transfers is None or not transfers.records:
        return None
    records = transfers.records
    num_bytes = sum(r.num_bytes for r in records)
    hidden_bytes = sum(r.hidden_bytes for r in records)
    return {
        "count": len(records),
        "tokens": sum(r.num_tokens for r in records),
        "bytes": num_bytes,
        "hidden_bytes": hidden_bytes,
        "hidden_pct": 100 * hidden_bytes / num_bytes,
        "wasted_bytes": transfers.wasted_bytes,
        "time_ms": describe((r.end_ns - r.start_ns) / NS_PER_MS for r in records),
        "stall_ms": describe(map(stall_ms, records)),
        "exposed_ms": describe(map(exposed_ms, records)),
        "pairs": _pairs(records),
    }


def _pairs(records: Sequence[TransferRecord]) -> dict[str, dict[str, Any]]:
    """The same of each pair of instances, in the order in which they first met."""
    found: dict[str, list[TransferRecord]] = {}
    for record in records:
        found.setdefault(f"instance:{record.source}->instance:{record.target}", []).append(record)
    return {
        pair: {
            "count": len(of_pair),
            "bytes": sum(r.num_bytes for r in of_pair),
            "hidden_bytes": sum(r.hidden_bytes for r in of_pair),
            "stall_ms": describe(map(stall_ms, of_pair)),
            "exposed_ms": describe(map(exposed_ms, of_pair)),
        }
        for pair, of_pair in found.items()
    }
