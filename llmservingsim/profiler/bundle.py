"""From the journal to the files of a bundle, in the layout that `llmservingsim.latency.bundle` reads.

All files of a ``tp<N>`` folder are written beside it and put in place one by one by renaming, so that none is ever half
there. ``host.csv`` holds what a whole step takes beyond its operators: those of the same step where the engine times
them in turn with it, because a machine that others share drifts from shot to shot; else as the bundle would time them.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmservingsim.errors import ProfileError
from llmservingsim.latency.bundle import PREFILL_COLUMNS, PREFILLS, BundleSource
from llmservingsim.profiler.journal import Entry, Journal
from llmservingsim.profiler.passes import step_names
from llmservingsim.profiler.session import Job
from llmservingsim.profiler.shots import Table
from llmservingsim.shapes import BatchShape
from llmservingsim.units import NS_PER_US

HOST = "host.csv"
HOST_COLUMNS = ("sequences", "time_us")
SEVERAL_PREFILLS = "several_prefills.csv"
"""Equal chunks where mixed batches were measured: not read, but to judge what the reader's model makes of them."""

_ATTENTION = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
_SKEW = (
    *("regime", "n", "nb", "ratio", "skew", "pc", "kp", "kvs", "kv_big", "kv_mean"),
    *("t_mean_us", "t_max_us", "t_skew_us", "alpha"),
)
_NEEDED = (Table.DENSE, Table.PER_SEQUENCE, Table.DECODE)

Rows = Iterable[Sequence[object]]


def write_bundle(journal: Journal, job: Job, meta: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the files of a ``tp<N>`` folder; return them.

    Args:
        journal: What was measured.
        job: Of what.
        meta: Provenance, for ``meta.yaml``.
        folder: Where to; made if it is not there.

    Raises:
        ProfileError: Too little was measured for a bundle.
    """
    of_chunks = journal.of(Table.PREFILL)
    lacking = [str(table) for table in _NEEDED if not journal.of(table)] + ["prefill"] * (not of_chunks)
    if lacking:
        raise ProfileError(f"{journal.path}: holds no {', '.join(lacking)} yet; run the same command again to go on")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".new-") as new:
        files = _write_tables(journal, Path(new))
        steps = journal.of(Table.STEP)
        if steps:
            gaps = host_gaps(steps, job, Path(new))
            files.append(_write(Path(new) / HOST, HOST_COLUMNS, gaps))
        files.append(_write_meta(Path(new) / "meta.yaml", journal, job, meta))
        return [path.replace(folder / path.name) for path in files]


def host_gaps(steps: Sequence[Entry], job: Job, folder: Path) -> list[tuple[int, float]]:
    """Return (sequences, microseconds) of what steps took beyond their operators, at least 0.

    Args:
        steps: Whole steps of decodes.
        job: Of which model.
        folder: With the tables.
    """
    source = BundleSource(folder)
    names = step_names(job.model)
    gaps = []
    for entry in steps:
        count, kv = entry.shot.at
        shape = BatchShape((), count, count * kv, kv, count)
        if "operators" in entry.operators:
            operators_us = entry.us("operators")
        else:
            operators_us = sum(source.latency_ns(name, shape) for name in names) / NS_PER_US
        gaps.append((count, round(max(0.0, entry.us("step") - operators_us), 3)))
    return gaps


def _write_tables(journal: Journal, folder: Path) -> list[Path]:
    decodes = [(0, 0, *entry.shot.at, _us(entry)) for entry in journal.of(Table.DECODE)]
    mixed = [(*entry.shot.at, _us(entry)) for entry in journal.of(Table.MIXED)]
    files = [
        _write(folder / "dense.csv", ("layer", "tokens", "time_us"), _lines(journal.of(Table.DENSE))),
        _write(folder / "per_sequence.csv", ("layer", "sequences", "time_us"), _lines(journal.of(Table.PER_SEQUENCE))),
        _write(folder / "attention.csv", _ATTENTION, [*decodes, *mixed]),
    ]
    prefills = ((*entry.shot.at, _us(entry)) for entry in journal.of(Table.PREFILL))
    files.append(_write(folder / (SEVERAL_PREFILLS if mixed else PREFILLS), PREFILL_COLUMNS, prefills))
    if experts := journal.of(Table.MOE):
        rows = sorted((entry.shot.at[1], entry.shot.at[0], _us(entry, "moe")) for entry in experts)
        files.append(_write(folder / "moe.csv", ("tokens", "activated_experts", "time_us"), rows))
    if uneven := journal.of(Table.SKEW):
        files.append(_write(folder / "skew.csv", _SKEW, map(_skew_row, uneven)))
    return files


def _lines(entries: Sequence[Entry]) -> list[tuple[object, ...]]:
    """Layer, size and time, layer by layer."""
    names = list(dict.fromkeys(name for entry in entries for name in entry.operators))
    return [(name, entry.shot.at[0], _us(entry, name)) for name in names for entry in entries]


def _us(entry: Entry, operator: str = "attention") -> float:
    """A time that is never zero, which no reader would take."""
    return max(0.001, round(entry.us(operator), 3))


def _skew_row(entry: Entry) -> tuple[object, ...]:
    count, long_count, long_kv, kv = entry.shot.at
    mean_kv = (long_count * long_kv + (count - long_count) * kv) / count
    mean, most, skewed = (_us(entry, name) for name in ("mean", "max", "skew"))
    alpha = (skewed - mean) / (most - mean) if most > mean else 0.0
    shape = (count, long_count, long_count / count, long_kv / kv, 0, 0, kv, long_kv, mean_kv)
    return ("pure", *shape, mean, most, skewed, round(alpha, 4))


def _write(path: Path, header: Sequence[str], rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _write_meta(path: Path, journal: Journal, job: Job, meta: Mapping[str, Any]) -> Path:
    import yaml

    steps = journal.of(Table.STEP)
    power = [entry.power_w for entry in journal if entry.power_w is not None]
    told: dict[str, Any] = {
        "model": job.model.name,
        "tensor_parallel_size": job.layout.tp,
        "source": "llmservingsim profile run",
        **dict(meta),
        "tiles_per_decode": 0,
        "shots": len(journal.entries),
        "measuring_s": round(journal.seconds, 1),
        "median_noise_pct": round(100 * _median_noise(journal), 2),
        "steps_us": [{"sequences": e.shot.at[0], "kv": e.shot.at[1], **_medians(e)} for e in steps],
        "power_w": {"mean": round(sum(power) / len(power), 1), "highest": max(power)} if power else "not read",
    }
    path.write_text(yaml.safe_dump(told, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def _medians(entry: Entry) -> dict[str, float]:
    return {name: round(samples.median, 1) for name, samples in entry.operators.items()}


def _median_noise(journal: Journal) -> float:
    noises = sorted(samples.noise for entry in journal for samples in entry.operators.values())
    return noises[len(noises) // 2]
