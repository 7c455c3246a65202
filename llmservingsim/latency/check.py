"""How far a profile bundle can be trusted: what it covers, where it contradicts itself, how well it predicts itself.

Of each operator:

- *left out*: the error of predicting a measured point from the others. A point of a line is predicted by its two
  neighbours. Batches with prompt chunks are left out a tenth at a time, and the model is fitted anew to the rest;
  beside it stands what plain multilinear interpolation makes of the same points.
- *falls*: points that take less time than a smaller one, by more than measurement scatters (5 %).
- *outliers*: points that lie more than 25 % off what their neighbours say.
- *of peak*: the largest share of the device's peak FLOP/s and bandwidth that a point reaches, by the operator's
  arithmetic and traffic. More than 100 % is a clock above the data sheet's, or a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.latency.bundle import PREFILL_COLUMNS, PREFILLS, BundleSource, read_attention
from llmservingsim.latency.bundle_rows import read_points, read_rows
from llmservingsim.latency.kernel_attention import KernelAttention
from llmservingsim.latency.tables import DecodeTable
from llmservingsim.latency.tiles import LogGrid
from llmservingsim.latency.varlen_attention import GAP_ORDER, VarlenAttention
from llmservingsim.model import Operator, ParallelLayout, Work, model_operators
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.units import NS_PER_US

Floats = NDArray[np.float64]

SCATTER = 0.05
OUTLIER = 0.25
_FOLDS = 10


class Finding(NamedTuple):
    """What is known of one operator's points.

    Attributes:
        operator: Its name; attention comes in two: of decodes, and of batches with prompt chunks.
        points: How many were measured.
        covers: Their range, for people.
        left_out_mean, left_out_p95: Errors of points that were left out, in percent; None where too few.
        multilinear_mean: Of batches with prompt chunks, the mean error of the plain interpolation, in percent.
        falls, outliers: How many points.
        peak_flops, peak_bandwidth: Largest share of the device's, in percent; None where the model or device is not
            known.
    """

    operator: str
    points: int
    covers: str
    left_out_mean: float | None = None
    left_out_p95: float | None = None
    multilinear_mean: float | None = None
    falls: int = 0
    outliers: int = 0
    peak_flops: float | None = None
    peak_bandwidth: float | None = None

    @property
    def problems(self) -> list[str]:
        """What a person should look at."""
        found = []
        if self.points < 3:
            found.append(f"{self.operator}: only {self.points} points")
        for share, what in ((self.peak_flops, "FLOP/s"), (self.peak_bandwidth, "bandwidth")):
            if share is not None and share > 100:
                found.append(f"{self.operator}: a point reaches {share:.0f} % of the {what} on the device's data sheet")
        if self.outliers:
            found.append(f"{self.operator}: {self.outliers} points are more than {OUTLIER:.0%} off their neighbours")
        if self.falls:
            found.append(f"{self.operator}: {self.falls} points take less time than a smaller one")
        return found


class Subject(NamedTuple):
    """What a bundle was measured on, as far as it is known.

    Attributes:
        model: What was computed.
        layout: How it was cut.
        accelerator: The device.
    """

    model: ModelSpec
    layout: ParallelLayout
    accelerator: AcceleratorSpec


def check_bundle(folder: Path, subject: Subject | None = None) -> list[Finding]:
    """Look at every table of a ``tp<N>`` folder.

    Args:
        folder: Of the bundle.
        subject: What it was measured on; without, nothing is held against the device's peaks.

    Raises:
        ProfileError: If a file is missing or malformed.
    """
    has_experts = (folder / "moe.csv").exists()
    BundleSource(folder, experts_per_token=subject.model.experts_per_token if subject else int(has_experts))
    operators = {op.name: op for op in model_operators(subject.model)} if subject else {}
    found = []
    for name, column in (("dense.csv", "tokens"), ("per_sequence.csv", "sequences")):
        for layer, points in read_points(folder / name, column).items():
            known = operators.get(layer)
            peaks = _peaks(subject, known, points) if subject and known else (None, None)
            found.append(_line(layer, column, points, peaks))
    rows = read_attention(folder)
    decodes = rows[(rows[:, 0] == 0) & (rows[:, 2] > 0)][:, 2:]
    found.append(_decodes(decodes, subject))
    if (folder / PREFILLS).is_file():
        found.append(_apart(read_rows(folder / PREFILLS, PREFILL_COLUMNS), decodes))
    else:
        found.append(_mixed(rows[rows[:, 0] > 0]))
    return found


def _line(layer: str, column: str, points: Sequence[tuple[float, float]], peaks: tuple[float | None, ...]) -> Finding:
    """A time over one size."""
    errors = _neighbour_errors(points)
    falls = sum(after < before * (1 - SCATTER) for (_, before), (_, after) in pairwise(points))
    covers = f"{points[0][0]:.0f} to {points[-1][0]:.0f} {column}"
    return _finding(layer, len(points), covers, errors)._replace(
        falls=falls, peak_flops=peaks[0], peak_bandwidth=peaks[1]
    )


def _decodes(rows: Floats, subject: Subject | None) -> Finding:
    """Decode attention: lines over the KV length, one per number of sequences."""
    errors: list[float] = []
    falls = 0
    for count in np.unique(rows[:, 0]):
        line = sorted((kv, time_us) for n, kv, time_us in rows.tolist() if n == count)
        errors += _neighbour_errors(line)
        falls += sum(after < before * (1 - SCATTER) for (_, before), (_, after) in pairwise(line))
    covers = f"{rows[:, 0].min():.0f} to {rows[:, 0].max():.0f} decodes of {rows[:, 1].min():.0f} to "
    found = _finding("attention, decodes", len(rows), f"{covers}{rows[:, 1].max():.0f} tokens", errors)
    if subject is None:
        return found._replace(falls=falls)
    attention = next(op for op in model_operators(subject.model) if op.name == "attention")
    flops, bandwidth = 0.0, 0.0
    for count, kv, time_us in rows.tolist():
        work = Work(int(count), int(count), int(count * kv), int(count * kv))
        here = _shares(subject, attention, work, time_us)
        flops, bandwidth = max(flops, here[0]), max(bandwidth, here[1])
    return found._replace(falls=falls, peak_flops=flops, peak_bandwidth=bandwidth)


def _mixed(rows: Floats) -> Finding:
    """Batches with one prompt chunk and equal decodes."""

    def fit(kept: Floats) -> Callable[[Floats], float]:
        model = VarlenAttention(kept)
        return lambda row: model.at(_shape(*row[:4]))

    def plain(kept: Floats) -> Callable[[Floats], float]:
        grid = LogGrid(kept[:, :4], kept[:, 4], order=GAP_ORDER, is_logarithmic=False)
        return lambda row: grid.at(row[:4].tolist())

    chunks, contexts, decodes, kv = (f"{axis.min():.0f} to {axis.max():.0f}" for axis in rows[:, :4].T)
    covers = f"chunks of {chunks} behind {contexts}, with {decodes} decodes of {kv}"
    found = _finding("attention, chunks", len(rows), covers, _fold_errors(rows, fit))
    return found._replace(multilinear_mean=_mean(_fold_errors(rows, plain)))


def _apart(rows: Floats, decodes: Floats) -> Finding:
    """Batches of equal prompt chunks."""
    table = DecodeTable.of_points(decodes.tolist())

    def fit(kept: Floats) -> Callable[[Floats], float]:
        model = KernelAttention(kept, table)
        return lambda row: model.at(_shape(row[1], row[2], 0, 0, int(row[0])))

    def plain(kept: Floats) -> Callable[[Floats], float]:
        grid = LogGrid(kept[:, :3], kept[:, 3], order=(1, 0, 2), is_logarithmic=False)
        return lambda row: grid.at(row[:3].tolist())

    counts, chunks = (f"{axis.min():.0f} to {axis.max():.0f}" for axis in rows[:, :2].T)
    found = _finding("attention, chunks", len(rows), f"{counts} chunks of {chunks}", _fold_errors(rows, fit))
    return found._replace(multilinear_mean=_mean(_fold_errors(rows, plain)))


def _shape(query: float, context: float, decodes: float, kv: float, chunks: int = 1) -> BatchShape:
    count, length = int(decodes), int(kv)
    longest = length if count else 0
    tokens = chunks * int(query) + count
    return BatchShape((Chunk(int(query), int(context)),) * chunks, count, count * length, longest, tokens)


def _fold_errors(rows: Floats, fit: Callable[[Floats], Callable[[Floats], float]]) -> list[float]:
    """Predict every tenth of the points, drawn at random, from the others; return relative errors."""
    fold = np.random.default_rng(0).integers(0, _FOLDS, len(rows))
    errors = []
    for number in range(_FOLDS):
        out = fold == number
        if out.any() and not out.all():
            at = fit(rows[~out])
            errors += [at(row) / row[-1] - 1 for row in rows[out]]
    return errors


def _neighbour_errors(points: Sequence[tuple[float, float]]) -> list[float]:
    """Predict every inner point of a line from the two beside it; return relative errors."""
    errors = []
    for (a, at_a), (b, at_b), (c, at_c) in zip(points, points[1:], points[2:], strict=False):
        errors.append((at_a + (at_c - at_a) * (b - a) / (c - a)) / at_b - 1)
    return errors


def _finding(operator: str, points: int, covers: str, errors: Sequence[float]) -> Finding:
    if not errors:
        return Finding(operator, points, covers)
    sizes = np.abs(errors)
    p95 = float(np.quantile(sizes, 0.95)) * 100
    return Finding(operator, points, covers, _mean(errors), p95, outliers=int((sizes > OUTLIER).sum()))


def _mean(errors: Iterable[float]) -> float | None:
    sizes = np.abs(list(errors))
    return float(sizes.mean()) * 100 if len(sizes) else None


def _peaks(
    subject: Subject, operator: Operator, points: Sequence[tuple[float, float]]
) -> tuple[float | None, float | None]:
    shares = [_shares(subject, operator, Work(int(n), int(n)), time_us) for n, time_us in points]
    return max(share for share, _ in shares), max(share for _, share in shares)


def _shares(subject: Subject, operator: Operator, work: Work, time_us: float) -> tuple[float, float]:
    """Percent of the device's peak FLOP/s and bandwidth that a measured time amounts to.

    Weights and caches have to come from memory, but for what the last-level cache may hold of them from one repetition
    of the measurement to the next. Activations do not count.
    """
    model, layout, device = subject
    cost = operator.cost(model, work, layout)
    read = cost.weight_bytes if operator.name != "attention" else cost.input_bytes
    nanoseconds = time_us * NS_PER_US
    flops, moved = cost.flops / nanoseconds * 1e9, max(0, read - device.l2_bytes) / nanoseconds * 1e9
    return 100 * flops / device.flops(operator.arithmetic(model)), 100 * moved / device.memory_bandwidth
