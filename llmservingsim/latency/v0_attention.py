"""Attention of older profile bundles, whose GPU kernel runs a tile per sequence and query head for decodes too.

The rows show which kernel it is. A single decode of L keys costs ``a + tau * L`` with the ``tau`` of a 32-token chunk
that sees L keys: one tile walks the whole context, nothing is split. And where the device is full, a key costs twice
as much with twice the query heads over the same key/value heads (Llama-3.1-70B and Mixtral on four H100): query heads
that share keys are not packed into one tile. Therefore:

* A *mixed* batch runs in just such a kernel (docs/decisions/0003). Its tiles fill the device together, so its parts
  add up; only the launch, which each part holds, counts once.
* A *pure decode* batch runs in the packed kernel of the serving engine: ``n`` sequences launch as many tiles as
  ``n / group`` measured ones of the same context, ``group`` the query heads per key/value head. It takes as long as
  those, but at least as long as memory needs to deliver its keys and values, and, from the number of sequences on at
  which FlashAttention 2 no longer splits contexts, at least what its longest context takes alone (docs/decisions/0004).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from statistics import median
from typing import NamedTuple

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.latency.tables import DecodeTable, LinearTable
from llmservingsim.latency.v0_files import AttentionRows, Points
from llmservingsim.model import ParallelLayout, kv_bytes_per_token_layer
from llmservingsim.model.weights import kv_heads_per_rank
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.units import NS_PER_S

_FAR_KEYS = 256
_UNSPLIT_TILES_PER_UNIT = 1.6
"""FlashAttention 2, ``num_splits_heuristic``: 80 % of two tiles per multiprocessor."""


def decode_table(points: Points) -> DecodeTable:
    """Return decode batches over (sequences, keys of each), linear in both.

    Large batches were measured over short contexts only. Beyond its last point a batch goes on with its own slope if
    that point lies at four tiles of keys or more, and else with what a key costs where the device is full: the median
    over the larger half of the batch sizes that were measured so far.
    """
    rows = {n: (sorted(times), [times[keys] for keys in sorted(times)]) for n, times in points.items()}
    far = [n for n in sorted(points) if max(points[n]) >= _FAR_KEYS] or [min(points)]
    per_key = median(_slope(points[n]) / n for n in far[len(far) // 2 :])
    return DecodeTable(rows, {n: n * per_key for n in points if n not in far})


class PrefillTable:
    """Prompt chunks over (chunk, context): linear in context, with a slope that is linear in the chunk.

    Between two measured chunks the time is linear. Beyond the last it grows as that of whole prompts does, where
    ``layers.csv`` has it in its ``attn`` rows, and with the square of the chunk beyond these.

    Args:
        points: Time by chunk and context.
        whole: Time of prompts without context by tokens, may be empty.
    """

    def __init__(self, points: Points, whole: Mapping[int, float]) -> None:
        self._chunks = sorted(points)
        self._tables = []
        self._per_pair = 0.0
        for chunk in self._chunks:
            times = points[chunk]
            if len(times) > 1:
                self._per_pair = max(0.0, _slope(times)) / chunk
            contexts = sorted(times)
            self._tables.append(LinearTable(contexts, [times[c] for c in contexts], self._per_pair * chunk))
        self._whole = LinearTable(sorted(whole), [whole[tokens] for tokens in sorted(whole)]) if whole else None

    def covers(self, chunk: Chunk) -> bool:
        """Whether the chunk lies within the measured grid."""
        size, context = chunk
        if not self._chunks[0] <= size <= self._chunks[-1]:
            return False
        return self._tables[bisect_left(self._chunks, size)].covers(context)

    def at(self, chunk: Chunk) -> float:
        """Return the time of a chunk."""
        size, context = chunk
        chunks, tables = self._chunks, self._tables
        high = bisect_left(chunks, size)
        if high == len(chunks):
            return tables[-1].at(0) * self._growth(size) + self._per_pair * size * context
        above = tables[high].at(context)
        if high == 0:
            return above
        below = tables[high - 1].at(context)
        return below + (size - chunks[high - 1]) / (chunks[high] - chunks[high - 1]) * (above - below)

    def _growth(self, size: int) -> float:
        """Time of a whole prompt of ``size`` tokens over that of the largest measured chunk."""
        largest, reached, growth = self._chunks[-1], float(self._chunks[-1]), 1.0
        if self._whole is not None and self._whole.last > largest:
            reached = min(size, self._whole.last)
            growth = max(1.0, self._whole.at(reached) / self._whole.at(largest))
        return growth * (size / reached) ** 2


def _slope(points: Mapping[int, float]) -> float:
    """Time per key over the farther half of the measured contexts, 0 for a single one."""
    last = max(points)
    half = min(points, key=lambda keys: abs(keys - last / 2))
    return (points[last] - points[half]) / (last - half) if last > half else 0.0


class DecodeKernel(NamedTuple):
    """How the serving engine's decode kernel differs from the measured one.

    Attributes:
        group: Query heads that share a tile there and have one each here; 1 if the measured kernel is the engine's.
        unsplit_from: Sequences from which on contexts are not split over several tiles; 0 if they never are.
        ns_per_key: Least time per key of context: its bytes over the memory bandwidth.
    """

    group: int
    unsplit_from: int
    ns_per_key: float

    @classmethod
    def of(cls, form: str, model: ModelSpec, layout: ParallelLayout, accelerator: AcceleratorSpec) -> DecodeKernel:
        """Describe the kernel for a model; the TPU form measures the engine's own."""
        bandwidth = accelerator.memory_bandwidth * accelerator.efficiency.memory
        ns_per_key = kv_bytes_per_token_layer(model, layout.tp) / bandwidth * NS_PER_S
        if form == "tpu":
            return cls(1, 0, ns_per_key)
        kv_heads = kv_heads_per_rank(model, layout.tp)
        group = max(1, model.num_heads // layout.tp // kv_heads)
        unsplit_from = math.ceil(_UNSPLIT_TILES_PER_UNIT * accelerator.num_compute_units / kv_heads)
        return cls(group, unsplit_from, ns_per_key)


class OlderAttention:
    """Attention of any batch, in ns.

    Args:
        rows: What was measured.
        whole: Time of prompts without context by tokens, may be empty.
        kernel: The engine's decode kernel.
        bounded: Whether the longest context sets a lower bound to a decode batch.
    """

    def __init__(self, rows: AttentionRows, whole: Mapping[int, float], kernel: DecodeKernel, *, bounded: bool) -> None:
        self._decode = decode_table(rows.decode)
        self._prefill = PrefillTable(rows.prefill, whole)
        self._kernel = kernel
        self._bounded = bounded
        shapes = (rows.decode, rows.prefill)
        self._launch = min(time for points in shapes for times in points.values() for time in times.values())

    @property
    def description(self) -> str:
        """What is assumed about the kernels."""
        kernel = self._kernel
        bound = f"; at least the longest context from {kernel.unsplit_from} sequences on" if self._bounded else ""
        return f"decodes: {kernel.group} query heads per tile{bound}; mixed batches: the sum of their parts, one launch"

    def covers(self, shape: BatchShape) -> bool:
        """Whether every part of the batch lies within the measured grid."""
        count = shape.num_decodes / (1 if shape.prefills or shape.draft_pairs else self._kernel.group)
        is_measured = not count or self._decode.covers(max(1.0, count), shape.decode_kv_tokens / shape.num_decodes)
        return is_measured and all(self._prefill.covers(chunk) for chunk in shape.prefills)

    def at(self, shape: BatchShape) -> float:
        """Return the time of a batch, 0 for an empty one."""
        count = shape.num_decodes
        if not shape.prefills:
            return self._decode_batch(shape) if count else 0.0
        parts = [self._prefill.at(chunk) for chunk in shape.prefills]
        if count:
            parts.append(self._decode.at(count, shape.decode_kv_tokens / count))
        return sum(parts) - (len(parts) - 1) * self._launch

    def _decode_batch(self, shape: BatchShape) -> float:
        kernel, count = self._kernel, shape.num_decodes
        if shape.draft_pairs:  # several queries per sequence run in the kernel that was measured, one tile per head
            kernel = kernel._replace(group=1, unsplit_from=1)
        walked = self._decode.at(count / kernel.group, shape.decode_kv_tokens / count)
        read = kernel.ns_per_key * shape.decode_kv_tokens
        longest = 0.0
        if self._bounded and count >= kernel.unsplit_from:
            longest = self._decode.at(1, shape.max_decode_kv_tokens)
        return max(walked, read, longest)
