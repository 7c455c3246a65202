"""How far a calibrated roofline can be trusted: its error on a model that it was not fitted to.

Every model of some bundles is left out in turn. The roofline is fitted to what the others have and this one has not:
a point that a database serves to several models is left out with each of them. Then every point of the model is
predicted, and whole iterations are: the sum over the operators that its bundle measured, of as many blocks as it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.latency.bundle import BundleSource
from llmservingsim.latency.calibrated import CalibratedRoofline
from llmservingsim.latency.calibration import Calibration, Errors, Fit, calibrate
from llmservingsim.latency.demand import CHUNKS, DECODES
from llmservingsim.latency.measured import Bundle, Measured
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import ExpertLatencySource, ExpertWork, LatencySource
from llmservingsim.latency.tile_attention import ChunkRows, Heads
from llmservingsim.model import model_operators
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.units import NS_PER_MS, NS_PER_S

Floats = NDArray[np.float64]

DECODE = BatchShape((), 32, 32 * 1024, 1024, 32)
PREFILL = BatchShape((Chunk(2048, 0),), 0, 0, 0, 2048)


class ClassError(NamedTuple):
    """Of one class of operators of the model that was left out, in percent.

    Attributes:
        operator_class: Its name.
        calibrated: By the roofline fitted to the others; None where these did not measure the class.
        roofline: By the plain one, on the same points.
    """

    operator_class: str
    calibrated: Errors | None
    roofline: Errors


class IterationError(NamedTuple):
    """Of a whole iteration of the model that was left out.

    Attributes:
        tp: Tensor-parallel ranks.
        phase: ``decode`` or ``prefill``.
        measured_ms: By its bundle.
        calibrated_pct, roofline_pct: Signed errors of the two rooflines, in percent.
    """

    tp: int
    phase: str
    measured_ms: float
    calibrated_pct: float
    roofline_pct: float


class LeftOut(NamedTuple):
    """What is known of one model that was left out.

    Attributes:
        model: Its name.
        fitted_to: The others.
        classes: Errors by class of operators.
        iterations: Errors of whole iterations.
    """

    model: str
    fitted_to: list[str]
    classes: list[ClassError]
    iterations: list[IterationError]


def leave_out(measured: Measured, model: str) -> LeftOut:
    """Fit to all models but one, and predict that one.

    Raises:
        ProfileError: If the others measured nothing that this one has not.
    """
    others, own = measured.without(model), measured.of(model)
    calibration = calibrate(others)
    errors = calibration.errors(own)
    plain = _roofline_errors(own)
    classes = [ClassError(name, errors.get(name), error) for name, error in sorted(plain.items())]
    mine = sorted((b for b in measured.bundles if b.model.name == model), key=lambda bundle: bundle.layout.tp)
    iterations = [error for bundle in mine for error in _iterations(bundle, calibration, measured.accelerator)]
    return LeftOut(model, others.models, classes, iterations)


def _roofline_errors(own: Measured) -> dict[str, Errors]:
    """Compare what was measured with the plain roofline."""
    accelerator = own.accelerator
    efficiency = accelerator.efficiency
    found = {}
    for name, points in own.points.items():
        share = efficiency.attention if name == DECODES else efficiency.gemm
        longer = np.maximum(points.demand.compute_s / share, points.demand.memory_s / efficiency.memory)
        predicted = np.maximum(longer, accelerator.kernel_launch_ns / NS_PER_S)
        found[name] = Errors.between(predicted, points.seconds)
    if own.chunks:
        seconds = np.concatenate([table.seconds for table in own.chunks])
        found[CHUNKS] = Errors.between(np.concatenate([_roofline_s(table, own) for table in own.chunks]), seconds)
    return found


def _roofline_s(table: ChunkRows, own: Measured) -> Floats:
    """Times of batches with prompt chunks by the plain roofline."""
    bundle = next(bundle for bundle in own.bundles if Heads.of(bundle.model, bundle.layout) == table.heads)
    roofline = RooflineSource(bundle.model, bundle.layout, own.accelerator)
    shapes = [_batch(row, is_mixed=table.is_mixed) for row in table.rows.tolist()]
    return np.array([roofline.latency_ns("attention", shape) for shape in shapes]) / NS_PER_S


def _batch(row: Sequence[float], *, is_mixed: bool) -> BatchShape:
    """Return the batch of a measured row."""
    if not is_mixed:
        count, query, context = (int(value) for value in row[:3])
        return BatchShape((Chunk(query, context),) * count, 0, 0, 0, count * query)
    query, context, decodes, kv = (int(value) for value in row[:4])
    return BatchShape((Chunk(query, context),), decodes, decodes * kv, kv if decodes else 0, query + decodes)


def _iterations(bundle: Bundle, calibration: Calibration, accelerator: AcceleratorSpec) -> list[IterationError]:
    model, layout = bundle.model, bundle.layout
    measured = BundleSource(
        bundle.folder, experts_per_token=model.experts_per_token, expert_slices=layout.expert_slices
    )
    calibrated = CalibratedRoofline(model, layout, accelerator, Fit((), calibration, {}))
    roofline = RooflineSource(model, layout, accelerator)
    operators = Counter(op.name for op in model_operators(model) if op.name not in bundle.computed)
    operators = Counter({name: count for name, count in operators.items() if measured.holds(name)})
    errors = []
    for phase, shape in (("decode", DECODE), ("prefill", PREFILL)):
        truth, *told = (_iteration_ns(source, model, operators, shape) for source in (measured, calibrated, roofline))
        ours, plain = (100 * (ns / truth - 1) for ns in told)
        errors.append(IterationError(layout.tp, phase, truth / NS_PER_MS, ours, plain))
    return errors


def _iteration_ns(source: LatencySource, model: ModelSpec, operators: Mapping[str, int], shape: BatchShape) -> int:
    """Sum of so many operators; of experts, each token visits those that come next."""
    total = sum(count * source.latency_ns(name, shape) for name, count in operators.items() if name != "moe")
    if blocks := operators.get("moe", 0):
        assert isinstance(source, ExpertLatencySource)
        tokens = shape.num_tokens
        pairs = np.array([[float(tokens * model.experts_per_token)]])
        work = ExpertWork(tokens, tokens, pairs, np.minimum(pairs, model.num_experts))
        total += blocks * int(source.moe_latency_ns(work)[0, 0])
    return total
