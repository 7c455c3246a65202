"""The run in one dictionary: what summary.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import msgspec

from llmservingsim.config import SloSpec
from llmservingsim.instance import Instance
from llmservingsim.kv_traffic import KvTraffic
from llmservingsim.report.recorder import Recorder
from llmservingsim.report.records import RequestRecord
from llmservingsim.report.speculation import summarise_drafter, summarise_speculation
from llmservingsim.report.statistics import describe, describe_counts
from llmservingsim.report.tiers import prefix_tiers
from llmservingsim.report.transfers import summarise_transfers
from llmservingsim.transfer import KvTransfers
from llmservingsim.units import NS_PER_MS, NS_PER_S, parse_time_ns

_SHOWN = 10


class Provenance(msgspec.Struct, frozen=True):
    """Where a result comes from.

    Attributes:
        version: Of the simulator.
        seed: Of everything random.
        config_hash: sha256 of the run's complete specification.
        workload: What was served.
        notes: What the inputs say and the run does not use.
    """

    version: str
    seed: int
    config_hash: str
    workload: str
    notes: tuple[str, ...] = ()


class Moved(NamedTuple):
    """KV that went beyond the device that computed it.

    Attributes:
        transfers: Between instances, if any hands on.
        traffic: To and from lower tiers, if there are any.
    """

    transfers: KvTransfers | None = None
    traffic: KvTraffic | None = None


def summarise(
    recorder: Recorder,
    instances: Sequence[Instance],
    moved: Moved,
    slo: SloSpec | None,
    provenance: Provenance,
    wall_s: float,
) -> dict[str, Any]:
    """Return totals, latencies in ms, throughputs, cache hits, traffic and provenance.

    Everything but ``wall_s`` is a function of the inputs.
    """
    finished = [r for r in recorder.records if r.status == "finished"]
    simulated_s = recorder.end_ns / NS_PER_S
    return {
        "simulated_s": simulated_s,
        "wall_s": round(wall_s, 3),
        "iterations": sum(i.engine.iterations for i in instances),
        "requests": _requests(recorder, finished),
        "tokens": {
            "prompt": sum(r.prompt_tokens for r in finished),
            "cached": sum(r.cached_tokens for r in finished),
            "output": sum(r.output_tokens for r in finished),
        },
        "throughput": _throughput(finished, simulated_s),
        "latency_ms": {
            "ttft": describe(r.ttft_ms for r in finished if r.ttft_ms is not None),
            "tpot": describe(r.tpot_ms for r in finished if r.tpot_ms is not None),
            "itl": describe_counts(recorder.token_gaps_ns, 1 / NS_PER_MS),
            "e2e": describe(r.e2e_ms for r in finished if r.e2e_ms is not None),
            "queueing": describe(
                (r.scheduled_ns - r.arrival_ns) / NS_PER_MS for r in finished if r.scheduled_ns is not None
            ),
        },
        "preemptions": sum(r.preemptions for r in recorder.records),
        "prefix_cache": {"npu": _prefix_cache(instances)} | prefix_tiers(moved.traffic),
        "bytes_moved": _bytes_moved(instances),
        "kv_transfers": summarise_transfers(moved.transfers),
        "energy_j": None,
        "goodput": _goodput(finished, slo, simulated_s),
        **summarise_speculation(instances),
        "instances": [_instance(i) | summarise_drafter(i) for i in instances],
        "provenance": msgspec.structs.asdict(provenance) | {"notes": list(provenance.notes)},
    }


def _requests(recorder: Recorder, finished: Sequence[RequestRecord]) -> dict[str, Any]:
    rejections, aborts = (_by_reason(recorder.records, status) for status in ("rejected", "aborted"))
    return {
        "arrived": recorder.num_arrived,
        "finished": len(finished),
        "held": recorder.num_open,
        "rejected": sum(entry["count"] for entry in rejections),
        "rejections": rejections,
        "aborted": sum(entry["count"] for entry in aborts),
        "aborts": aborts,
    }


def _by_reason(records: Sequence[RequestRecord], status: str) -> list[dict[str, Any]]:
    """Count the requests of a status by their reason, and name the first of each."""
    found: dict[str, list[int]] = {}
    for record in records:
        if record.status == status:
            found.setdefault(record.reason or "", []).append(record.request_id)
    return [{"reason": reason, "count": len(ids), "request_ids": ids[:_SHOWN]} for reason, ids in found.items()]


def _throughput(finished: Sequence[RequestRecord], simulated_s: float) -> dict[str, float]:
    seconds = simulated_s or 1.0
    return {
        "requests_per_s": len(finished) / seconds,
        "prompt_tokens_per_s": sum(r.prompt_tokens for r in finished) / seconds,
        "output_tokens_per_s": sum(r.output_tokens for r in finished) / seconds,
    }


def _prefix_cache(instances: Sequence[Instance]) -> dict[str, float]:
    queried = sum(i.engine.kv.queried_tokens for i in instances)
    hit = sum(i.engine.kv.hit_tokens for i in instances)
    return {"queried_tokens": queried, "hit_tokens": hit, "hit_pct": 100 * hit / queried if queried else 0.0}


def _bytes_moved(instances: Sequence[Instance]) -> dict[str, Any]:
    """Collective messages, and what a ring all-reduce of them puts on each rank's link: 2 (n - 1) / n."""
    links = {}
    for instance in instances:
        ranks = len(instance.ranks)
        links[f"instance:{instance.index}"] = {
            "collective_bytes": instance.collective_bytes,
            "sent_per_rank_bytes": round(instance.collective_bytes * 2 * (ranks - 1) / ranks),
        }
    return {"links": links}


def _goodput(finished: Sequence[RequestRecord], slo: SloSpec | None, simulated_s: float) -> dict[str, Any] | None:
    if slo is None:
        return None
    limits = {key: getattr(slo, key) for key in slo.__struct_fields__ if getattr(slo, key) is not None}
    limits_ms = {key: parse_time_ns(text) / NS_PER_MS for key, text in limits.items()}
    good = sum(
        all((value := getattr(record, f"{key}_ms")) is None or value <= limit for key, limit in limits_ms.items())
        for record in finished
    )
    return {
        "slo": limits,
        "good_requests": good,
        "attainment_pct": 100 * good / len(finished) if finished else 0.0,
        "requests_per_s": good / (simulated_s or 1.0),
    }


def _instance(instance: Instance) -> dict[str, Any]:
    memory = instance.memory
    return {
        "index": instance.index,
        "node": instance.node,
        "model": instance.model,
        "ranks": list(instance.ranks),
        "iterations": instance.engine.iterations,
        "kv_cache": {
            "num_gpu_blocks": memory.num_blocks,
            "block_bytes": memory.block_bytes,
            "predicted": asdict(memory.capacity) if memory.capacity is not None else None,
        },
        "latency": instance.builder.source.provenance(),
    }
