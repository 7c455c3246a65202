"""Instances by lot."""

from __future__ import annotations

import random
from collections.abc import Sequence

from msgspec import Struct

from llmservingsim.serving.routing.protocol import InstanceView, RoutedRequest


class SeedOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `random` and `power_of_two`.

    Attributes:
        seed: Of its draws; that of the run where none is stated.
    """

    seed: int = 0


class RandomRouter:
    """Any instance, each as likely."""

    Options = SeedOptions

    def __init__(self, options: SeedOptions) -> None:
        self._random = random.Random(options.seed)

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        """Return a position drawn at random."""
        del request
        return self._random.randrange(len(instances))
