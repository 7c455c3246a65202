"""Reading CSV files that others wrote: lines that are no text, columns by name, and which line is wrong."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import ProfileError, cut, nearest, one_of


def csv_lines(path: Path, expected: str = "", *, ends_its_lines: bool = False) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of every line, the header first; other lines without a cell are left out.

    Args:
        path: Of the file: UTF-8, with or without a byte order mark.
        expected: Said where the file is missing.
        ends_its_lines: A program wrote it, so that a last line without an end was cut off, maybe within a number.

    Raises:
        ProfileError: If there is no such file, or it is no text.
    """
    if not path.is_file():
        what = "is a folder, and a file was expected" if path.is_dir() else "file is missing"
        raise ProfileError(f"{path}: {what}{f'; {expected}' if expected else ''}")
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ProfileError(f"{path}:{line}: expected UTF-8 text, got the byte 0x{data[error.start]:02x}") from None
    if ends_its_lines and "\n" in text and not text.endswith(("\n", "\r")):
        line = text.count("\n") + 1
        raise ProfileError(f"{path}:{line}: the last line does not end: the file was cut off; expected a whole one")
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        for cells in reader:
            if cells or reader.line_num == 1:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ProfileError(f"{path}:{reader.line_num}: expected comma-separated values: {error}") from None


class NumberTable:
    """A CSV file whose columns are found by name; those that nobody asks for may hold anything.

    Args:
        path: Of the file.
        needed: Columns that it must have.
        ends_its_lines: As `csv_lines`.

    Raises:
        ProfileError: If the file cannot be read, lacks a column or has no row, or a line is too short or too long.
    """

    def __init__(self, path: Path, needed: Sequence[str], *, ends_its_lines: bool = False) -> None:
        rows = csv_lines(path, ends_its_lines=ends_its_lines)
        header = [cell.strip() for cell in next(rows, (1, []))[1]]
        for name in needed:
            if name not in header:
                raise ProfileError(
                    f"{path}:1: has no column {name!r}{nearest(name, header)}; it has {one_of(header, 40)}"
                )
        self.path = path
        self._places = {name: place for place, name in reversed(list(enumerate(header)))}
        found = list(rows)
        for line, cells in found:
            if len(cells) != len(header):
                raise ProfileError(f"{path}:{line}: expected {len(header)} cells as in the header, got {len(cells)}")
        if not found:
            raise ProfileError(f"{path}: holds no row")
        self.lines = [line for line, _ in found]
        self._rows = [cells for _, cells in found]

    def has(self, column: str) -> bool:
        """Whether there is such a column."""
        return column in self._places

    def text(self, column: str) -> list[str]:
        """Return the cells of a column without the spaces around them."""
        place = self._places[column]
        return [cells[place].strip() for cells in self._rows]

    def numbers(self, column: str) -> NDArray[np.float64]:
        """Return a column of numbers of at least 0, shape ``[rows]``; NaN where a cell is empty.

        Raises:
            ProfileError: If a cell is anything else.
        """
        return np.array([self._number(column, i, cell) for i, cell in enumerate(self.text(column))])

    def error(self, row: int, column: str, problem: str) -> ProfileError:
        """Return an error that names a row, counted from 0, by its line, and the column."""
        return ProfileError(f"{self.path}:{self.lines[row]}: {column}: {problem}")

    def _number(self, column: str, row: int, cell: str) -> float:
        if not cell:
            return math.nan
        try:
            number = float(cell)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise self.error(row, column, f"expected a number of at least 0, got {cut(cell, 40)!r}")
        return number
