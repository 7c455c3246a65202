"""Operator times from a user's own table, such as the report of a cycle-level simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config import OperatorTableSpec
from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ProfileError, nearest, one_of
from llmservingsim.latency.attention_table import AttentionTable
from llmservingsim.latency.operator_rows import OperatorRow, read_operator_rows
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import PER_SEQUENCE, ExpertWork, Grade
from llmservingsim.latency.tables import LinearTable
from llmservingsim.model import block_operators, model_operators
from llmservingsim.shapes import BatchShape


class OperatorTableSource:
    """Operator latencies of one rank from a CSV, and from a roofline where it says nothing.

    Times are linear between the rows of an operator, as in a profile bundle, and extrapolated and counted beyond them.
    The times of several rows that make up one operator add up.

    Args:
        path: Of the table.
        spec: What its rows and columns mean.
        model: Whose operators they are.
        roofline: Times the rest.

    Attributes:
        missing: Operators, and halves of attention, that the roofline times, in the model's order.

    Raises:
        ProfileError: The table is broken, a name means nothing, or an operator is missing that may not.
    """

    def __init__(self, path: Path, spec: OperatorTableSpec, model: ModelSpec, roofline: RooflineSource) -> None:
        self._path = path
        self._roofline = roofline
        rows = read_operator_rows(path, spec)
        known = [operator.name for operator in model_operators(model)]
        parts = _parts(path, spec, rows, known)
        calls = _calls(spec, model)
        self._dense: dict[str, list[LinearTable]] = {}
        self._decodes: list[AttentionTable] = []
        self._chunks: list[AttentionTable] = []
        for operator, names in parts.items():
            scaled = [[row._replace(time_ns=row.time_ns / calls[operator]) for row in rows[name]] for name in names]
            if operator == "attention":
                tables = [AttentionTable(part, path) for part in scaled]
                _check_halves(path, dict(zip(names, tables, strict=True)))
                self._decodes = [table for table in tables if table.times_decodes]
                self._chunks = [table for table in tables if table.times_chunks]
            else:
                self._dense[operator] = [_linear(part, operator in PER_SEQUENCE, path) for part in scaled]
        self.missing = self._find_missing(known)
        self._unused = sorted(set(rows).difference(*parts.values()))
        self._extrapolated: Counter[str] = Counter()
        if self.missing and spec.missing == "error":
            raise ProfileError(
                f"{path}: does not time {', '.join(self.missing)}; map rows to them under latency.table.operators, "
                "or set latency.table.missing to 'roofline'"
            )

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Interpolate the operator's time; extrapolate, and count it, beyond the table."""
        time_ns, grade = self.graded_ns(operator, shape)
        if grade is Grade.EXTRAPOLATED:
            self._extrapolated[operator] += 1
        return time_ns

    def graded_ns(self, operator: str, shape: BatchShape) -> tuple[int, Grade]:
        """Return the operator's time, and where it comes from: the worst of its parts."""
        if operator == "attention":
            return self._attention_ns(shape)
        tables = self._dense.get(operator)
        if tables is None:
            return self._roofline.graded_ns(operator, shape)
        size = shape.num_sequences if operator in PER_SEQUENCE else shape.num_tokens
        grades = [table.grade(size) for table in tables]
        worst = max(grades, key=list(Grade).index, default=Grade.MEASURED)  # none where it costs nothing
        return round(sum(table.at(size) for table in tables)), worst

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return the roofline's time of the experts."""
        return self._roofline.moe_latency_ns(work)

    def graded_moe_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], Grade]:
        """Return the roofline's time of the experts, and that it was computed."""
        return self._roofline.graded_moe_ns(work)

    def sizes(self) -> dict[str, list[int]]:
        """Return, for each operator but attention that the table knows, the sizes of its rows; it may have none."""
        return {
            name: sorted({int(size) for table in tables for size in table.sizes})
            for name, tables in self._dense.items()
        }

    def decode_points(self) -> list[tuple[int, int]]:
        """Return (sequences, KV length of each) of the rows of decodes; none where the roofline times these."""
        return sorted({point for table in self._decodes for point in table.decode_points})

    def chunk_points(self) -> list[tuple[int, int]]:
        """Return (tokens, context) of the rows of prompt chunks; none where the roofline times these."""
        return sorted({point for table in self._chunks for point in table.chunk_points})

    def provenance(self) -> dict[str, object]:
        """Name the file, what it does not time, which of its rows are not used, and the extrapolations."""
        return {
            "source": "table",
            "path": str(self._path),
            "roofline_operators": list(self.missing),
            "unused_rows": self._unused,
            "extrapolated_shapes": dict(sorted(self._extrapolated.items())),
        }

    def _attention_ns(self, shape: BatchShape) -> tuple[int, Grade]:
        """Time decodes and prompt chunks apart, each from where it is known."""
        found = [table.decode_ns(shape) for table in self._decodes]
        found += [table.chunk_ns(chunk) for table in self._chunks for chunk in shape.prefills]
        if not self._decodes and not self._chunks:
            return self._roofline.graded_ns("attention", shape)
        if not self._decodes:
            found.append((self._roofline.latency_ns("attention", shape.only_decodes()), True))
        if not self._chunks:
            found.append((self._roofline.latency_ns("attention", shape.only_prefills()), True))
        return round(sum(time_ns for time_ns, _ in found)), Grade.between(all(inside for _, inside in found))

    def _find_missing(self, known: Iterable[str]) -> list[str]:
        """Operators, and halves of attention, that the roofline times, in the model's order."""
        missing = [name for name in dict.fromkeys(known) if name not in self._dense and name != "attention"]
        halves = {"attention of decodes": self._decodes, "attention of prompts": self._chunks}
        return missing + [name for name, timed in halves.items() if not timed]


