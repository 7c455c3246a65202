"""Instances in turn."""

from __future__ import annotations

from collections.abc import Sequence

from llmservingsim.serving.routing.protocol import InstanceView, RoutedRequest


class RoundRobinRouter:
    """One after the other, by index; models take their turns apart.

    An instance that cannot take a request is passed over, and the next turn goes on behind the one that was chosen.
    """

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        """Return the position of the first instance behind the last one chosen."""
        del request
        model = instances[0].model
        last = self._last.get(model, -1)
        chosen = next((position for position, i in enumerate(instances) if i.index > last), 0)
        self._last[model] = instances[chosen].index
        return chosen
