"""A router's choice, asked for and checked."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from llmservingsim.errors import PluginError
from llmservingsim.serving.routing.protocol import InstanceView, RoutedRequest, Router
from llmservingsim.workload.request import RequestSpec


def choose(router: Router, spec: RequestSpec, instances: Sequence[InstanceView], purpose: str = "request") -> int:
    """Return the position of the instance that a router picks for a request.

    Args:
        router: Whom to ask.
        spec: What is routed; the router sees no more of it than `RoutedRequest` has.
        instances: Those that may serve it.
        purpose: What is routed, in the words of the error.

    Raises:
        PluginError: If the answer is no position in ``instances``.
    """
    position = router.route(RoutedRequest.of(spec), instances)
    if not isinstance(position, Integral) or position not in range(len(instances)):
        raise PluginError(
            f"router: {type(router).__name__!r} chose {position!r} for {purpose} {spec.request_id}; "
            f"expected a position from 0 to {len(instances) - 1}"
        )
    return position
