"""Prompt and output lengths, drawn in blocks."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import WorkloadError, nearest, one_of
from llmservingsim.workload.spec import (
    CountSpec,
    EmpiricalLength,
    FixedLength,
    GeneratorSpec,
    LengthSpec,
    LognormalLength,
    PairedLength,
    PresetLength,
    UniformLength,
)

_BLOCK = 1024
_LENGTH_MAX = 2**31 - 1

_PRESET_MEANS = {"sharegpt": (161.31, 337.99), "alpaca": (19.31, 58.45)}
_PRESET_SIGMA = 1.0

Lengths = NDArray[np.int64]
Draw = Callable[[np.random.Generator], Lengths]


def draw_counts(spec: CountSpec, key: str, rng: np.random.Generator) -> Iterator[int]:
    """Return an endless iterator over whole numbers from 1.

    Raises:
        WorkloadError: If the distribution contradicts itself or its file cannot be used.
    """
    if isinstance(spec, int):
        return repeat(spec)
    if isinstance(spec, EmpiricalLength) and spec.column is None:
        raise WorkloadError(f"generator: {key}: expected a column, that of the file which holds the number")
    return draw_tokens(spec, rng)


def draw_tokens(spec: LengthSpec, rng: np.random.Generator) -> Iterator[int]:
    """Return an endless iterator over lengths of new input.

    Raises:
        WorkloadError: If the distribution contradicts itself or its file cannot be used.
    """
    draw = _sampler(spec, 0)
    return (length for _ in repeat(None) for length in draw(rng).tolist())


def draw_lengths(
    spec: GeneratorSpec, input_rng: np.random.Generator, output_rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    """Return an endless iterator over (input length, output length), before any limit of the model.

    Raises:
        WorkloadError: If a distribution contradicts itself or its file cannot be used.
    """
    source, target = spec.input_length, spec.output_length
    if not isinstance(target, PairedLength):
        return _independent(_sampler(source, 0), _sampler(target, 1), input_rng, output_rng)
    if not isinstance(source, EmpiricalLength):
        raise WorkloadError("output_length: 'paired' needs an 'empirical' input_length to take the row from")
    inputs = _read_lengths(source.path, source.column or "input_toks")
    return _paired(inputs, _read_lengths(source.path, target.column), input_rng)


def _independent(
    draw_input: Draw, draw_output: Draw, input_rng: np.random.Generator, output_rng: np.random.Generator
) -> Iterator[tuple[int, int]]:
    while True:
        yield from zip(draw_input(input_rng).tolist(), draw_output(output_rng).tolist(), strict=True)


def _paired(inputs: Lengths, outputs: Lengths, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    while True:
        rows = rng.integers(len(inputs), size=_BLOCK)
        yield from zip(inputs[rows].tolist(), outputs[rows].tolist(), strict=True)


def _sampler(spec: LengthSpec, side: int) -> Draw:
    """Return a function that draws a block of lengths; ``side`` is 0 for inputs, 1 for outputs."""
    match spec:
        case FixedLength():
            return lambda rng: np.full(_BLOCK, spec.tokens, dtype=np.int64)  # noqa: ARG005
        case UniformLength():
            if spec.min > spec.max:
                raise WorkloadError(f"uniform length: min {spec.min} is above max {spec.max}")
            return lambda rng: rng.integers(spec.min, spec.max, size=_BLOCK, endpoint=True)
        case LognormalLength():
            return _lognormal(spec)
        case PresetLength():
            return _lognormal(LognormalLength(mean=_preset_mean(spec.name, side), sigma=_PRESET_SIGMA))
        case EmpiricalLength():
            lengths = _read_lengths(spec.path, spec.column or ("input_toks", "output_toks")[side])
            return lambda rng: rng.choice(lengths, size=_BLOCK)
        case PairedLength():
            raise WorkloadError("input_length: 'paired' is for output_length; use 'empirical' here")


def _lognormal(spec: LognormalLength) -> Draw:
    largest = _LENGTH_MAX if spec.max is None else spec.max
    if spec.min > largest:
        raise WorkloadError(f"lognormal length: min {spec.min} is above max {spec.max}")
    if spec.mean is not None and spec.median is None:
        mu = math.log(spec.mean) - spec.sigma**2 / 2
    elif spec.median is not None and spec.mean is None:
        mu = math.log(spec.median)
    else:
        raise WorkloadError("lognormal length: expected either mean or median")

    def draw(rng: np.random.Generator) -> Lengths:
        return np.clip(np.rint(rng.lognormal(mu, spec.sigma, _BLOCK)), spec.min, largest).astype(np.int64)

    return draw


def _preset_mean(name: str, side: int) -> float:
    if name not in _PRESET_MEANS:
        raise WorkloadError(
            f"preset length: {name!r} is unknown{nearest(name, _PRESET_MEANS)}; expected {one_of(_PRESET_MEANS)}"
        )
    return _PRESET_MEANS[name][side]


def _read_lengths(path: str, column: str) -> Lengths:
    """Read one column of a CSV or JSON lines file."""
    file = Path(path)
    try:
        rows = list(_csv_values(file, column) if ".csv" in file.suffixes else _jsonl_values(file, column))
    except FileNotFoundError as error:
        names = [entry.name for entry in file.parent.iterdir()] if file.parent.is_dir() else []
        raise WorkloadError(f"{path}: no such file of lengths{nearest(file.name, names)}") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: cannot be read: {error}") from error
    if not rows:
        raise WorkloadError(f"{path}: holds no lengths")
    return np.array(rows, dtype=np.int64)


def _csv_values(path: Path, column: str) -> Iterator[int]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in (reader := csv.DictReader(file)):
            yield _length(row, column, f"{path}:{reader.line_num}")


def _jsonl_values(path: Path, column: str) -> Iterator[int]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            where = f"{path}:{number}"
            try:
                row = msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise WorkloadError(f"{where}: broken JSON: {error}") from error
            parts = row["sub_requests"] if isinstance(row, dict) and "sub_requests" in row else [row]
            for part in parts if isinstance(parts, list) else [parts]:
                yield _length(part, column, where)


def _length(row: object, column: str, where: str) -> int:
    if not isinstance(row, dict) or column not in row:
        known = row if isinstance(row, dict) else {}
        raise WorkloadError(f"{where}: no column {column!r}{nearest(column, known)}; found {one_of(known) or 'none'}")
    value = row[column]
    text = str(value) if isinstance(value, (int, str)) else ""
    length = int(text) if text.strip().isdecimal() else 0
    if not 1 <= length <= _LENGTH_MAX:
        raise WorkloadError(f"{where}: {column}: expected a length of at least 1, got {value!r}")
    return length
