"""A profile bundle: operator times measured on a real device, in the layout of LLMServingSim 2.0.

``<profiles>/<hardware>/<model>/<variant>/tp<N>/`` holds ``dense.csv``, ``per_sequence.csv`` and ``attention.csv``
with times in microseconds. ``moe.csv`` of a mixture of experts is measured for whole experts, so it stands under
``tp1``. A bundle whose kernels were measured on prompt chunks and on decodes apart has a ``prefills.csv`` too, and no
mixed batch in ``attention.csv``. ``host.csv`` holds what the device waits for the host between two steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.errors import ProfileError, cut, nearest, one_of
from llmservingsim.latency.bundle_rows import read_points, read_rows
from llmservingsim.latency.expert_table import ExpertTable
from llmservingsim.latency.kernel_attention import KernelAttention
from llmservingsim.latency.skew import MEASURED, SkewModel
from llmservingsim.latency.source import PER_SEQUENCE, ExpertWork, Grade
from llmservingsim.latency.tables import DecodeTable, LinearTable
from llmservingsim.latency.uneven import load_uneven
from llmservingsim.latency.varlen_attention import VarlenAttention
from llmservingsim.model import HOST_GAP
from llmservingsim.shapes import BatchShape
from llmservingsim.units import NS_PER_US

_ATTENTION_COLUMNS = ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us")
HOST = "host.csv"
PREFILLS = "prefills.csv"
PREFILL_COLUMNS = ("prefills", "prefill_chunk", "kv_prefill", "time_us")
KEY_BLOCK = 128
"""Keys that FlashAttention 2 walks through at once, at head size 128 (``kBlockN`` of its split-KV kernel)."""
_MOE_COLUMNS = ("tokens", "activated_experts", "time_us")


class BundleSource:
    """Operator latencies of one rank, from one ``tp<N>`` folder.

    Args:
        folder: The ``tp<N>`` folder.
        skew: ``"fitted"`` bounds decode batches with uneven contexts by a model fitted to ``skew.csv``, ``"off"``
            times every decode batch by its mean context, ``"measured"`` takes uneven batches as the rows of
            ``skew.csv`` have them, whose long contexts stand last.
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
        if (folder / HOST).exists():
            self._per_sequence[HOST_GAP.name] = _read_host(folder / HOST)
        rows = read_attention(folder)
        prefill = rows[:, 0] > 0
        together = not (folder / PREFILLS).exists()
        self._decode = decode_table(rows, step=KEY_BLOCK if together else 0)
        meta = _Meta() if together else _read_meta(folder / "meta.yaml")
        self._computed = frozenset(meta.from_roofline)
        self._apart = _read_apart(folder, self._decode, meta.tiles_per_decode)
        self._varlen = VarlenAttention(rows[prefill]) if self._apart is None else None
        self._skew = SkewModel.load(folder / "skew.csv", self._decode, mode=skew)
        self._uneven = load_uneven(folder / "skew.csv", self.even_attention_us) if skew == MEASURED else None
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
            return round(self._attention_us(shape) * NS_PER_US), Grade.between(self._covers(shape))
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
        path = next((p for p in (self.folder, self.folder.parent / "tp1") if (p / "moe.csv").exists()), self.folder)
        return read_experts(path / "moe.csv")

    def provenance(self) -> dict[str, object]:
        """Name the folder, the skew model and the extrapolations."""
        return {
            "source": "bundle",
            "path": str(self.folder),
            "skew": self._skew.description,
            "extrapolated_shapes": dict(sorted(self._extrapolated.items())),
        }

    def _attention_us(self, shape: BatchShape) -> float:
        if self._uneven is not None and not shape.draft_pairs:
            return self._uneven.at(shape)
        time_us = self.even_attention_us(shape)
        if self._varlen is None or shape.prefills:
            return time_us
        time_us = max(time_us, self._skew.bound_us(shape))
        return max(time_us, self._varlen.of_verification(shape)) if shape.draft_pairs else time_us

    def even_attention_us(self, shape: BatchShape) -> float:
        """Return the time of a batch as if ``skew.csv`` said nothing, in us."""
        if (of_any := self._apart or (self._varlen if shape.prefills else None)) is not None:
            return of_any.at(shape)
        count = shape.num_decodes
        return self._decode.at(count, shape.decode_kv_tokens / count) if count else 0.0

    def _covers(self, shape: BatchShape) -> bool:
        if (of_any := self._apart or (self._varlen if shape.prefills else None)) is not None:
            return of_any.covers(shape)
        count = shape.num_decodes
        return not count or self._decode.covers(count, shape.decode_kv_tokens / count)


