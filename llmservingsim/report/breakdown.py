"""The figures of the whole run, once more per instance and per model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmservingsim.instance import Instance
from llmservingsim.report.recorder import Recorder
from llmservingsim.report.request_table import RequestTable
from llmservingsim.report.slo import Attainment
from llmservingsim.report.statistics import describe, describe_counts, merge_counts
from llmservingsim.report.token_gaps import Floats
from llmservingsim.units import NS_PER_MS, NS_PER_S

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """What a run's figures are computed from."""

    recorder: Recorder
    table: RequestTable
    attainment: Attainment | None

    @cached_property
    def latency_ms(self) -> dict[str, Any]:
        """Of all requests."""
        everything = np.ones(len(self.table.records), dtype=bool)
        return _latencies(self.table, everything, everything, self.recorder.token_gaps_ns)


def summarise_instance(measured: Measured, instance: Instance) -> dict[str, Any]:
    """Return what an instance did: requests count where they ended, prompts where they were computed."""
    table, index = measured.table, instance.index
    begun, ended = table.instance == index, table.last_instance == index
    requests = {"handed_on": int((begun & ~ended).sum()), **_requests(table, ended)}
    gaps_ns = measured.recorder.gaps_ns
    is_alone = len(gaps_ns) == 1
    return {
        "requests": requests,
        "tokens": _tokens(table, begun, ended),
        "latency_ms": dict(measured.latency_ms) if is_alone else _latencies(table, begun, ended, gaps_ns[index]),
        "preemptions": measured.recorder.preemptions[index],
        "prefix_cache": _prefix_cache(instance),
        **_usage(instance, sum(gaps_ns[index].values()), measured.recorder.end_ns),
        "goodput": _goodput(measured, begun | ended),
    }


def summarise_models(measured: Measured, instances: Sequence[Instance]) -> dict[str, Any]:
    """Return the section ``models``; nothing with one model."""
    names = list(dict.fromkeys(instance.model for instance in instances))
    if len(names) < 2:
        return {}
    return {"models": [_model(measured, name, [i for i in instances if i.model == name]) for name in names]}


def summarise_all(measured: Measured) -> dict[str, Any]:
    """Return tokens, throughput and latencies of the run."""
    everything = np.ones(len(measured.table.records), dtype=bool)
    return _totals(measured, everything) | {"latency_ms": measured.latency_ms}


def _model(measured: Measured, name: str, instances: Sequence[Instance]) -> dict[str, Any]:
    table, recorder = measured.table, measured.recorder
    indices = [instance.index for instance in instances]
    of = np.isin(table.instance, indices)
    return {
        "model": name,
        "instances": indices,
        "requests": _requests(table, of),
        **_totals(measured, of),
        "latency_ms": _latencies(table, of, of, merge_counts([recorder.gaps_ns[index] for index in indices])),
        "preemptions": sum(recorder.preemptions[index] for index in indices),
        "goodput": _goodput(measured, of),
    }


def _totals(measured: Measured, of: Bools) -> dict[str, Any]:
    table = measured.table
    tokens = _tokens(table, of, of)
    seconds = measured.recorder.end_ns / NS_PER_S or 1.0
    return {
        "tokens": tokens,
        "throughput": {
            "requests_per_s": int((of & table.is_finished).sum()) / seconds,
            "prompt_tokens_per_s": tokens["prompt"] / seconds,
            "output_tokens_per_s": tokens["output"] / seconds,
        },
    }


def _requests(table: RequestTable, of: Bools) -> dict[str, int]:
    statuses = [table.records[row].status for row in np.flatnonzero(of & ~table.is_finished).tolist()]
    return {
        "finished": int((of & table.is_finished).sum()),
        "aborted": statuses.count("aborted"),
        "rejected": statuses.count("rejected"),
    }


def _tokens(table: RequestTable, begun: Bools, ended: Bools) -> dict[str, int]:
    """Of finished requests: prompts where they were computed, answers where they ended."""
    begun, ended = begun & table.is_finished, ended & table.is_finished
    return {
        "prompt": int(table.prompt_tokens[begun].sum()),
        "cached": int(table.cached_tokens[begun].sum()),
        "output": int(table.output_tokens[ended].sum()),
    }


def _latencies(table: RequestTable, begun: Bools, ended: Bools, gaps_ns: dict[int, int]) -> dict[str, Any]:
    """Of finished requests, and of all messages."""
    begun, ended = begun & table.is_finished, ended & table.is_finished
    return {
        "ttft": _described(table.ttft_ms[begun]),
        "tpot": _described(table.tpot_ms[ended]),
        "itl": describe_counts(gaps_ns, 1 / NS_PER_MS),
        "e2e": _described(table.e2e_ms[ended]),
        "queueing": _described(table.queueing_ms[begun]),
    }


def _described(values: Floats) -> dict[str, float] | None:
    return describe(values[~np.isnan(values)])


def _prefix_cache(instance: Instance) -> dict[str, Any]:
    """What was looked up, and found on the device and in each tier below it."""
    kv = instance.engine.kv
    hits = {"npu": kv.hit_tokens}
    if kv.tiers is not None:
        for store, tokens in zip(kv.tiers.stores, kv.tiers.hit_tokens, strict=True):
            hits[store.tier] = hits.get(store.tier, 0) + tokens
    return {"queried_tokens": kv.queried_tokens, "hit_tokens": hits}


def _usage(instance: Instance, num_gaps: int, end_ns: int) -> dict[str, Any]:
    """How busy an instance was, with what batches, and how full its KV cache."""
    log, pool = instance.engine.log, instance.engine.kv.pool
    ended = np.array(log.ended_ns, dtype=np.int64)
    num_ended = len(ended)
    sequences = num_gaps + log.num_first + log.num_unsampled
    since = np.concatenate([[0], ended])[:num_ended]  # the batch before had ended, unless none was in flight
    begun = np.array(log.begun, dtype=np.int64)
    since[begun[begun < num_ended]] = np.array(log.begun_ns, dtype=np.int64)[begun < num_ended]
    spent = ended - since
    held = (pool.num_usable - np.array(log.free_blocks, dtype=np.int64)) / pool.num_usable
    until = np.cumsum(spent)[np.array(log.looked, dtype=np.int64)]
    return {
        "busy_pct": 100 * int(spent.sum()) / end_ns if end_ns else 0.0,
        "batch": {
            "mean_sequences": sequences / num_ended if num_ended else 0.0,
            "mean_tokens": (sequences + log.extra_tokens) / num_ended if num_ended else 0.0,
        },
        "kv_usage": {
            "mean_pct": 100 * float((held * np.diff(until, prepend=0)).sum()) / end_ns if end_ns else 0.0,
            "max_pct": 100 * float(held.max()) if num_ended else 0.0,
        },
    }


def _goodput(measured: Measured, of: Bools) -> dict[str, Any] | None:
    if measured.attainment is None:
        return None
    return measured.attainment.goodput(of, measured.recorder.end_ns / NS_PER_S)
