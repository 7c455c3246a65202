"""What a router sees, what it answers and what it may hear of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from llmservingsim.workload.request import RequestSpec

Role = Literal["both", "prefill", "decode"]


class InstanceView(Protocol):
    """What a router can see of an instance, read when it looks."""

    @property
    def index(self) -> int:
        """Number of the instance in the run."""
        ...

    @property
    def model(self) -> str:
        """Name of the model that it serves."""
        ...

    @property
    def num_waiting(self) -> int:
        """Requests in its queue."""
        ...

    @property
    def num_running(self) -> int:
        """Requests in its running list."""
        ...

    @property
    def kv_usage(self) -> float:
        """Share of its KV blocks that requests hold, 0 to 1."""
        ...

    @property
    def hardware(self) -> str:
        """Name of its accelerator, as its operator would label it."""
        ...

    @property
    def role(self) -> Role:
        """What it computes: prompts, answers or both."""
        ...


class InstanceLoad(msgspec.Struct, frozen=True):
    """What an instance reports at a moment: an `InstanceView` that stays as it is."""

    index: int
    model: str
    num_waiting: int
    num_running: int
    kv_usage: float
    hardware: str = ""
    role: Role = "both"


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


class FinishedRequest(msgspec.Struct, frozen=True):
    """What a router, through which the answer went, knows at its end.

    Attributes:
        request_id: Which request.
        index: Number of the instance that served it.
        first_token_ns, finish_ns: When its first and its last token came.
        output_tokens: Length of the answer.
    """

    request_id: int
    index: int
    first_token_ns: int
    finish_ns: int
    output_tokens: int


class Router(Protocol):
    """Picks an instance. It may also have the methods of `PreparedRouter`, `LearningRouter` and `ForgettingRouter`.

    A class whose attribute ``Options`` is a msgspec Struct is built from one of these, made of what the run file says
    beside ``policy``; where the Struct has a field ``seed`` that is not stated, it is the run's. Any other class gets
    what is said there as keyword arguments.
    """

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        """Return the position in ``instances`` of the one that shall serve the request.

        ``instances``, at least one, are those that serve the request's model, can hold it and are below the limits of
        admission, by their index.
        """
        ...


class PreparedRouter(Router, Protocol):
    """A router that looks at its instances before the first request."""

    def started(self, instances: Sequence[InstanceView]) -> None:
        """Hear of all instances of the run.

        Raises:
            ConfigError: If the options do not fit them.
        """
        ...


class LearningRouter(Router, Protocol):
    """A router that learns from what became of requests."""

    def finished(self, request: FinishedRequest) -> None:
        """Hear that a request ended."""
        ...


class ForgettingRouter(Router, Protocol):
    """A router that keeps account of what it sent."""

    def aborted(self, request_id: int, index: int) -> None:
        """Hear that the client of a request, which was sent to instance ``index``, gave up; it will not finish."""
        ...
