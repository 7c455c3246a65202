"""The better of two instances drawn by lot."""

from __future__ import annotations

import random
from collections.abc import Sequence

from llmservingsim.serving.routing.least_loaded import queue_load
from llmservingsim.serving.routing.protocol import InstanceView, RoutedRequest
from llmservingsim.serving.routing.random_choice import SeedOptions


class PowerOfTwoRouter:
    """Draws two instances and takes the one with the smaller ``4 * waiting + running``; a tie goes to the first drawn.

    Mitzenmacher, "The power of two choices in randomized load balancing", 2001: looking at two instead of one shortens
    the longest queue exponentially, looking at more gains little.
    """

    Options = SeedOptions

    def __init__(self, options: SeedOptions) -> None:
        self._random = random.Random(options.seed)

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        """Return the position of the less loaded one of two."""
        del request
        if len(instances) == 1:
            return 0
        one, other = self._random.sample(range(len(instances)), 2)
        return one if queue_load(instances[one]) <= queue_load(instances[other]) else other
