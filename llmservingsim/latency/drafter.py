"""Operators of a drafter that no bundle holds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llmservingsim.latency.bundle import BundleSource
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import ExpertWork
from llmservingsim.shapes import BatchShape


class DrafterBundleSource:
    """A bundle whose blocks are also those of a drafter; what joins hidden states with embeddings has a roofline.

    Args:
        bundle: Times every other operator.
        roofline: Times ``eh_proj``.
    """

    def __init__(self, bundle: BundleSource, roofline: RooflineSource) -> None:
        self._bundle = bundle
        self._roofline = roofline

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the operator's time for one batch."""
        source = self._roofline if operator == "eh_proj" else self._bundle
        return source.latency_ns(operator, shape)

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return the time of the experts."""
        return self._bundle.moe_latency_ns(work)

    def provenance(self) -> dict[str, object]:
        """Name the bundle, and what is not from it."""
        return self._bundle.provenance() | {"roofline_operators": ["eh_proj"]}
