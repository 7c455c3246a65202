"""Writes what a database of measured kernels says of a model as a profile bundle, which needs the database no more."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmservingsim.config.catalog import AcceleratorSpec
from llmservingsim.errors import ProfileError
from llmservingsim.latency.bundle import PREFILL_COLUMNS, PREFILLS
from llmservingsim.latency.kernel_database import KernelDatabase
from llmservingsim.latency.measured_kernels import MeasuredKernels
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.model import IndexedBy, OperatorKind, model_operators
from llmservingsim.shapes import BatchShape
from llmservingsim.units import NS_PER_US

_MOST_TOKENS = 16384
_MOST_SEQUENCES = 2048

Row = Sequence[object]


def write_bundle(kernels: MeasuredKernels, accelerator: AcceleratorSpec, folder: Path) -> list[Path]:
    """Write a ``tp<N>`` folder; return the files.

    Args:
        kernels: Of one rank.
        accelerator: Its catalogue entry, for what the database lacks.
        folder: Where to; made if it is not there.

    Raises:
        ProfileError: If it cannot be written.
    """
    model = kernels.model
    if len(kernels.attention) > 1:
        raise ProfileError(f"{model.name}: blocks differ in their attention, and a bundle holds one kind of it")
    attention = kernels.attention["attention"]
    rest = RooflineSource(model, kernels.layout, accelerator)
    dense: list[Row] = []
    per_sequence: list[Row] = []
    computed = []
    for operator in {op.name: op for op in model_operators(model)}.values():
        if operator.kind in (OperatorKind.ATTENTION, OperatorKind.MOE):
            continue
        by_tokens = operator.indexed_by is IndexedBy.TOKENS
        most = _MOST_TOKENS if by_tokens else _MOST_SEQUENCES
        if operator.name in kernels.products:
            points = [(n, t) for n, t in zip(*kernels.products[operator.name], strict=True) if n <= most]
        else:
            computed.append(operator.name)
            sizes = sorted({1, *(int(n) for n in next(iter(kernels.products.values()))[0] if n <= most)})
            points = [(n, rest.latency_ns(operator.name, _decodes(n)) / NS_PER_US) for n in sizes]
        rows = dense if by_tokens else per_sequence
        rows += [(operator.name, int(size), round(time_us, 4)) for size, time_us in points]
    tables: dict[str, tuple[Row, Iterable[Row]]] = {
        "dense.csv": (("layer", "tokens", "time_us"), dense),
        "per_sequence.csv": (("layer", "sequences", "time_us"), per_sequence),
        "attention.csv": (
            ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"),
            ((0, 0, int(n), int(kv), round(t, 4)) for n, kv, t in sorted(attention.decodes.tolist())),
        ),
        PREFILLS: (
            PREFILL_COLUMNS,
            ((int(n), int(q), int(c), round(t, 4)) for n, q, c, t in sorted(attention.prefills.tolist())),
        ),
    }
    if len(kernels.experts):
        experts = ((int(n), int(a), round(t, 4)) for n, a, t in kernels.experts.tolist())
        tables["moe.csv"] = ("tokens", "activated_experts", "time_us"), experts
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [_write(folder / name, header, rows) for name, (header, rows) in tables.items()]
        return [*written, _write_meta(folder / "meta.yaml", kernels, computed)]
    except OSError as error:
        raise ProfileError(f"{folder}: cannot be written: {error.strerror or error}") from error


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
    table = (("all_reduce", n, size, round(time_us, 4)) for (n, size), time_us in sorted(found.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write(path, ("collective", "ranks", "size_bytes", "time_us"), table)


def _decodes(count: int) -> BatchShape:
    return BatchShape((), count, count, 1, count)


def _write(path: Path, header: Row, rows: Iterable[Row]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
    return path


def _write_meta(path: Path, kernels: MeasuredKernels, computed: Sequence[str]) -> Path:
    import yaml

    database = kernels.database
    meta: dict[str, Any] = {
        "model": kernels.model.name,
        "tensor_parallel_size": kernels.layout.tp,
        "source": "measured kernels of aiconfigurator-core 0.12 (NVIDIA CORPORATION & AFFILIATES, Apache-2.0)",
        "system": database.system,
        "engine": database.engine,
        "tables": dict(sorted(database.used.items())),
        "attention_kernel": kernels.attention_kernel,
        "tiles_per_decode": kernels.tiles_per_decode(),
        "from_roofline": list(computed),
    }
    path.write_text(yaml.safe_dump(meta, sort_keys=False), encoding="utf-8")
    return path
