"""A profile bundle: operator times measured on a real device, in the layout of LLMServingSim 2.0.

``<profiles>/<hardware>/<model>/<variant>/tp<N>/`` holds ``dense.csv``, ``per_sequence.csv`` and ``attention.csv``
with times in microseconds. ``moe.csv`` of a mixture of experts is measured for whole experts, so it stands under
``tp1``. A bundle whose kernels were measured on prompt chunks and on decodes apart has a ``prefills.csv`` too, and no
mixed batch in ``attention.csv``. ``host.csv`` holds what the device waits for the host between two steps.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import ProfileError, nearest, one_of
from llmservingsim.latency.expert_table import ExpertTable
from llmservingsim.latency.kernel_attention import KernelAttention
from llmservingsim.latency.skew import SkewModel
from llmservingsim.latency.source import PER_SEQUENCE, ExpertWork, Grade
from llmservingsim.latency.tables import DecodeTable, LinearTable
from llmservingsim.latency.varlen_attention import VarlenAttention
from llmservingsim.model import HOST_GAP
from llmservingsim.shapes import BatchShape
from llmservingsim.units import NS_PER_US

_ATTENTION_COLUMNS = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
HOST = "host.csv"
PREFILLS = "prefills.csv"
PREFILL_COLUMNS = ("prefills", "prefill_chunk", "kv_prefill", "time_us")
_MOE_COLUMNS = ("tokens", "activated_experts", "time_us")


class BundleSource:
    """Operator latencies of one rank, from one ``tp<N>`` folder.

    Args:
        folder: The ``tp<N>`` folder.
        skew: ``"fitted"`` bounds decode batches with uneven contexts by a model fitted to ``skew.csv``, ``"off"``
            times every decode batch by its mean context.
        experts_per_token: Of a mixture of experts; 0 for a dense model, which has no ``moe.csv``.
        expert_slices: Ranks over which one expert's width is cut.

    Raises:
        ProfileError: If a file is missing or malformed.
    """

    def __init__(
        self, folder: Path, *, skew: str = "fitted", experts_per_token: int = 0, expert_slices: int = 1
    ) -> None:
        self.folder = folder
        self._dense = read_layers(folder / "dense.csv", "tokens")
        self._per_sequence = read_layers(folder / "per_sequence.csv", "sequences")
        if (folder / HOST).is_file():
            self._per_sequence[HOST_GAP.name] = _read_host(folder / HOST)
        rows = read_attention(folder)
        prefill = rows[:, 0] > 0
        self._decode = _decode_table(rows[~prefill], folder / "attention.csv")
        meta = _read_meta(folder / "meta.yaml")
        self._computed = frozenset(meta.get("from_roofline", ()))
        self._apart = _read_apart(folder, self._decode, meta)
        self._varlen = VarlenAttention(rows[prefill]) if self._apart is None else None
        self._skew = SkewModel.load(folder / "skew.csv", self._decode, mode=skew)
        self._extrapolated: Counter[str] = Counter()
        self._moe = ExpertTable(self._moe_rows(), experts_per_token, expert_slices) if experts_per_token else None

    def holds(self, operator: str) -> bool:
        """Whether an operator was measured."""
        return operator in ("attention", "moe") or operator in self._dense or operator in self._per_sequence

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Interpolate the operator's time; extrapolate, and count it, beyond the measured grid."""
        time_ns, grade = self.graded_ns(operator, shape)
        if grade is Grade.EXTRAPOLATED:
            self._extrapolated[operator] += 1
        return time_ns

    def graded_ns(self, operator: str, shape: BatchShape) -> tuple[int, Grade]:
        """Return the operator's time, and where it comes from."""
        if operator == "attention":
            time_us, is_covered = self._attention_us(shape)
            return round(time_us * NS_PER_US), Grade.INTERPOLATED if is_covered else Grade.EXTRAPOLATED
        by_sequence = operator in PER_SEQUENCE
        tables = self._per_sequence if by_sequence else self._dense
        if operator not in tables:
            raise ProfileError(
                f"{self.folder}: operator {operator!r} was not measured{nearest(operator, tables)}; "
                f"the bundle has {one_of(tables)}"
            )
        size = shape.num_sequences if by_sequence else shape.num_tokens
        table = tables[operator]
        grade = Grade.ROOFLINE if operator in self._computed else table.grade(size)
        return round(table.at(size) * NS_PER_US), grade

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Interpolate the time of the experts; extrapolate, and count it, beyond the measured grid.

        The measured time holds the router, which takes next to nothing.
        """
        times, grade = self.graded_moe_ns(work)
        if grade is Grade.EXTRAPOLATED:
            self._extrapolated["moe"] += 1
        return times

    def graded_moe_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], Grade]:
        """Return the times of the experts, and where they come from."""
        if self._moe is None:
            raise ProfileError(f"{self.folder}: operator 'moe' was not loaded: experts_per_token is 0")
        return self._moe.graded_ns(work)

    def _moe_rows(self) -> NDArray[np.float64]:
        """Measured with whole experts, so in the folder of one rank."""
        path = next((p for p in (self.folder, self.folder.parent / "tp1") if (p / "moe.csv").is_file()), self.folder)
        return read_experts(path / "moe.csv")

    def provenance(self) -> dict[str, object]:
        """Name the folder, the skew model and the extrapolations."""
        return {
            "source": "bundle",
            "path": str(self.folder),
            "skew": self._skew.description,
            "extrapolated_shapes": dict(sorted(self._extrapolated.items())),
        }

    def _attention_us(self, shape: BatchShape) -> tuple[float, bool]:
        """Return the time of attention, and whether the batch lies within the measured grid."""
        if (of_any := self._apart or (self._varlen if shape.prefills else None)) is not None:
            return of_any.at(shape), of_any.covers(shape)
        count = shape.num_decodes
        if not count:
            return 0.0, True
        mean_kv = shape.decode_kv_tokens / count
        is_covered = self._decode.covers(count, mean_kv)
        decode = max(self._decode.at(count, mean_kv), self._skew.bound_us(shape))
        assert self._varlen is not None
        if shape.draft_pairs:
            decode = max(decode, self._varlen.of_verification(shape))
        return decode, is_covered


def _read_host(path: Path) -> LinearTable:
    """Read sequences,time_us: what the device waits for the host between two steps; it may be nothing."""
    columns = ("sequences", "time_us")
    rows = [_numbers(path, line, cells, columns, may_be_zero=True) for line, cells in _read(path, columns)]
    if not rows:
        raise ProfileError(f"{path}: holds no row")
    sizes, times = zip(*sorted(rows), strict=True)
    return LinearTable(sizes, times)


def _decode_table(rows: NDArray[np.float64], path: Path) -> DecodeTable:
    decodes = rows[rows[:, 2] > 0]
    if not len(decodes):
        raise ProfileError(f"{path}: holds no decode batch (a row with prefill_chunk 0 and n_decode > 0)")
    return DecodeTable.of_points(decodes[:, 2:].tolist())


def _read_meta(path: Path) -> dict[str, Any]:
    """Read what stands beside the tables; nothing if the file is not there."""
    if not path.is_file():
        return {}
    import yaml

    try:
        meta = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = {**meta, "tiles_per_decode": float(meta.get("tiles_per_decode", 0.0))}
        found["from_roofline"] = [str(name) for name in meta.get("from_roofline") or ()]
    except (OSError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise ProfileError(
            f"{path}: expected a table with a number tiles_per_decode and a list from_roofline: {error}"
        ) from error
    return found


def _read_apart(folder: Path, decode: DecodeTable, meta: Mapping[str, Any]) -> KernelAttention | None:
    """Read kernels that were measured apart; ``meta.yaml`` tells how they run together."""
    path = folder / PREFILLS
    if not path.is_file():
        return None
    return KernelAttention(load_rows(path, PREFILL_COLUMNS), decode, meta.get("tiles_per_decode", 0.0))


def read_attention(folder: Path) -> NDArray[np.float64]:
    """Read the rows of ``attention.csv``, shape ``[points, 5]``: chunk, its context, decodes, KV of each, time."""
    path = folder / "attention.csv"
    rows = np.empty((0, len(_ATTENTION_COLUMNS)))
    if next(_read(path, _ATTENTION_COLUMNS), None):
        rows = load_rows(path, _ATTENTION_COLUMNS)
    if not (rows[:, 0] > 0).any() and not (folder / PREFILLS).is_file():
        raise ProfileError(f"{path}: holds no prefill batch (a row with prefill_chunk > 0)")
    return rows


def read_experts(path: Path) -> NDArray[np.float64]:
    """Read the rows of ``moe.csv``, shape ``[points, 3]``: tokens, activated experts, time."""
    if next(_read(path, _MOE_COLUMNS), None) is None:
        raise ProfileError(f"{path}: holds no row")
    return load_rows(path, _MOE_COLUMNS)


def load_rows(path: Path, columns: Sequence[str]) -> NDArray[np.float64]:
    """Read rows of numbers: all at once, which is quick, and again one by one if any of them is wrong.

    Raises:
        ProfileError: If the file is missing or malformed.
    """
    try:
        rows = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2, comments=None)
        if rows.shape[1] == len(columns) and np.isfinite(rows).all() and rows.min() >= 0 and rows[:, -1].min() > 0:
            return rows
    except ValueError:
        pass
    return np.array([_numbers(path, line, cells, columns) for line, cells in _read(path, columns)])


def read_layers(path: Path, size_column: str) -> dict[str, LinearTable]:
    """Read layer,<size>,time_us into a table per layer."""
    return {
        layer: LinearTable([size for size, _ in points], [time_us for _, time_us in points])
        for layer, points in read_points(path, size_column).items()
    }


def read_points(path: Path, size_column: str) -> dict[str, list[tuple[float, float]]]:
    """Read layer,<size>,time_us; return the (size, time) pairs of each layer, rising.

    Raises:
        ProfileError: If the file is missing or malformed.
    """
    columns = ("layer", size_column, "time_us")
    points: dict[str, list[tuple[float, float]]] = {}
    for line, cells in _read(path, columns):
        size, time_us = _numbers(path, line, cells, columns)
        points.setdefault(cells[0], []).append((size, time_us))
    return {layer: sorted(measured) for layer, measured in points.items()}


def _read(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield line number and cells of every row below the header."""
    if not path.is_file():
        raise ProfileError(f"{path}: file is missing; a bundle's tp folder holds dense, per_sequence, attention .csv")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        if header != list(columns):
            raise ProfileError(f"{path}:1: expected the columns {','.join(columns)}, got {','.join(header)!r}")
        for cells in reader:
            if cells:
                yield reader.line_num, cells


def _numbers(
    path: Path, line: int, cells: list[str], columns: Sequence[str], *, may_be_zero: bool = False
) -> list[float]:
    """Return the numbers of a row, behind its layer if it has one; the last is a time."""
    try:
        numbers = [float(cell) for cell in cells[columns[0] == "layer" :]]
    except ValueError:
        numbers = []
    sound = len(cells) == len(columns) and len(numbers) > 1 and min(numbers) >= 0
    if not (sound and (numbers[-1] > 0 or may_be_zero) and math.isfinite(sum(numbers))):
        expected = ",".join(columns)
        raise ProfileError(f"{path}:{line}: expected {expected} with a time greater than 0, got {','.join(cells)!r}")
    return numbers
