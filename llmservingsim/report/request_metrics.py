"""A row of request_metrics.csv per request: where its time went, and its own inter-token times."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from math import isnan
from typing import Any

import msgspec
import numpy as np

from llmservingsim.report.details import RequestDetail
from llmservingsim.report.records import RequestRecord
from llmservingsim.report.request_table import RequestTable
from llmservingsim.report.slo import Attainment
from llmservingsim.report.token_gaps import Floats

_TIERS = ("cpu", "cxl", "storage")
_NS_IN_MS_DIGITS = 6


class RequestMetrics(msgspec.Struct, frozen=True, gc=False):
    """What is measured of one request. Phases and latencies in milliseconds, None where they do not apply.

    Attributes:
        status: As in `RequestRecord`.
        path: Instances that had it, in order, as ``0>1``; empty if none had.
        queueing_ms, prefill_ms, transfer_stall_ms, transfer_ms, decode_ms: Phases, one behind the other; of a finished
            request they add up to ``e2e_ms``.
        itl_mean_ms, itl_p50_ms, itl_p90_ms, itl_p99_ms, itl_max_ms: Over its own inter-token times.
        cached_npu_tokens, cached_cpu_tokens, cached_cxl_tokens, cached_storage_tokens: Prompt tokens found at first
            admission, by tier.
        recomputed_tokens, swapped_tokens: Of those that preemptions took, computed again, and read back.
        drafts_accepted: Drafts that the model accepted.
        energy_j: Its share of what was drawn while batches were computed; None where energy is not counted.
        slo: Per stated limit, and for all of them, whether it was kept; without those that do not hold for it.
    """

    request_id: int
    status: str
    path: str
    queueing_ms: float | None
    prefill_ms: float | None
    transfer_stall_ms: float | None
    transfer_ms: float | None
    decode_ms: float | None
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float | None
    itl_mean_ms: float | None
    itl_p50_ms: float | None
    itl_p90_ms: float | None
    itl_p99_ms: float | None
    itl_max_ms: float | None
    cached_npu_tokens: int
    cached_cpu_tokens: int
    cached_cxl_tokens: int
    cached_storage_tokens: int
    preemptions: int
    recomputed_tokens: int
    swapped_tokens: int
    drafts_accepted: int
    energy_j: float | None = None
    slo: dict[str, bool] | None = None


METRIC_COLUMNS = RequestMetrics.__struct_fields__[:-2]
"""Those of every run: no energy, and no stated limits."""


class RequestDetails:
    """Works out the rows when somebody asks.

    Args:
        table: The requests.
        attainment: Of the stated limits, if there are any.
        energy_j: Of each, if energy is counted.
    """

    def __init__(
        self, table: RequestTable, attainment: Attainment | None = None, energy_j: Floats | None = None
    ) -> None:
        self._table = table
        self._attainment = attainment
        self._energy_j = energy_j

    @cached_property
    def columns(self) -> dict[str, list[Any]]:
        """The columns of request_metrics.csv, by request id."""
        table = self._table
        records, details = table.records, table.details
        order = sorted(range(len(records)), key=lambda row: records[row].request_id)
        itl = {f"itl_{key}_ms": values for key, values in table.itl_ms._asdict().items()}
        measured = {key: _cells((itl[key] if key in itl else getattr(table, key))[order]) for key in _measured()}
        rows = [_counted(records[row], details[row]) for row in order]
        counted = dict(zip(_COUNTED, map(list, zip(*rows, strict=True)), strict=True)) if rows else {}
        found = {key: counted.get(key, measured.get(key, [])) for key in METRIC_COLUMNS}
        if self._energy_j is not None:
            found["energy_j"] = _cells(self._energy_j[order])
        return found | dict(self._attainment.columns(order) if self._attainment is not None else {})

    def rows(self) -> list[RequestMetrics]:
        """Return the same as records."""
        columns = self.columns
        known = [key for key in (*METRIC_COLUMNS, "energy_j") if key in columns]
        limits = [key for key in columns if key not in known]
        rows = [dict(zip(known, row, strict=True)) for row in zip(*(columns[key] for key in known), strict=True)]
        if not limits:
            return [RequestMetrics(**row) for row in rows]
        kept = zip(*(columns[key] for key in limits), strict=True)
        return [RequestMetrics(**row, slo=_stated(limits, of)) for row, of in zip(rows, kept, strict=True)]


_COUNTED = ("request_id", "status", "path", *METRIC_COLUMNS[METRIC_COLUMNS.index("cached_npu_tokens") :])


def _measured() -> Sequence[str]:
    return [key for key in METRIC_COLUMNS if key not in _COUNTED]


def _counted(record: RequestRecord, detail: RequestDetail) -> tuple[Any, ...]:
    """Return the columns that are no times."""
    lower = [0] * len(_TIERS)
    if detail.recalled and record.scheduled_ns is not None:
        lower = [sum(tokens for tier, tokens in detail.recalled if tier == name) for name in _TIERS]
    split = record.decode_instance
    path = "" if not detail.is_routed else f"{record.instance}" if split is None else f"{record.instance}>{split}"
    return (
        record.request_id,
        record.status,
        path,
        record.cached_tokens - sum(lower),
        *lower,
        record.preemptions,
        detail.recomputed_tokens,
        detail.swapped_tokens,
        detail.accepted_drafts,
    )


def _cells(values: Floats) -> list[float | None]:
    """Round to nanoseconds; what does not apply is None."""
    return [None if isnan(value) else value for value in np.round(values, _NS_IN_MS_DIGITS).tolist()]


def _stated(limits: Sequence[str], kept: Sequence[bool | None]) -> dict[str, bool]:
    return {key.removeprefix("slo_"): value for key, value in zip(limits, kept, strict=True) if value is not None}