def decode_table(rows: NDArray[np.float64], *, step: float) -> DecodeTable:
    """Make a table of the decode batches among the rows of ``attention.csv``."""
    return DecodeTable.of_points(rows[(rows[:, 0] == 0) & (rows[:, 2] > 0), 2:].tolist(), step)


def _read_host(path: Path) -> LinearTable:
    """Read sequences,time_us: what the device waits for the host between two steps; it may be nothing."""
    rows = read_rows(path, ("sequences", "time_us"), may_be_zero=True)
    rows = rows[np.argsort(rows[:, 0])]
    return LinearTable(rows[:, 0].tolist(), rows[:, 1].tolist())


def _read_apart(folder: Path, decode: DecodeTable, tiles_per_decode: float) -> KernelAttention | None:
    """Read kernels that were measured apart."""
    path = folder / PREFILLS
    if not path.exists():
        return None
    return KernelAttention(read_rows(path, PREFILL_COLUMNS), decode, tiles_per_decode)


class _Meta(NamedTuple):
    """What ``meta.yaml`` says of the tables beside it.

    Attributes:
        tiles_per_decode: How decodes run beside prompt chunks, by themselves where nothing is said.
        from_roofline: Operators in the tables that were computed, not measured.
    """

    tiles_per_decode: float = 0.0
    from_roofline: Sequence[str] = ()


def _read_meta(path: Path) -> _Meta:
    import yaml

    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return _Meta()
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ProfileError(f"{path}: cannot be read: {cut(str(error))}") from None
    stated = told.get("tiles_per_decode", 0.0) if isinstance(told, dict) else None
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 <= stated <= 1:
        shown = "no table" if not isinstance(told, dict) else repr(stated)
        raise ProfileError(f"{path}: expected a table with a number tiles_per_decode from 0 to 1, got {shown}")
    computed = told.get("from_roofline") or ()
    if not isinstance(computed, list | tuple) or not all(isinstance(name, str) for name in computed):
        raise ProfileError(f"{path}: from_roofline: expected a list of operators, got {cut(repr(computed))}")
    return _Meta(float(stated), computed)


def read_attention(folder: Path) -> NDArray[np.float64]:
    """Read the rows of ``attention.csv``, shape ``[points, 5]``: chunk, its context, decodes, KV of each, time.

    Raises:
        ProfileError: If the file is missing or malformed, or holds no decodes or no prompt chunks.
    """
    path = folder / "attention.csv"
    rows = read_rows(path, _ATTENTION_COLUMNS)
    if not (rows[:, 0] > 0).any() and not (folder / PREFILLS).exists():
        raise ProfileError(f"{path}: holds no prefill batch (a row with prefill_chunk > 0)")
    if not ((rows[:, 0] == 0) & (rows[:, 2] > 0)).any():
        raise ProfileError(f"{path}: holds no decode batch (a row with prefill_chunk 0 and n_decode > 0)")
    return rows


def read_experts(path: Path) -> NDArray[np.float64]:
    """Read the rows of ``moe.csv``, shape ``[points, 3]``: tokens, activated experts, time.

    Raises:
        ProfileError: If the file is missing or malformed.
    """
    return read_rows(path, _MOE_COLUMNS)


def read_layers(path: Path, size_column: str) -> dict[str, LinearTable]:
    """Read layer,<size>,time_us into a table per layer."""
    return {
        layer: LinearTable([size for size, _ in points], [time_us for _, time_us in points])
        for layer, points in read_points(path, size_column).items()
    }
