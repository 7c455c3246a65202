"""Operators of a drafter that a bundle does not hold."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from llmservingsim.latency.bundle import BundleSource
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import ExpertWork, Grade
from llmservingsim.shapes import BatchShape


class DrafterBundleSource:
    """A bundle whose blocks are also those of a drafter; what it does not hold has a roofline.

    That is ``eh_proj``, which joins hidden states with embeddings, and the dense layers of a head whose model is a
    mixture of experts.

    Args:
        bundle: Times what was measured.
        roofline: Times the other operators.
        operators: Of the drafter.
    """

    def __init__(self, bundle: BundleSource, roofline: RooflineSource, operators: Iterable[str]) -> None:
        self._bundle = bundle
        self._roofline = roofline
        self._missing = [operator for operator in operators if not bundle.holds(operator)]

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the operator's time for one batch."""
        source = self._roofline if operator in self._missing else self._bundle
        return source.latency_ns(operator, shape)

    def graded_ns(self, operator: str, shape: BatchShape) -> tuple[int, Grade]:
        """Return the same, and where it comes from."""
        source = self._roofline if operator in self._missing else self._bundle
        return source.graded_ns(operator, shape)

    def graded_moe_ns(self, work: ExpertWork) -> tuple[NDArray[np.int64], Grade]:
        """Return the time of the experts, and where it comes from."""
        return self._bundle.graded_moe_ns(work)

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return the time of the experts."""
        return self._bundle.moe_latency_ns(work)

    def provenance(self) -> dict[str, object]:
        """Name the bundle, and what is not from it."""
        return self._bundle.provenance() | {"roofline_operators": list(self._missing)}
