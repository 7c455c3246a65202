"""Operator latencies of a model that nobody profiled, on a device that somebody profiled for another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.config.catalog.model import LAYER_TYPES
from llmservingsim.latency.calibration import Fit
from llmservingsim.latency.demand import CHUNKS, DECODES, EXPERTS, Demands, class_of
from llmservingsim.latency.measured import Measured, find_bundles
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import ExpertWork, Grade
from llmservingsim.latency.tile_attention import Heads
from llmservingsim.model import (
    EH_PROJ,
    IndexedBy,
    Operator,
    OperatorKind,
    ParallelLayout,
    Work,
    kv_dtype_bytes,
    model_operators,
)
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.units import NS_PER_S

_KEPT_FITS = 32


class CalibratedRoofline:
    """Times one rank by a roofline fitted to bundles of the same device.

    What no bundle measured comes from the plain roofline, as does attention over a latent vector.

    Args:
        model: What is computed.
        layout: How it is cut over ranks.
        accelerator: What it runs on.
        fit: Of that device.
        kv_cache_dtype: Of cached keys and values, ``auto`` for the model's.
    """

    def __init__(
        self,
        model: ModelSpec,
        layout: ParallelLayout,
        accelerator: AcceleratorSpec,
        fit: Fit,
        kv_cache_dtype: str = "auto",
    ) -> None:
        self._fit, self._calibration = fit, fit.calibration
        self._demands = Demands(model, layout, accelerator)
        self._heads = {} if model.is_mla else {name: Heads.of(model, layout, name) for name in LAYER_TYPES.values()}
        self._kv_bytes = kv_dtype_bytes(model, kv_cache_dtype)
        self._roofline = RooflineSource(model, layout, accelerator, kv_cache_dtype)
        self._operators: dict[str, Operator] = {op.name: op for op in (*model_operators(model), EH_PROJ)}

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the operator's time: by the calibrated roofline, or by the plain one where nothing was measured."""
        known = self._operators.get(operator)
        if known is None or not self._times(known):
            return self._roofline.latency_ns(operator, shape)
        if known.kind is OperatorKind.ATTENTION:
            return round(self._attention_s(known, shape) * NS_PER_S)
        size = shape.num_sequences if known.indexed_by is IndexedBy.SEQUENCES else shape.num_tokens
        if not size:
            return 0
        demand = self._demands.of(known, Work(size, size))
        return round(float(self._calibration.seconds(class_of(known), demand)) * NS_PER_S)

    def graded_ns(self, operator: str, shape: BatchShape) -> tuple[int, Grade]:
        """Return the same, and whether measurements of other models are behind it."""
        known = self._operators.get(operator)
        grade = Grade.CALIBRATED if known is not None and self._times(known) else Grade.ROOFLINE
        return self.latency_ns(operator, shape), grade

    def graded_moe_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], Grade]:
        """Return what `moe_latency_ns` does, and whether measurements of other models are behind it."""
        grade = Grade.CALIBRATED if self._calibration.knows(EXPERTS) else Grade.ROOFLINE
        return self.moe_latency_ns(work), grade

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return the time of ``moe``; where no experts were measured, they take what products of their size would."""
        if not self._calibration.knows(EXPERTS):
            return self._roofline.moe_latency_ns(work)
        seconds = self._calibration.seconds(EXPERTS, self._demands.of_experts(self._operators["moe"], work))
        return np.rint(seconds * NS_PER_S).astype(np.int64)

    def provenance(self) -> dict[str, object]:
        """Name the bundles, the fitted figures, how far these are off by class, and what stayed plain roofline."""
        used = [operator for operator in self._operators.values() if operator is not EH_PROJ]
        classes = {class_of(operator) for operator in used} | {CHUNKS}
        figures = self._calibration.named_figures()
        return {
            "source": "calibrated",
            "is_measured": False,
            "accelerator": self._demands.accelerator.name,
            "bundles": [str(bundle.folder) for bundle in self._fit.bundles],
            "fitted_to": sorted({bundle.model.name for bundle in self._fit.bundles}),
            "figures": {
                name: {key: float(f"{value:.4g}") for key, value in of.items()} for name, of in sorted(figures.items())
            },
            "fit_error_pct": {
                name: {"mean": round(error.mean, 2), "p95": round(error.p95, 2), "points": error.points}
                for name, error in sorted(self._fit.errors.items())
                if name in classes
            },
            "experts_timed_as_products": EXPERTS in classes and EXPERTS not in figures,
            "roofline_operators": sorted({operator.name for operator in used if not self._times(operator)}),
        }

    def _times(self, operator: Operator) -> bool:
        """Whether the calibrated roofline times an operator."""
        if operator.name == "linear_attention":
            return False
        if operator.kind is not OperatorKind.ATTENTION:
            return self._calibration.knows(class_of(operator))
        return bool(self._heads) and self._calibration.chunks is not None and self._calibration.knows(DECODES)

    def _attention_s(self, attention: Operator, shape: BatchShape) -> float:
        """Chunks and decodes in one kernel or one after the other; a verification of drafts takes that of chunks."""
        chunks = self._calibration.chunks
        assert chunks is not None
        heads = self._heads[attention.name]
        decodes = self._decodes_s(attention, shape)
        if shape.prefills:
            beside = chunks.seconds(heads, shape)
            return beside + decodes if chunks.has_own_kernel else max(beside, decodes)
        if not shape.draft_pairs:
            return decodes
        count = shape.num_decodes
        rows = -(-shape.draft_pairs // shape.decode_kv_tokens) + 1
        verified = (Chunk(rows, max(0, shape.decode_kv_tokens // count - rows)),) * count
        return max(decodes, chunks.seconds(heads, BatchShape(verified, 0, 0, 0, count * rows)))

    def _decodes_s(self, attention: Operator, shape: BatchShape) -> float:
        count, keys = shape.num_decodes, shape.decode_kv_tokens
        if not count:
            return 0.0
        window = self._demands.model.window_of(attention.name)
        seen = keys if window is None else min(keys, count * window)
        demand = self._demands.of(attention, Work(count, count, seen, seen, kv_element_bytes=self._kv_bytes))
        return float(self._calibration.seconds(DECODES, demand))


def fitted(
    roots: Sequence[Path], hardware: str, variant: str, models: Sequence[Path], accelerator: AcceleratorSpec
) -> Fit:
    """Return what the bundles of a device were found to say; kept as long as the process lives.

    Args:
        roots: Profile directories.
        hardware: Name of the device's folder there.
        variant: Bundles of this precision alone are taken if there are any, else all.
        models: Directories of model files, beside the catalogue.
        accelerator: The device.

    Raises:
        ProfileError: If there is no bundle of the device, or one is malformed.
    """
    return _fitted(tuple(roots), hardware, variant, tuple(models), msgspec.json.encode(accelerator))


@lru_cache(maxsize=_KEPT_FITS)
def _fitted(roots: tuple[Path, ...], hardware: str, variant: str, models: tuple[Path, ...], accelerator: bytes) -> Fit:
    bundles = find_bundles(roots, hardware, models)
    alike = [bundle for bundle in bundles if bundle.variant == variant]
    return Fit.to(Measured.read(alike or bundles, msgspec.json.decode(accelerator, type=AcceleratorSpec)))
