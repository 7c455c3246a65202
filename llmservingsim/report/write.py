"""Results on disk: requests.csv, request_metrics.csv, timeseries.csv, summary.json, kv_transfers.csv."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from llmservingsim.report.records import REQUEST_COLUMNS, SAMPLE_COLUMNS, RequestRecord, Sample
from llmservingsim.transfer import TransferRecord


def write_results(
    directory: Path, records: Sequence[RequestRecord], samples: Sequence[Sample], summary: Mapping[str, Any]
) -> list[Path]:
    """Write the three files into ``directory``, creating it; return their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    requests, series, total = (directory / name for name in ("requests.csv", "timeseries.csv", "summary.json"))
    _write_csv(requests, REQUEST_COLUMNS, records)
    _write_csv(series, SAMPLE_COLUMNS, samples)
    total.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    return [requests, series, total]


def write_metrics(directory: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write request_metrics.csv, a row per request; return its path."""
    path = directory / "request_metrics.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*map(_as_told, columns.values()), strict=True))
    return path


def _as_told(cells: Sequence[Any]) -> Sequence[Any]:
    """Write booleans as ``true`` and ``false``."""
    if not any(isinstance(cell, bool) for cell in cells):
        return cells
    return ["" if cell is None else str(cell).lower() for cell in cells]


def write_transfers(directory: Path, transfers: Sequence[TransferRecord]) -> Path:
    """Write kv_transfers.csv, a row per KV cache that crossed; return its path."""
    path = directory / "kv_transfers.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(TransferRecord._fields)
        writer.writerows(transfers)
    return path


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[RequestRecord | Sample]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        count = len(columns)
        writer.writerows(msgspec.structs.astuple(row)[:count] for row in rows)
