"""Reading a user's CSV of operator times: names of columns, whole sizes, and where exactly a cell is wrong."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from llmservingsim.config import OperatorTableSpec
from llmservingsim.errors import ProfileError, nearest, one_of

_KEYS = ("operator", "tokens", "sequences", "kv", "time")
_OPTIONAL = frozenset({"sequences", "kv"})


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
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"latency.table.path: {path}: cannot read the table: {error}") from error
    reader = csv.reader(text.splitlines(), skipinitialspace=True)
    places = _places(path, spec, [cell.strip() for cell in next(reader, [])])
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield _row(_Cells(path, reader.line_num, cells, places), spec.unit_ns)


def _places(path: Path, spec: OperatorTableSpec, header: Sequence[str]) -> dict[str, int]:
    """Return where each column stands."""
    places: dict[str, int] = {}
    for key in _KEYS:
        name = getattr(spec.columns, key)
        if name in header:
            places[key] = header.index(name)
        elif key not in _OPTIONAL or name != key:
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

    def size(self, key: str) -> int:
        number = self._number(key)
        if number is None or number < 1 or number != int(number):
            raise self.error(key, "a whole number of at least 1")
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
    sizes = cells.size("tokens"), cells.optional_size("sequences"), cells.optional_size("kv")
    return OperatorRow(cells.line, operator, *sizes, cells.time("time") * unit_ns)
