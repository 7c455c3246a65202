"""Instances in turn, some more often than others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from llmservingsim.errors import ConfigError
from llmservingsim.serving.routing.protocol import InstanceView, RoutedRequest


class WeightedOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `weighted`.

    Attributes:
        weights: One per instance of the run, by index: the shares of the requests, up to a common factor.
    """

    weights: Annotated[tuple[Annotated[float, Meta(gt=0, le=1e9)], ...], Meta(min_length=1)]


class WeightedRouter:
    """Smooth weighted round robin, as nginx has it.

    Every candidate earns its weight; the richest one (the first at a tie) is chosen and pays the sum of the weights. So
    instances of weights 2 and 1 serve in the order 0, 1, 0.
    """

    Options = WeightedOptions

    def __init__(self, options: WeightedOptions) -> None:
        self._weights = options.weights
        self._earned = [0.0] * len(options.weights)

    def started(self, instances: Sequence[InstanceView]) -> None:
        """Check that every instance has a weight."""
        if len(instances) != len(self._weights):
            raise ConfigError(
                f"router 'weighted': weights: expected one per instance, {len(instances)}, got {len(self._weights)}"
            )

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        """Return the position of the instance whose turn it is."""
        del request
        earned = self._earned
        for i in instances:
            earned[i.index] += self._weights[i.index]
        chosen = max(range(len(instances)), key=lambda position: earned[instances[position].index])
        earned[instances[chosen].index] -= sum(self._weights[i.index] for i in instances)
        return chosen
