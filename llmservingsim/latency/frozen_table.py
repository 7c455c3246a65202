"""A user's table of operator times as what a bundle is written from: sampled at its own points."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config import OperatorTableSpec
from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.latency.freeze import MeasuredOperators
from llmservingsim.latency.operator_table import OperatorTableSource
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import ExpertWork
from llmservingsim.model import ONE_RANK, ParallelLayout
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.units import NS_PER_US

Floats = NDArray[np.float64]

_COUNTS = tuple(2**i for i in range(9))
_KV = tuple(4**i for i in range(2, 8))
_CHUNKS = tuple(2**i for i in range(4, 12))
_CONTEXTS = (0, 512, 2048, 8192)
"""Where attention is sampled whose time the table does not say, or says for one number of sequences only."""
_ENDS = (1, 16384)
_NOTHING_US = 1e-4
"""An operator that takes no time, because a neighbour's rows hold it: less than a bundle resolves, and not 0."""


def freeze_table(
    path: Path, spec: OperatorTableSpec, model: ModelSpec, layout: ParallelLayout, accelerator: AcceleratorSpec
) -> MeasuredOperators:
    """Return what a table says of one rank, and the roofline of what it does not say.

    Args:
        path: Of the table.
        spec: What its rows and columns mean.
        model: Whose operators they are.
        layout: How it is cut.
        accelerator: For the roofline.

    Raises:
        UserError: As `OperatorTableSource`; or the table was made for another number of ranks.
    """
    roofline = RooflineSource(model, layout, accelerator)
    table = OperatorTableSource(path, spec.for_ranks(layout.tp), model, roofline)
    points = {
        name: (sizes, [_us(table, name, BatchShape((), n, n, 1, n)) for n in sizes])
        for name, measured in table.sizes().items()
        for sizes in (measured or _ENDS,)
    }
    origin = {
        "source": f"table {path.name}",
        "attention_from_roofline": [half for half in table.missing if half.startswith("attention of")],
    }
    experts = _experts(RooflineSource(model, ONE_RANK, accelerator), model) if model.num_experts else None
    return MeasuredOperators(model, layout, origin, points, _prefills(table), _decodes(table), experts)


def _us(table: OperatorTableSource, operator: str, shape: BatchShape) -> float:
    return table.latency_ns(operator, shape) / NS_PER_US or _NOTHING_US


def _prefills(table: OperatorTableSource) -> Floats:
    chunks = table.chunk_points() or list(product(_CHUNKS, _CONTEXTS))
    return np.array(
        [(1, q, c, _us(table, "attention", BatchShape((Chunk(q, c),), 0, 0, 0, q))) for q, c in chunks], dtype=float
    )


def _decodes(table: OperatorTableSource) -> Floats:
    points = table.decode_points()
    if len({count for count, _ in points}) == 1:  # there the keys alone count
        points = sorted({(n, max(1, round(count * kv / n))) for n in _COUNTS for count, kv in points})
    points = points or list(product(_COUNTS, _KV))
    return np.array(
        [(n, kv, _us(table, "attention", BatchShape((), n, n * kv, kv, n))) for n, kv in points], dtype=float
    )


def _experts(roofline: RooflineSource, model: ModelSpec) -> Floats:
    """Times over (tokens, activated experts) of whole experts."""
    most, per_token = model.num_experts, model.experts_per_token
    found = []
    for experts in sorted({most, *(2**i for i in range(most.bit_length()) if per_token <= 2**i < most)}):
        for tokens in (2**i for i in range(15)):
            if tokens * per_token >= experts:
                counts = np.array([[float(tokens * per_token)]]), np.array([[float(experts)]])
                time_ns = roofline.moe_latency_ns(ExpertWork(tokens, tokens, *counts))
                found.append((tokens, experts, time_ns.item() / NS_PER_US))
    return np.array(found, dtype=float)
