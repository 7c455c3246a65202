"""A roofline whose efficiencies are those that bundles of the same device show.

Each class of operators has a formula (`llmservingsim.latency.forms`) over what an operator asks of the device
(`llmservingsim.latency.demand`); its figures are fitted to the points of all bundles, in relative error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import AcceleratorSpec
from llmservingsim.errors import ProfileError
from llmservingsim.latency.demand import CHUNKS, DECODES, EXPERTS, HEAD, PRODUCTS, Demand
from llmservingsim.latency.forms import form_of
from llmservingsim.latency.least_squares import fit_positive
from llmservingsim.latency.measured import Bundle, Measured, Points
from llmservingsim.latency.tile_attention import TileAttention, mean_grid
from llmservingsim.latency.tiles import LogGrid

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
        figures: Of each class of operators that was fitted, in the order of its formula.
        decodes: Logarithm of *measured / formula* of decode attention over (walks, keys of a sequence), None where none
            was measured.
        chunks: Attention of batches with prompt chunks, likewise.
    """

    accelerator: AcceleratorSpec
    figures: Mapping[str, Floats]
    decodes: LogGrid | None
    chunks: TileAttention | None

    def knows(self, operator_class: str) -> bool:
        """Whether a class can be timed: it was fitted, or is a product and other products were."""
        return self._fitted_as(operator_class) in self.figures

    def seconds(self, operator_class: str, demand: Demand) -> Floats:
        """Return the time of a run, or of many, of a class that is known."""
        fitted = self._fitted_as(operator_class)
        times = form_of(fitted, self.accelerator).seconds(self.figures[fitted].tolist(), demand)
        if operator_class != DECODES or self.decodes is None:
            return times
        if isinstance(demand.walks, float | int) and isinstance(demand.keys, float | int):
            return np.asarray(times * math.exp(self.decodes.at((demand.walks, demand.keys))))
        places = np.stack([np.ravel(demand.walks), np.ravel(demand.keys)], axis=1)
        return np.asarray(times * np.exp(self.decodes.at_each(places)).reshape(np.shape(times)))

    def named_figures(self) -> dict[str, dict[str, float]]:
        """Return the figures by class and name."""
        names = {found: form_of(found, self.accelerator).start for found in self.figures}
        named = {found: dict(zip(names[found], self.figures[found].tolist(), strict=True)) for found in self.figures}
        if self.chunks is not None:
            weights = ("launch_ns", "launched_tile_ns", "active_tile_ns", "tile_key_ns", "longest_key_ns")
            named[CHUNKS] = {name: 1e9 * weight for name, weight in zip(weights, self.chunks.weights, strict=True)}
        return named

    def errors(self, measured: Measured) -> dict[str, Errors]:
        """Compare what was measured, by class, with what the calibration says of it."""
        found = {
            operator_class: Errors.between(self.seconds(operator_class, points.demand), points.seconds)
            for operator_class, points in measured.points.items()
            if self.knows(operator_class)
        }
        if self.chunks is not None and measured.chunks:
            predicted, seconds = (np.concatenate(side) for side in zip(*self._chunk_times(measured), strict=True))
            found[CHUNKS] = Errors.between(predicted, seconds)
        return found

    def _chunk_times(self, measured: Measured) -> list[tuple[Floats, Floats]]:
        assert self.chunks is not None
        return [(self.chunks.predicted(table), table.seconds) for table in measured.chunks]

    def _fitted_as(self, operator_class: str) -> str:
        """The head is a product like others, and so are experts if nobody measured any."""
        is_product = operator_class == HEAD or (operator_class == EXPERTS and EXPERTS not in self.figures)
        return PRODUCTS if is_product else operator_class


def calibrate(measured: Measured) -> Calibration:
    """Fit every class of operators to all bundles.

    Raises:
        ProfileError: If no operator was measured.
    """
    together = {**measured.points}
    products = [together.pop(name) for name in (PRODUCTS, HEAD) if name in together]
    if products:
        together[PRODUCTS] = Points.joined(products)
    if not together:
        raise ProfileError(f"no bundle on {measured.accelerator.name} holds a measured operator to fit a roofline to")
    accelerator = measured.accelerator
    figures = {name: _fit(name, points, accelerator) for name, points in together.items()}
    decodes = together.get(DECODES)
    ratio = _decode_ratio(figures[DECODES], decodes, accelerator) if decodes else None
    return Calibration(accelerator, figures, ratio, TileAttention(measured.chunks) if measured.chunks else None)


def _fit(operator_class: str, points: Points, accelerator: AcceleratorSpec) -> Floats:
    form = form_of(operator_class, accelerator)
    start = list(form.start.values())
    return fit_positive(lambda figures: form.seconds(figures.tolist(), points.demand), start, points.seconds)


def _decode_ratio(figures: Floats, points: Points, accelerator: AcceleratorSpec) -> LogGrid:
    """Average *measured / formula* where batches of several bundles start as many walks of as many keys."""
    predicted = form_of(DECODES, accelerator).seconds(figures.tolist(), points.demand)
    return mean_grid(
        np.column_stack([points.demand.walks, points.demand.keys]), np.log(points.seconds / predicted), (0, 1)
    )


class Fit(NamedTuple):
    """A calibration, and what it was fitted to.

    Attributes:
        bundles: What was measured, and where it lies.
        calibration: What was fitted.
        errors: How far the calibration is off what it was fitted to, by class.
    """

    bundles: tuple[Bundle, ...]
    calibration: Calibration
    errors: Mapping[str, Errors]

    @classmethod
    def to(cls, measured: Measured) -> Fit:
        """Fit to all that was measured."""
        calibration = calibrate(measured)
        return cls(measured.bundles, calibration, calibration.errors(measured))
