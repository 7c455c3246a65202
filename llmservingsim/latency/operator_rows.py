"""Reading a user's CSV of operator times: names of columns, whole sizes, and where exactly a cell is wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from llmservingsim.config import OperatorTableSpec
from llmservingsim.csv_rows import csv_lines
from llmservingsim.errors import ProfileError, nearest, one_of

_KEYS = ("operator", "tokens", "sequences", "kv", "context", "time")
_OPTIONAL = frozenset({"sequences", "kv"})
_MANY = 24


class OperatorRow(NamedTuple):
    """One row: sizes are whole numbers of at least 1, None where the table says nothing."""

    line: int
    operator: str
    tokens: int
    sequences: int | None
    kv: int | None
    time_ns: float


def read_operator_rows(path: Path, spec: OperatorTableSpec) -> dict[str, list[OperatorRow]]:
    """Return the rows of a table by the name in its operator column, in file order; spaces around cells do not matter.

    Raises:
        ProfileError: The file cannot be read, a column is missing, a cell is wrong (named by line and column, both from
            1), a shape returns, or there is no row.
    """
    found: dict[str, list[OperatorRow]] = {}
    lines: dict[tuple[str, int, int | None, int | None], int] = {}
    for row in _rows(path, spec):
        shape = (row.operator, row.tokens, row.sequences, row.kv)
        if shape in lines:
            raise ProfileError(
                f"{path}:{row.line}: repeats the shape of line {lines[shape]}; expected one row for each"
            )
        lines[shape] = row.line
        found.setdefault(row.operator, []).append(row)
    if not found:
        raise ProfileError(f"{path}: holds no row")
    return found


def _rows(path: Path, spec: OperatorTableSpec) -> Iterator[OperatorRow]:
    lines = csv_lines(path, "latency.table.path names it")
    header = [cell.strip() for cell in next(lines, (1, []))[1]]
    places = _places(path, spec, header)
    chosen = _Filter(path, spec.where, header)
    for line, cells in lines:
        if any(cell.strip() for cell in cells) and chosen.takes(cells):
            yield _row(_Cells(path, line, cells, places), spec.unit_ns)
    chosen.check()


class _Filter:
    """Takes the rows that say what they must; remembers what others say, for the message."""

    def __init__(self, path: Path, where: Mapping[str, object], header: Sequence[str]) -> None:
        self._path = path
        for name in where:
            if name not in header:
                raise ProfileError(
                    f"{path}:1: has no column {name!r}{nearest(name, header)}, which latency.table names for a choice "
                    f"of rows; it has {one_of(header)}"
                )
        self._wanted = [(header.index(name), name, value) for name, value in where.items()]
        self._others: dict[str, set[str]] = {name: set() for name in where}
        self._count = 0

    def takes(self, cells: Sequence[str]) -> bool:
        for place, name, value in self._wanted:
            cell = cells[place].strip() if place < len(cells) else ""
            if not _says(cell, value):
                self._others[name].add(cell)
                return False
        self._count += 1
        return True

    def check(self) -> None:
        """Raise if there were rows, but none to take."""
        for _, name, value in reversed(self._wanted):  # the last is what rows lack that have all before
            if not self._count and self._others[name]:
                raise ProfileError(
                    f"{self._path}: no row has {name} {value}; expected one of {one_of(self._others[name], _MANY)}"
                )


def _says(cell: str, value: object) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(cell) == value
        except ValueError:
            return False
    return cell.casefold() == str(value).casefold()


def _places(path: Path, spec: OperatorTableSpec, header: Sequence[str]) -> dict[str, int]:
    """Return where each column stands."""
    places: dict[str, int] = {}
    for key in _KEYS:
        name = getattr(spec.columns, key)
        if name in header:
            places[key] = header.index(name)
        elif name is not None and (key not in _OPTIONAL or name != key):
            raise ProfileError(
                f"{path}:1: has no column {name!r}{nearest(name, header)}, which latency.table.columns.{key} names; "
                f"it has {one_of(header)}"
            )
    return places


class _Cells(NamedTuple):
    path: Path
    line: int
    cells: list[str]
    places: dict[str, int]

    def text(self, key: str) -> str:
        place = self.places.get(key, len(self.cells))
        return self.cells[place].strip() if place < len(self.cells) else ""

    def size(self, key: str, least: int = 1) -> int:
        number = self._number(key)
        if number is None or number < least or number != int(number):
            raise self.error(key, f"a whole number of at least {least}")
        return int(number)

    def optional_size(self, key: str) -> int | None:
        return self.size(key) if self.text(key) else None

    def time(self, key: str) -> float:
        number = self._number(key)
        if number is None or number < 0:
            raise self.error(key, "a number of at least 0")
        return number

    def _number(self, key: str) -> float | None:
        try:
            number = float(self.text(key))
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    def error(self, key: str, expected: str) -> ProfileError:
        column = self.places[key] + 1
        return ProfileError(f"{self.path}:{self.line}:{column}: {key}: expected {expected}, got {self.text(key)!r}")


def _row(cells: _Cells, unit_ns: float) -> OperatorRow:
    operator = cells.text("operator")
    if not operator:
        raise cells.error("operator", "a name")
    tokens, sequences = cells.size("tokens"), cells.optional_size("sequences")
    return OperatorRow(
        cells.line, operator, tokens, sequences, _kv(cells, tokens, sequences), cells.time("time") * unit_ns
    )


def _kv(cells: _Cells, tokens: int, sequences: int | None) -> int | None:
    """KV length of each sequence: as the row says, or what it says was cached and the new tokens."""
    if not cells.text("context"):
        return cells.optional_size("kv")
    return cells.size("context", least=0) + tokens // (sequences or 1)
