"""Files of older profile bundles: ``layers.csv`` and ``attention.csv``.

``attention.csv`` comes in two forms. In the GPU form (times in ms, columns ``time_stats.*``) the profiler shares
``kv_cache_size`` out over the batch: ``n`` decodes read ``kv_cache_size // n`` keys each. Rows in which nothing is left
for a decode show it: they take the 2-3 us of an empty kernel, and the step to a real one lies at ``kv_cache_size = n``
for every ``n``. A prompt chunk's ``kv_cache_size`` counts the keys that its last token sees, the chunk included. In the
TPU form (``mean_ns``) ``kv_cache_size`` is what each decode reads, or what stands before the chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from llmservingsim.csv_rows import csv_lines
from llmservingsim.errors import ProfileError, cut
from llmservingsim.units import NS_PER_MS

_LAYERS = ("layer_name", "input", "kv_cache", "tp_size", "latency(ns)")
_PLACE = ("batch_size", "prefill_chunk_size", "kv_cache_size", "is_prefill")
_GPU_TIMES = ("time_stats.attn_prefill.mean", "time_stats.attn_decode.mean")
_TPU_TIME = "mean_ns"
_LARGEST = 1e15
"""More than any size, and than any time in ns."""

Layers = dict[str, dict[int, float]]
"""Time in ns by layer and tokens."""

Points = dict[int, dict[int, float]]
"""Time in ns by (chunk, context) or by (decodes, keys of each)."""


class AttentionRows(NamedTuple):
    """Measured attention: prompt chunks by (chunk, context) and decode batches by (decodes, keys of each), in ns."""

    form: Literal["gpu", "tpu"]
    prefill: Points
    decode: Points


def read_layers(path: Path) -> Layers:
    """Return the time in ns of every layer by tokens.

    Raises:
        ProfileError: If the file is missing, empty or holds a wrong line.
    """
    layers: Layers = {}
    for line, (name, *cells) in _rows(path, _LAYERS):
        tokens, *_, time_ns = _numbers(path, line, cells, _LAYERS[1:])
        if layers.setdefault(name, {}).setdefault(int(tokens), time_ns) != time_ns:
            raise ProfileError(f"{path}:{line}: a second time of {name} for {tokens:g} tokens; expected one")
    if not layers:
        raise ProfileError(f"{path}: holds no measured layer, expected rows of {','.join(_LAYERS)}")
    return layers


def read_attention(path: Path) -> AttentionRows:
    """Return the measured attention; where a shape was measured several times, the mean.

    Raises:
        ProfileError: If the file is missing, holds a wrong line, or no prompt chunk or no decode batch.
    """
    is_gpu = _TPU_TIME not in next(_lines(path), (1, []))[1]
    columns = (*_PLACE, *(_GPU_TIMES if is_gpu else (_TPU_TIME,)))
    measured: tuple[dict[tuple[int, int], list[float]], ...] = ({}, {})
    for line, (batch, chunk, keys, kind, *times) in _rows(path, columns):
        if kind not in ("True", "False"):
            raise ProfileError(f"{path}:{line}: expected True or False in is_prefill, got {kind!r}")
        is_prefill = kind == "True"
        stated = times[0] if is_prefill or not is_gpu else times[1]
        place = _place if is_gpu else _tpu_place
        n, size, kv, time = _numbers(path, line, [batch, chunk, keys, stated], (*_PLACE[:3], "a mean time"))
        shape = place(int(n), int(size), int(kv), is_prefill)
        if shape is not None:
            measured[is_prefill].setdefault(shape, []).append(time * (NS_PER_MS if is_gpu else 1))
    decode, prefill = (_means(points) for points in measured)
    for name, points in (("prompt chunk", prefill), ("decode batch", decode)):
        if not points:
            raise ProfileError(f"{path}: holds no {name} (is_prefill {name == 'prompt chunk'}) that reads a key")
    return AttentionRows("gpu" if is_gpu else "tpu", prefill, decode)


def _place(batch: int, chunk: int, keys: int, is_prefill: bool) -> tuple[int, int] | None:
    """Return the shape of a GPU row, None where nothing was left to read."""
    if is_prefill:
        return (chunk, keys - chunk) if keys >= chunk else None
    return (batch, keys // batch) if keys >= batch else None


def _tpu_place(batch: int, chunk: int, keys: int, is_prefill: bool) -> tuple[int, int] | None:
    return (chunk, keys) if is_prefill else (batch, keys)


def _means(points: dict[tuple[int, int], list[float]]) -> Points:
    by_size: Points = {}
    for (size, keys), times in sorted(points.items()):
        by_size.setdefault(size, {})[keys] = sum(times) / len(times)
    return by_size


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every row, the header first."""
    return csv_lines(path, "an older bundle's tp folder holds layers.csv and attention.csv", ends_its_lines=True)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of the named columns of every row."""
    lines = _lines(path)
    _, header = next(lines, (1, []))
    missing = [column for column in columns if column not in header]
    if missing:
        raise ProfileError(
            f"{path}:1: column {missing[0]!r} is missing; expected {','.join(columns)}, got {cut(','.join(header))!r}"
        )
    places = [header.index(column) for column in columns]
    for line, cells in lines:
        if len(cells) != len(header):
            raise ProfileError(f"{path}:{line}: expected {len(header)} columns, got {len(cells)}")
        yield line, [cells[place] for place in places]


def _numbers(path: Path, line: int, cells: Sequence[str], names: Sequence[str]) -> list[float]:
    """Return the numbers of a row; the first is a count and the last a time, so both must be above 0."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        numbers = [-1.0]
    are_sizes = numbers[0] > 0 and all(0 <= number < _LARGEST and number % 1 == 0 for number in numbers[:-1])
    if not (are_sizes and 0 < numbers[-1] < _LARGEST):
        raise ProfileError(
            f"{path}:{line}: expected numbers in {','.join(names)}, whole sizes with a count and a time "
            f"above 0, got {cut(','.join(cells))!r}"
        )
    return numbers
