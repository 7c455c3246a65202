"""Rows of a bundle's files: whole sizes and a time, one for each shape, or an error that names the line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmservingsim.csv_rows import csv_lines
from llmservingsim.errors import ProfileError, cut

_LARGEST = 1e12
"""More than any size, and than any time in us."""

Line = tuple[int, list[str]]


def read_rows(path: Path, columns: Sequence[str], *, may_be_zero: bool = False) -> NDArray[np.float64]:
    """Read rows of numbers: all at once, which is quick, and again one by one if any of them is wrong.

    Args:
        path: Of the file.
        columns: Its header; the last one is a time.
        may_be_zero: Whether times may be.

    Returns:
        At least one row, shape ``[rows, columns]``.

    Raises:
        ProfileError: If the file is missing or malformed.
    """
    lines = _lines(path, columns)
    try:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2, comments=None, encoding="utf-8")
        if _is_sound(rows, len(columns)):
            return rows
    except ValueError:
        pass
    return np.array([numbers for _, numbers in _rows(path, columns, lines, may_be_zero)])


def read_points(path: Path, size_column: str) -> dict[str, list[tuple[float, float]]]:
    """Read layer,<size>,time_us; return the (size, time) pairs of each layer, rising.

    Raises:
        ProfileError: If the file is missing or malformed.
    """
    columns = ("layer", size_column, "time_us")
    points: dict[str, list[tuple[float, float]]] = {}
    for layer, (size, time_us) in _rows(path, columns, _lines(path, columns)):
        points.setdefault(layer, []).append((size, time_us))
    return {layer: sorted(measured) for layer, measured in points.items()}


def _lines(path: Path, columns: Sequence[str]) -> Iterator[Line]:
    """Return what stands below the header, at least one line."""
    lines = csv_lines(path, "a bundle's tp folder holds dense, per_sequence, attention .csv", ends_its_lines=True)
    _, header = next(lines, (1, []))
    if header != list(columns):
        raise ProfileError(f"{path}:1: expected the columns {','.join(columns)}, got {cut(','.join(header))!r}")
    first = next(lines, None)
    if first is None:
        raise ProfileError(f"{path}: holds no row below its header")
    return _chain(first, lines)


def _chain(first: Line, rest: Iterable[Line]) -> Iterator[Line]:
    yield first
    yield from rest


def _is_sound(rows: NDArray[np.float64], width: int) -> bool:
    """Whether all rows are as they should be; False may also mean that two shapes look alike."""
    if rows.shape[1] != width or not (rows >= 0).all() or not (rows < _LARGEST).all() or not (rows[:, -1] > 0).all():
        return False
    shapes = rows[:, :-1]
    marks = shapes @ np.sqrt(np.arange(2, 2 + shapes.shape[1]))  # one number for each shape, told apart by irrationals
    return not (shapes % 1).any() and len(np.unique(marks)) == len(rows)


def _rows(
    path: Path, columns: Sequence[str], lines: Iterable[Line], may_be_zero: bool = False
) -> Iterator[tuple[str, list[float]]]:
    """Yield the layer, if rows have one, and the numbers of every row; one that returns as it was counts once."""
    found: dict[tuple[str | float, ...], tuple[int, float]] = {}
    for line, cells in lines:
        layer = cells[0] if columns[0] == "layer" else ""
        *sizes, time_us = numbers = _numbers(path, line, cells, columns, may_be_zero)
        first, same = found.setdefault((layer, *sizes), (line, time_us))
        if same != time_us:
            raise ProfileError(f"{path}:{line}: {time_us:g} us for the shape of line {first}, which says {same:g}")
        if first == line:
            yield layer, numbers


def _numbers(path: Path, line: int, cells: list[str], columns: Sequence[str], may_be_zero: bool) -> list[float]:
    """Return the numbers of a row, behind its layer if it has one; the last is a time."""
    try:
        numbers = [float(cell) for cell in cells[columns[0] == "layer" :]]
    except ValueError:
        numbers = []
    are_sizes = all(0 <= number < _LARGEST and number % 1 == 0 for number in numbers[:-1])
    is_time = len(numbers) > 1 and (0 < numbers[-1] < _LARGEST or (may_be_zero and not numbers[-1]))
    if len(cells) != len(columns) or not (are_sizes and is_time):
        raise ProfileError(
            f"{path}:{line}: expected {','.join(columns)} with whole sizes and a time greater than 0, got "
            f"{cut(','.join(cells))!r}"
        )
    return numbers
