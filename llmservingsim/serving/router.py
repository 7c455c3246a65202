"""Which instance a request goes to, decided from what a real router can see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from llmservingsim.workload.request import RequestSpec


class InstanceLoad(msgspec.Struct, frozen=True):
    """What an instance reports to its router."""

    index: int
    model: str
    num_waiting: int
    num_running: int
    kv_usage: float


class RoutedRequest(NamedTuple):
    """What a router sees of a request: everything but its output length."""

    request_id: int
    arrival_ns: int
    prompt_tokens: int
    prompt_token_ids: tuple[int, ...] | None
    session_id: str | None
    priority: int

    @classmethod
    def of(cls, spec: RequestSpec) -> RoutedRequest:
        """Leave out what a router cannot know."""
        ids = spec.token_ids
        return cls(
            spec.request_id,
            spec.arrival_ns,
            spec.prompt_tokens,
            ids[: spec.prompt_tokens] if ids is not None else None,
            spec.session_id,
            spec.priority,
        )


class Router(Protocol):
    """Picks an instance."""

    def route(self, request: RoutedRequest, instances: Sequence[InstanceLoad]) -> int:
        """Return the position in ``instances`` of the one that shall serve the request.

        ``instances`` are those that serve the request's model, at least one.
        """
        ...


class RoundRobinRouter:
    """One after the other, counted apart for each set of instances: models take their turns by themselves."""

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}

    def route(self, request: RoutedRequest, instances: Sequence[InstanceLoad]) -> int:
        """Return the positions in turn."""
        del request
        indices = tuple(i.index for i in instances)
        chosen = self._next.get(indices, 0)
        self._next[indices] = (chosen + 1) % len(instances)
        return chosen


class LeastLoadedRouter:
    """Smallest ``4 * waiting + running``, the weights of vLLM's internal load balancer; ties go to the first."""

    def route(self, request: RoutedRequest, instances: Sequence[InstanceLoad]) -> int:
        """Return the position of the least loaded instance."""
        del request
        loads = [4 * i.num_waiting + i.num_running for i in instances]
        return loads.index(min(loads))


ROUTERS: dict[str, Callable[[], Router]] = {"round_robin": RoundRobinRouter, "least_loaded": LeastLoadedRouter}
