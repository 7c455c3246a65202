"""Which shots a bundle needs at least: a coarse grid per table, spread evenly over logarithms up to the limits.

Each table begins with its corners, so that whatever is measured later lies between measured points.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ProfileError
from llmservingsim.profiler.shots import Shot, Table

STEP_KV = 256
"""KV length of the decodes in whole steps: long enough to be usual, short enough to leave the host visible."""

_SHORTEST_KV = 16
_SHORTEST_CHUNK = 16
_COARSE = 4
_COARSER = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest batches that the engine will run, under vLLM's names.

    Attributes:
        max_num_seqs: Most sequences of a batch.
        max_num_batched_tokens: Most new tokens of a batch.
        max_model_len: Longest sequence.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int

    def __post_init__(self) -> None:
        least = {"max_num_seqs": 1, "max_num_batched_tokens": 32, "max_model_len": 32}
        for name, value in least.items():
            if getattr(self, name) < value:
                option = name.replace("_", "-")
                raise ProfileError(f"--{option}: expected at least {value}, got {getattr(self, name)}")


def coarse_plan(model: ModelSpec, limits: Limits, *, is_additive: bool, with_experts: bool) -> list[Shot]:
    """Return the shots of the coarse grid, the indispensable ones first.

    Args:
        model: What is computed.
        limits: How far the grids reach.
        is_additive: Chunks and decodes of a batch run one after another, so that mixed batches say nothing new.
        with_experts: Whether the experts of a mixture are measured (in the folder of the first degree only).
    """
    tables: list[list[Shot]] = [
        [Shot(Table.DENSE, (n,)) for n in _from_one(limits.max_num_batched_tokens)],
        [Shot(Table.PER_SEQUENCE, (n,)) for n in _from_one(limits.max_num_seqs)],
        _decodes(limits),
        _prefills(limits),
    ]
    if not is_additive:
        tables += [_mixed(limits), _skewed(limits)]
    if with_experts and model.num_experts:
        tables.append(_experts(model, limits))
    tables.append([Shot(Table.STEP, (n, min(STEP_KV, limits.max_model_len))) for n in _counts(limits)])
    return list(dict.fromkeys(_in_turn(tables)))


def spread(low: int, high: int, factor: int = _COARSE) -> list[int]:
    """Return ``low``, its multiples by ``factor`` and ``high``; where a multiple comes close to ``high``, only that."""
    sizes = itertools.takewhile(lambda size: size * factor / 2 <= high, (low * factor**i for i in itertools.count()))
    return sorted({*(size for size in sizes if size < high), high})


def corners_first(sizes: Iterable[int]) -> list[int]:
    """Order sizes so that the outermost come first and the others halve what is left."""
    left = sorted(set(sizes))
    ends = [left[0], left[-1]] if len(left) > 1 else left
    return ends + _halving(left[1:-1])


def _halving(sizes: Sequence[int]) -> list[int]:
    if not sizes:
        return []
    middle = len(sizes) // 2
    return [sizes[middle], *_halving(sizes[:middle]), *_halving(sizes[middle + 1 :])]


def _in_turn(tables: Sequence[Sequence[Shot]]) -> Iterator[Shot]:
    """One shot of each table after another, so that all are usable early."""
    for row in itertools.zip_longest(*tables):
        yield from (shot for shot in row if shot is not None)


def _from_one(most: int) -> list[int]:
    """Sizes from 1, and 2: a product with one row often has a kernel of its own."""
    return corners_first({1, min(2, most), *spread(min(4, most), most)})


def _counts(limits: Limits) -> list[int]:
    return corners_first(spread(1, limits.max_num_seqs))


def _grid(table: Table, *axes: Sequence[int], fits: Callable[..., bool]) -> list[Shot]:
    """Corners of all axes first: places are ordered by the sum of their ranks."""
    ranked = [list(enumerate(corners_first(axis))) for axis in axes]
    places = sorted(itertools.product(*ranked), key=lambda place: sum(rank > 1 for rank, _ in place))
    shots = (tuple(value for _, value in place) for place in places)
    return [Shot(table, at) for at in shots if fits(*at)]


def _decodes(limits: Limits) -> list[Shot]:
    lengths = spread(min(_SHORTEST_KV, limits.max_model_len // 2), limits.max_model_len)
    return _grid(Table.DECODE, _counts(limits), lengths, fits=lambda *_: True)


def _prefills(limits: Limits) -> list[Shot]:
    """Equal chunks alone, then one chunk behind contexts: the reader's model needs both to tell their costs apart."""
    longest = min(limits.max_num_batched_tokens, limits.max_model_len)
    chunks = spread(_SHORTEST_CHUNK, longest)
    behind = [longest, *chunks[1:-1:2], chunks[0]]
    shots = [Shot(Table.PREFILL, (1, chunk, 0)) for chunk in corners_first(chunks)]
    for share in (2, 8):
        contexts = ((chunk, (limits.max_model_len - chunk) // share) for chunk in behind)
        shots += [Shot(Table.PREFILL, (1, chunk, context)) for chunk, context in contexts if context >= _SHORTEST_KV]
    several = [(count, chunk) for count in (2, 8) for chunk in chunks[1:-1:2] or chunks[:1]]
    return shots + [
        Shot(Table.PREFILL, (count, chunk, 0))
        for count, chunk in several
        if count * chunk <= limits.max_num_batched_tokens and count <= limits.max_num_seqs
    ]


def _mixed(limits: Limits) -> list[Shot]:
    """One chunk beside equal decodes, and chunks alone."""
    tokens, length = limits.max_num_batched_tokens, limits.max_model_len
    chunks = spread(_SHORTEST_CHUNK, min(tokens, length), _COARSER)
    contexts = [0, *spread(_SHORTEST_KV, length, 2 * _COARSER)]
    decodes = [0, *spread(1, limits.max_num_seqs, _COARSER)]
    lengths = spread(_SHORTEST_KV, length, 2 * _COARSER)

    def fits(chunk: int, context: int, count: int, kv: int) -> bool:
        alone_once = count > 0 or kv == 0
        return alone_once and chunk + count <= tokens and chunk + context <= length

    alone = _grid(Table.MIXED, chunks, contexts, [0], [0], fits=fits)
    return alone + _grid(Table.MIXED, chunks, contexts, decodes[1:], lengths, fits=fits)


def _skewed(limits: Limits) -> list[Shot]:
    """Decodes of which one is long."""
    short = max(1, limits.max_model_len // 32)
    long = [short * factor for factor in (4, 16, 32)]
    return [Shot(Table.SKEW, (n, 1, kv, short)) for n in spread(2, limits.max_num_seqs) if n > 1 for kv in long]


def _experts(model: ModelSpec, limits: Limits) -> list[Shot]:
    """Tokens, and distinct experts among which they are spread: at least as many as a token visits."""
    visited = model.experts_per_token
    activated = spread(visited, model.num_experts)
    tokens = [1, *spread(4, limits.max_num_batched_tokens)]
    return _grid(Table.MOE, activated, tokens, fits=lambda experts, count: experts <= count * visited)
