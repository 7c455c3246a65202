"""The run in one dictionary: what summary.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import msgspec
import numpy as np

from llmservingsim.instance import Instance
from llmservingsim.kv_traffic import KvTraffic
from llmservingsim.report.breakdown import Measured, summarise_all, summarise_instance, summarise_models
from llmservingsim.report.recorder import Recorder
from llmservingsim.report.records import RequestRecord
from llmservingsim.report.speculation import summarise_drafter, summarise_speculation
from llmservingsim.report.tiers import prefix_tiers
from llmservingsim.report.transfers import summarise_transfers
from llmservingsim.transfer import KvTransfers
from llmservingsim.units import NS_PER_S

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
    measured: Measured,
    instances: Sequence[Instance],
    moved: Moved,
    provenance: Provenance,
    wall_s: float,
) -> dict[str, Any]:
    """Return totals, latencies in ms, throughputs, cache hits, traffic and provenance.

    Everything but ``wall_s`` is a function of the inputs.
    """
    recorder = measured.recorder
    simulated_s = recorder.end_ns / NS_PER_S
    return {
        "simulated_s": simulated_s,
        "wall_s": round(wall_s, 3),
        "iterations": sum(i.engine.iterations for i in instances),
        "requests": _requests(recorder),
        **summarise_all(measured),
        "preemptions": sum(r.preemptions for r in recorder.records),
        "prefix_cache": {"npu": _prefix_cache(instances)} | prefix_tiers(moved.traffic),
        "bytes_moved": _bytes_moved(instances),
        "kv_transfers": summarise_transfers(moved.transfers),
        "energy_j": None,
        "goodput": _goodput(measured, simulated_s),
        **summarise_models(measured, instances),
        **summarise_speculation(instances),
        "instances": [_instance(i) | summarise_instance(measured, i) | summarise_drafter(i) for i in instances],
        "provenance": msgspec.structs.asdict(provenance) | {"notes": list(provenance.notes)},
    }


def _requests(recorder: Recorder) -> dict[str, Any]:
    rejections, aborts = (_by_reason(recorder.records, status) for status in ("rejected", "aborted"))
    return {
        "arrived": recorder.num_arrived,
        "finished": sum(record.status == "finished" for record in recorder.records),
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


def _goodput(measured: Measured, simulated_s: float) -> dict[str, Any] | None:
    attainment = measured.attainment
    if attainment is None:
        return None
    everything = np.ones(len(measured.table.records), dtype=bool)
    return {
        "slo": attainment.slos.describe(),
        **attainment.goodput(everything, simulated_s),
        "percentiles": attainment.percentiles(),
    }


def _instance(instance: Instance) -> dict[str, Any]:
    memory = instance.memory
    elsewhere = {"offloading": instance.offloading()} if instance.offloading is not None else {}
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
        **elsewhere,
    }
