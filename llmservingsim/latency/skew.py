"""Decode batches with uneven contexts: a model fitted to ``skew.csv`` when the bundle is loaded.

The decode kernel gives each (sequence, KV head) one tile that walks through the whole context. While many tiles run
they share the memory bandwidth, and the batch takes what ``attention.csv`` says for its mean context. But one tile
alone reaches only its own pace, so a batch takes at least as long as its longest context does by itself:

    t = max(t_mean, a + tau * longest)

with ``a`` and ``tau`` fitted by least squares to the measured batches in which one context is long. Below a number of
sequences the kernel splits contexts over several tiles, so that the longest one goes at several times that pace and
the bound vanishes. It is therefore fitted at, and applied from, the smallest measured count at which the pace is that
of one tile: at least half of the slowest pace measured at any count.
Running requests stand in the batch oldest first, so the long contexts start first and the bound is
not added to a wait (in ``skew.csv`` the long ones stand last, which costs more from the second wave of tiles on; a
table learned from those rows makes predictions of real runs worse).

The rows' times are sums over the profiler's repetitions (3 in the published bundles), so they are scaled to agree
with ``attention.csv`` on even batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmservingsim.errors import ProfileError, one_of
from llmservingsim.latency.tables import DecodeTable
from llmservingsim.shapes import BatchShape

MODES = ("fitted", "off")
_VISIBLE = 1.1  # a penalty that stands out of the measurement noise (a few percent, three repetitions)
_COLUMNS = ("regime", "n", "nb", "kv_big", "kv_mean", "t_mean_us", "t_skew_us")


class _Row(NamedTuple):
    n: int
    nb: int
    kv_big: float
    kv_mean: float
    t_mean: float
    t_skew: float


@dataclass(frozen=True, slots=True)
class SkewModel:
    """Bounds the time of uneven decode batches from below.

    Attributes:
        description: What is applied and why, for the run's provenance.
        from_count: Fewest sequences to which the bound applies; 0 for never.
        base_us, per_token_us: ``a`` and ``tau``.
    """

    description: str
    from_count: int = 0
    base_us: float = 0.0
    per_token_us: float = 0.0

    @classmethod
    def load(cls, path: Path, decode: DecodeTable, *, mode: str) -> SkewModel:
        """Fit to ``skew.csv``; without the file, or with mode ``off``, bound nothing.

        Raises:
            ProfileError: If the mode is unknown or the file malformed.
        """
        if mode not in MODES:
            raise ProfileError(f"latency.skew: {mode!r} is unknown; expected one of {one_of(MODES)}")
        if mode == "off":
            return cls("off")
        rows = _pure_rows(path)
        if not rows:
            return cls("off: not measured")
        scale = float(np.median([decode.at(r.n, r.kv_mean) / r.t_mean for r in rows]))
        fits = {n: _fit_pace([r for r in rows if r.n == n and r.nb == 1], scale) for n in sorted({r.n for r in rows})}
        paces = {n: per_token for n, (_, per_token) in fits.items() if _penalty(rows, n) > _VISIBLE}
        if max(paces.values(), default=0.0) <= 0:
            return cls("off: no measured batch is slowed by its longest context")
        count = next(n for n, pace in paces.items() if pace >= max(paces.values()) / 2)
        base, per_token = fits[count]
        text = f"at least {base:.1f} us + {1e3 * per_token:.1f} ns * longest context, from {count} sequences on"
        return cls(text, count, base, per_token)

    def bound_us(self, shape: BatchShape) -> float:
        """Return the least time of a batch of decodes, 0 where nothing is known."""
        if not self.from_count or shape.num_decodes < self.from_count:
            return 0.0
        return self.base_us + self.per_token_us * shape.max_decode_kv_tokens


def _fit_pace(rows: list[_Row], scale: float) -> tuple[float, float]:
    """Fit ``a`` and ``tau`` to batches of equal size with one long context; relative errors count alike."""
    if len(rows) < 2:
        return 0.0, 0.0
    longest = np.array([r.kv_big for r in rows])
    times = scale * np.array([r.t_skew for r in rows])
    design = np.stack([1.0 / times, longest / times], axis=1)
    base, per_token = np.linalg.lstsq(design, np.ones(len(rows)), rcond=None)[0].tolist()
    return base, per_token


def _penalty(rows: list[_Row], count: int) -> float:
    """Median slowdown of batches of ``count`` sequences by a single long one."""
    ratios = [r.t_skew / r.t_mean for r in rows if r.n == count and r.nb == 1]
    return float(np.median(ratios)) if len(ratios) > 1 else 1.0


def _pure_rows(path: Path) -> list[_Row]:
    """Read the decode-only rows."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        header = file.readline().strip().split(",")
        missing = [c for c in _COLUMNS if c not in header]
        if missing:
            known = ",".join(_COLUMNS)
            raise ProfileError(f"{path}:1: column {missing[0]!r} is missing; expected {known} among others")
        regime, *columns = (header.index(c) for c in _COLUMNS)
        rows = []
        for line_num, line in enumerate(file, start=2):
            cells = line.strip().split(",")
            if not any(cells) or (len(cells) == len(header) and cells[regime] != "pure"):
                continue
            try:
                rows.append(_row([float(cells[i]) for i in columns]))
            except (ValueError, IndexError):
                raise ProfileError(
                    f"{path}:{line_num}: expected {len(header)} columns with numbers greater than 0 in "
                    f"{', '.join(_COLUMNS[1:])}, got {line.strip()!r}"
                ) from None
        return rows


def _row(numbers: list[float]) -> _Row:
    if not all(0 < number < math.inf for number in numbers):
        raise ValueError
    n, nb, *times = numbers
    return _Row(int(n), int(nb), *times)
