"""Which shot to measure next: where interpolation is worst.

The error at a measured point is how far the tables would be off without it: along a line, what its two neighbours say
of it by linear interpolation; in attention with chunks, what the reader's own model says when fitted to the other
points, a fold of them left out at a time. What noise explains (twice the standard errors) does not count. An error
weighs as much as its operators do in a step of that batch: 10 % of what takes a tenth of a step counts 1 %.

Between the worst point and its farthest neighbour, in the logarithm, lies the next shot. A line of piecewise smooth
parts is thus measured densely where it bends. Distance between neighbours is not what a table is read at: between
points at distance h linear interpolation is off by about a quarter of what leaving one out (distance 2 h) says, so
the error that is reached is stated with room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.latency.kernel_attention import KernelAttention
from llmservingsim.latency.tables import DecodeTable, LinearTable
from llmservingsim.latency.varlen_attention import VarlenAttention
from llmservingsim.profiler.journal import Entry, Journal
from llmservingsim.profiler.passes import calls
from llmservingsim.profiler.shots import Shot, Table
from llmservingsim.shapes import BatchShape, Chunk

LINES = (Table.DENSE, Table.PER_SEQUENCE, Table.DECODE, Table.MOE)
"""Tables that the reader interpolates linearly along each coordinate."""

_FOLDS = 8
_CLOSE = 1.15
"""Neighbours within this ratio are not parted: what differs between them is hardly noise and hardly matters."""

_NOISE_SHARE = 2.0


class Doubt(NamedTuple):
    """How far off the tables may be at a measured point.

    Attributes:
        error: Weighted and relative, noise taken off.
        shot: The point.
        next: What to measure to lessen it; None where its neighbours are close already.
    """

    error: float
    shot: Shot
    next: Shot | None


def doubts(journal: Journal, model: ModelSpec) -> list[Doubt]:
    """Return the doubts about all points that have neighbours, the largest first."""
    weigh = _Weights(journal, model)
    found = [doubt for table in LINES for doubt in _line_doubts(journal.of(table), weigh)]
    chunks = journal.of(Table.MIXED) or journal.of(Table.PREFILL)
    found += _fit_doubts(chunks, journal.of(Table.DECODE), weigh)
    return sorted(found, key=lambda doubt: -doubt.error)


class _Weights:
    """How much of a step an operator is, from what has been measured of dense operators."""

    def __init__(self, journal: Journal, model: ModelSpec) -> None:
        self.calls = calls(model)
        dense = journal.of(Table.DENSE)
        self._dense = LinearTable(*_line(dense, self.time_us)) if dense else None

    def time_us(self, entry: Entry) -> float:
        """What the entry's operators take in a step."""
        return sum(self.calls[name] * samples.median for name, samples in entry.operators.items())

    def share(self, entry: Entry) -> float:
        """The same, relative to a step of so many tokens."""
        own = self.time_us(entry)
        if entry.shot.table is Table.DENSE or self._dense is None:
            return 1.0
        return own / (own + self._dense.at(entry.shot.tokens))


def _line(
    entries: Sequence[Entry], time_us: Callable[[Entry], float], axis: int = 0
) -> tuple[list[float], list[float]]:
    return [entry.shot.at[axis] for entry in entries], [time_us(entry) for entry in entries]


def _line_doubts(entries: Sequence[Entry], weights: _Weights) -> Iterator[Doubt]:
    """Every point that has neighbours on both sides along some axis, judged by the worst of these."""
    worst: dict[Shot, float] = {}
    neighbours: dict[Shot, list[Shot]] = {}
    measured = {entry.shot: entry for entry in entries}
    for line, axis in _lines(entries):
        for below, entry, above in zip([None, *line], line, [*line[1:], None], strict=False):
            beside = [other for other in (below, above) if other is not None]
            neighbours.setdefault(entry.shot, []).extend(other.shot for other in beside)
            if below is not None and above is not None:
                off = _off(below, entry, above, axis, weights.calls)
                worst[entry.shot] = max(worst.get(entry.shot, 0.0), off)
    for shot, error in worst.items():
        yield Doubt(error * weights.share(measured[shot]), shot, _between(shot, neighbours[shot], measured))


