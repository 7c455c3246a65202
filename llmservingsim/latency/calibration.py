"""A roofline whose efficiencies are those that bundles of the same device show.

Each class of operators has a formula (`llmservingsim.latency.forms`) over what an operator asks of the device
(`llmservingsim.latency.demand`); its figures are fitted to the points of all bundles, in relative error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec
from llmservingsim.errors import ProfileError
from llmservingsim.latency.demand import CHUNKS, EXPERTS, HEAD, PRODUCTS, Demand
from llmservingsim.latency.forms import form_of
from llmservingsim.latency.least_squares import fit_positive
from llmservingsim.latency.measured import Measured, Points
from llmservingsim.latency.tile_attention import TileAttention

Floats = NDArray[np.float64]


class Errors(NamedTuple):
    """How far predictions lie from what was measured, in percent of that.

    Attributes:
        mean, p95: Of the absolute errors.
        points: How many.
    """

    mean: float
    p95: float
    points: int

    @classmethod
    def between(cls, predicted: Floats, measured: Floats) -> Errors:
        """Compare arrays of shape ``[points]``, at least one point."""
        off = 100 * np.abs(predicted / measured - 1)
        return cls(float(off.mean()), float(np.percentile(off, 95)), len(off))


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted.

    Attributes:
        accelerator: The device.
        figures: Of each class of operators that was measured, in the order of its formula.
        chunks: Attention of batches with prompt chunks, None where none was measured.
    """

    accelerator: AcceleratorSpec
    figures: Mapping[str, Floats]
    chunks: TileAttention | None

    def knows(self, operator_class: str) -> bool:
        """Whether a class can be timed: it was fitted, or is a product and other products were."""
        return self._fitted_as(operator_class) in self.figures

    def seconds(self, operator_class: str, demand: Demand) -> Floats:
        """Return the time of a run, or of many, of a class that is known."""
        fitted = self._fitted_as(operator_class)
        return form_of(fitted, self.accelerator).seconds(self.figures[fitted].tolist(), demand)

    def named_figures(self) -> dict[str, dict[str, float]]:
        """Return the figures by class and name."""
        names = {found: form_of(found, self.accelerator).start for found in self.figures}
        named = {found: dict(zip(names[found], self.figures[found].tolist(), strict=True)) for found in self.figures}
        if self.chunks is not None:
            weights = ("launch_ns", "launched_tile_ns", "active_tile_ns", "tile_key_ns", "longest_key_ns")
            named[CHUNKS] = {name: 1e9 * weight for name, weight in zip(weights, self.chunks.weights, strict=True)}
        return named

    def errors(self, points: Mapping[str, Points]) -> dict[str, Errors]:
        """Compare points, by class, with what the calibration says of them."""
        return {
            found: Errors.between(self.seconds(found, of_class.demand), of_class.seconds)
            for found, of_class in points.items()
            if self.knows(found) and len(of_class.seconds)
        }

    def _fitted_as(self, operator_class: str) -> str:
        """Head and experts that nobody measured are products like others."""
        is_product = operator_class in (HEAD, EXPERTS) and operator_class not in self.figures
        return PRODUCTS if is_product else operator_class


def calibrate(measured: Measured, *, without: str | None = None) -> Calibration:
    """Fit every class of operators to all bundles, or to those points that are not of the model ``without``.

    Raises:
        ProfileError: If nothing is left to fit to.
    """
    figures = {}
    for operator_class, of_all in measured.points.items():
        points = of_all if without is None else of_all.without(without)
        if len(points.seconds):
            figures[operator_class] = _fit(operator_class, points, measured.accelerator)
    tables = [table for table in measured.chunks if without not in table.owners]
    if not figures:
        raise ProfileError(f"no bundle on {measured.accelerator.name} holds a measured operator to fit a roofline to")
    return Calibration(measured.accelerator, figures, TileAttention(tables) if tables else None)


def _fit(operator_class: str, points: Points, accelerator: AcceleratorSpec) -> Floats:
    form = form_of(operator_class, accelerator)
    start = list(form.start.values())
    return fit_positive(lambda figures: form.seconds(figures.tolist(), points.demand), start, points.seconds)