def _parts(
    path: Path, spec: OperatorTableSpec, rows: dict[str, list[OperatorRow]], known: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return, for each operator that the table times, the names of the rows that make it up."""
    for operator, names in spec.operators.items():
        place = f"latency.table.operators.{operator}"
        if operator not in known:
            raise ProfileError(f"{place}: unknown{nearest(operator, known)}; the model has {one_of(set(known), 24)}")
        for name in names:
            if name not in rows:
                raise ProfileError(f"{place}: {path} has no row {name!r}{nearest(name, rows)}; it has {one_of(rows)}")
    parts = {name: (name,) for name in rows if name in known} | spec.operators
    if "moe" in parts:
        raise ProfileError(
            f"{path}: 'moe' cannot be timed by a table, because experts depend on pairs and on distinct experts; leave "
            "it to the roofline, or give a profile bundle"
        )
    return parts


def _check_halves(path: Path, tables: Mapping[str, AttentionTable]) -> None:
    """Names that add up to attention time the same halves of it, or each one of its own."""
    decodes = {name for name, table in tables.items() if table.times_decodes}
    chunks = {name for name, table in tables.items() if table.times_chunks}
    both, odd = decodes & chunks, decodes ^ chunks
    if both and odd:
        half = "prompt chunks" if odd & decodes else "decodes"
        raise ProfileError(f"{path}: {one_of(odd)} times no {half}, which {one_of(both)} does; expected rows of both")


def _calls(spec: OperatorTableSpec, model: ModelSpec) -> Counter[str]:
    """Return how many calls of each operator a row holds."""
    calls = Counter(operator.name for operator in model_operators(model))
    if spec.per == "model":
        return calls
    if spec.per == "call":
        return Counter(dict.fromkeys(calls, 1))
    in_block = Counter(operator.name for operator in block_operators(model))
    in_block |= Counter(operator.name for operator in block_operators(model, 0))
    return Counter({name: in_block[name] or 1 for name in calls})


def _linear(rows: Iterable[OperatorRow], by_sequence: bool, path: Path) -> LinearTable:
    """Make a table over tokens, or over sequences where the rows say how many these are."""
    points: dict[int, float] = {}
    for row in rows:
        size = (row.sequences or row.tokens) if by_sequence else row.tokens
        if size in points:
            raise ProfileError(
                f"{path}:{row.line}: {row.operator}: a second row of size {size}; its time depends on the number of "
                f"{'sequences' if by_sequence else 'tokens'} alone"
            )
        points[size] = row.time_ns
    sizes = sorted(points)
    return LinearTable(sizes, [points[size] for size in sizes])