def _lines(entries: Sequence[Entry]) -> Iterator[tuple[list[Entry], int]]:
    """Points that differ in one coordinate only, rising, with that coordinate."""
    axes = len(entries[0].shot.at) if entries else 0
    for axis in range(axes):
        lines: dict[tuple[int, ...], list[Entry]] = {}
        for entry in entries:
            at = entry.shot.at
            lines.setdefault((*at[:axis], *at[axis + 1 :]), []).append(entry)
        for line in lines.values():
            yield sorted(line, key=lambda entry: entry.shot.at[axis]), axis


def _off(below: Entry, entry: Entry, above: Entry, axis: int, weights: Mapping[str, int]) -> float:
    """Relative error of predicting an entry from its neighbours, over its operators; what noise explains taken off."""
    a, b, c = (each.shot.at[axis] for each in (below, entry, above))
    share = (b - a) / (c - a)
    errors = total = 0.0
    for name, samples in entry.operators.items():
        low, high = below.operators[name], above.operators[name]
        predicted = low.median + share * (high.median - low.median)
        noise = samples.noise * samples.median + (1 - share) * low.noise * low.median + share * high.noise * high.median
        off = max(0.0, abs(predicted - samples.median) - _NOISE_SHARE * noise)
        errors += weights[name] * off
        total += weights[name] * samples.median
    return errors / total if total else 0.0


def _between(shot: Shot, neighbours: Iterable[Shot], measured: Mapping[Shot, Entry]) -> Shot | None:
    """The middle, in the logarithm, of the widest gap beside a shot that is not measured yet."""
    gaps = sorted(neighbours, key=lambda other: _ratio(shot, other), reverse=True)
    for other in gaps:
        middle = Shot(shot.table, tuple(_middle(a, b) for a, b in zip(shot.at, other.at, strict=True)))
        if _ratio(shot, other) > _CLOSE and middle not in measured and middle not in (shot, other):
            return middle
    return None


def _ratio(one: Shot, other: Shot) -> float:
    """How far two shots are apart, along the axis in which they differ."""
    return max(max(a, b, 1) / max(1, min(a, b)) for a, b in zip(one.at, other.at, strict=True))


def _middle(a: int, b: int) -> int:
    return a if a == b else round((max(a, 1) * max(b, 1)) ** 0.5)


def _fit_doubts(entries: Sequence[Entry], decodes: Sequence[Entry], weights: _Weights) -> Iterator[Doubt]:
    """Points of a table whose reader fits a model: those of one fold are predicted from all others."""
    if len(entries) < _FOLDS or not decodes:
        return
    measured = {entry.shot: entry for entry in entries}
    neighbours: dict[Shot, list[Shot]] = {}
    for line, _ in _lines(entries):
        for below, above in pairwise(line):
            neighbours.setdefault(below.shot, []).append(above.shot)
            neighbours.setdefault(above.shot, []).append(below.shot)
    for fold in range(_FOLDS):
        kept = [entry for index, entry in enumerate(entries) if index % _FOLDS != fold]
        predict = _fitted(kept, decodes)
        for entry in entries[fold::_FOLDS]:
            samples = entry.operators["attention"]
            off = abs(predict(entry.shot) / samples.median - 1) - _NOISE_SHARE * samples.noise
            nearby = [shot for shot in neighbours.get(entry.shot, []) if _helps(entry.shot, shot)]
            yield Doubt(max(0.0, off) * weights.share(entry), entry.shot, _between(entry.shot, nearby, measured))


def _helps(shot: Shot, other: Shot) -> bool:
    """Chunks apart from decodes are interpolated over their number and size; contexts only enter the fit."""
    return shot.table is not Table.PREFILL or (shot.at[2] == other.at[2] == 0)


def _fitted(entries: Sequence[Entry], decodes: Sequence[Entry]) -> Callable[[Shot], float]:
    rows = np.array([(*entry.shot.at, entry.us("attention")) for entry in entries], float)
    if entries[0].shot.table is Table.MIXED:
        varlen = VarlenAttention(rows)
        return lambda shot: varlen.at(_shape(*shot.at))
    table = DecodeTable.of_points((*entry.shot.at, entry.us("attention")) for entry in decodes)  # type: ignore[misc]
    apart = KernelAttention(rows, table)
    return lambda shot: apart.at(_shape(shot.at[1], shot.at[2], 0, 0, shot.at[0]))


def _shape(chunk: int, context: int, decodes: int, kv: int, chunks: int = 1) -> BatchShape:
    return BatchShape((Chunk(chunk, context),) * chunks, decodes, decodes * kv, kv, chunks * chunk + decodes)
