"""Writes what other programs measured of a model as a profile bundle, which needs those no more."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.errors import ProfileError
from llmservingsim.latency.bundle import PREFILL_COLUMNS, PREFILLS
from llmservingsim.latency.kernel_database import KernelDatabase
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.model import IndexedBy, OperatorKind, ParallelLayout, model_operators
from llmservingsim.shapes import BatchShape
from llmservingsim.units import NS_PER_US

_MOST_TOKENS = 16384
_MOST_SEQUENCES = 2048
_POWERS = tuple(2**i for i in range(15))

Row = Sequence[object]
Points = tuple[Sequence[float], Sequence[float]]
"""Tokens or sequences, and times in us."""


@dataclass(frozen=True, slots=True)
class MeasuredOperators:
    """What was measured of one rank of a model; chunks of prompts and decodes apart, times in us.

    Attributes:
        model: What is computed.
        layout: How it is cut.
        origin: Where the numbers come from, for ``meta.yaml``.
        points: Of operators over tokens or sequences; what is not there comes from the roofline.
        prefills: Batches of equal prompt chunks: chunks, length, context, time; shape ``[points, 4]``.
        decodes: Sequences, KV length, time; shape ``[points, 3]``.
        experts: Tokens, activated experts, time of whole experts; shape ``[points, 3]``, None for a dense model.
        tiles_per_decode: How `KernelAttention` prices a mixed batch.
    """

    model: ModelSpec
    layout: ParallelLayout
    origin: Mapping[str, object]
    points: Mapping[str, Points]
    prefills: NDArray[np.float64]
    decodes: NDArray[np.float64]
    experts: NDArray[np.float64] | None = None
    tiles_per_decode: float = 0.0


def write_bundle(measured: MeasuredOperators, accelerator: AcceleratorSpec, folder: Path) -> list[Path]:
    """Write a ``tp<N>`` folder; return the files.

    Args:
        measured: Of one rank.
        accelerator: Its catalogue entry, for what was not measured.
        folder: Where to; made if it is not there.

    Raises:
        ProfileError: If it cannot be written.
    """
    dense, per_sequence, computed = _operator_rows(measured, accelerator)
    tables: dict[str, tuple[Row, Iterable[Row]]] = {
        "dense.csv": (("layer", "tokens", "time_us"), dense),
        "per_sequence.csv": (("layer", "sequences", "time_us"), per_sequence),
        "attention.csv": (
            ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
            ((0, 0, int(n), int(kv), round(t, 4)) for n, kv, t in sorted(measured.decodes.tolist())),
        ),
        PREFILLS: (
            PREFILL_COLUMNS,
            ((int(n), int(q), int(c), round(t, 4)) for n, q, c, t in sorted(measured.prefills.tolist())),
        ),
    }
    if measured.experts is not None:
        experts = ((int(n), int(a), round(t, 4)) for n, a, t in measured.experts.tolist())
        tables["moe.csv"] = ("tokens", "activated_experts", "time_us"), experts
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [write_rows(folder / name, header, rows) for name, (header, rows) in tables.items()]
        return [*written, _write_meta(folder / "meta.yaml", measured, computed)]
    except OSError as error:
        raise ProfileError(f"{folder}: cannot be written: {error.strerror or error}") from error


def _operator_rows(measured: MeasuredOperators, accelerator: AcceleratorSpec) -> tuple[list[Row], list[Row], list[str]]:
    """Return the rows over tokens, those over sequences, and the operators that the roofline times."""
    rest = RooflineSource(measured.model, measured.layout, accelerator)
    dense: list[Row] = []
    per_sequence: list[Row] = []
    computed = []
    grid = [int(n) for n in next(iter(measured.points.values()), (_POWERS, ()))[0]]
    for operator in {op.name: op for op in model_operators(measured.model)}.values():
        if operator.kind in (OperatorKind.ATTENTION, OperatorKind.MOE):
            continue
        by_tokens = operator.indexed_by is IndexedBy.TOKENS
        most = _MOST_TOKENS if by_tokens else _MOST_SEQUENCES
        if operator.name in measured.points:
            points = [(n, t) for n, t in zip(*measured.points[operator.name], strict=True) if n <= most]
        else:
            computed.append(operator.name)
            sizes = sorted({1, *(n for n in grid if n <= most)})
            points = [(n, rest.latency_ns(operator.name, _decodes(n)) / NS_PER_US) for n in sizes]
        rows = dense if by_tokens else per_sequence
        rows += [(operator.name, int(size), round(time_us, 4)) for size, time_us in points]
    return dense, per_sequence, computed


def write_collectives(database: KernelDatabase, path: Path) -> Path | None:
    """Write the all-reduces of a system as `network.measured_collectives` reads them; nothing where none is measured.

    Those replayed from a CUDA graph are taken where they were measured so. Over how many devices an engine uses its own
    all-reduce depends on the message; here it is used for all sizes that were measured.
    """
    columns = ("num_gpus", "message_size", "kernel_source")
    try:
        rows = database.read("comm/custom_allreduce_perf", columns)
    except ProfileError:
        return None
    sources = [str(source) for source in rows["kernel_source"]]
    in_graph = np.array([source.endswith("graph") for source in sources])
    kept = in_graph if in_graph.any() else ~in_graph
    found = {
        (int(n), int(size)): time_us
        for n, size, time_us in zip(
            rows["num_gpus"][kept], rows["message_size"][kept], rows["latency"][kept], strict=True
        )
    }
    return write_collective_rows({("all_reduce", *key): time_us for key, time_us in found.items()}, path)


def write_collective_rows(times_us: Mapping[tuple[str, int, int], float], path: Path) -> Path:
    """Write times by (collective, ranks, bytes) as `network.measured_collectives` reads them.

    Raises:
        ProfileError: If it cannot be written.
    """
    rows = ((*key, round(time_us, 4)) for key, time_us in sorted(times_us.items()))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_rows(path, ("collective", "ranks", "size_bytes", "time_us"), rows)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be written: {error.strerror or error}") from error


def _decodes(count: int) -> BatchShape:
    return BatchShape((), count, count, 1, count)


def write_rows(path: Path, header: Row, rows: Iterable[Row]) -> Path:
    """Write a CSV file with a header; return its path."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _write_meta(path: Path, measured: MeasuredOperators, computed: Sequence[str]) -> Path:
    import yaml

    meta = {
        "model": measured.model.name,
        "tensor_parallel_size": measured.layout.tp,
        **measured.origin,
        "tiles_per_decode": measured.tiles_per_decode,
        "from_roofline": list(computed),
    }
    path.write_text(yaml.safe_dump(meta, sort_keys=False), encoding="utf-8")
    return path
