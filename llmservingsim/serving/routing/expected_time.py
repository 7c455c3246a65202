"""The instance that is expected to answer first, where instances are of unequal speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from llmservingsim.errors import ConfigError, nearest, one_of
from llmservingsim.serving.routing.protocol import FinishedRequest, InstanceView, RoutedRequest
from llmservingsim.units import NS_PER_S


class ExpectedTimeOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `expected_time`.

    Attributes:
        speeds: Hardware name -> prompt tokens per second, of which only ratios matter; for all hardware of the run, or
            left out to learn speeds from finished requests.
        smoothing: Weight of the latest finished request in a learned speed.
    """

    speeds: dict[str, Annotated[float, Meta(gt=0, le=1e15)]] = {}
    smoothing: Annotated[float, Meta(gt=0, le=1)] = 0.1


class ExpectedTimeRouter:
    """Smallest ``(pending + prompt) / speed``; ties go to the first.

    ``pending`` are the prompt tokens that this router sent to the instance in requests that have not finished;
    answers are left out because nobody knows their length. ``speed`` is stated per hardware, or learned by the same
    formula: a request that met ``pending`` tokens and took ``t`` from arrival to finish shows a speed of
    ``(pending + prompt) / t``, which enters an exponential moving average. An instance that has not finished a
    request yet counts as fast as the mean of those that have.
    """

    Options = ExpectedTimeOptions

    def __init__(self, options: ExpectedTimeOptions) -> None:
        self._options = options
        self._pending: dict[int, int] = {}
        self._learned: dict[int, float] = {}
        self._sent: dict[int, tuple[int, int, int]] = {}

    def started(self, instances: Sequence[InstanceView]) -> None:
        """Check that the speeds are those of the run's hardware."""
        speeds, used = self._options.speeds, {i.hardware for i in instances}
        for name in speeds:
            if name not in used:
                hint = nearest(name, used)
                raise ConfigError(
                    f"router 'expected_time': speeds: no instance has the hardware {name!r}{hint}; "
                    f"expected {one_of(used)}"
                )
        if speeds and used - set(speeds):
            raise ConfigError(f"router 'expected_time': speeds: expected {one_of(used)}, got {one_of(speeds)} only")

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        """Return the position of the instance that is expected to be done first."""
        usual = sum(self._learned.values()) / len(self._learned) if self._learned else 1.0
        times = [(self._pending.get(i.index, 0) + request.prompt_tokens) / self._speed(i, usual) for i in instances]
        chosen = times.index(min(times))
        index = instances[chosen].index
        work = self._pending[index] = self._pending.get(index, 0) + request.prompt_tokens
        self._sent[request.request_id] = request.arrival_ns, request.prompt_tokens, work
        return chosen

    def finished(self, request: FinishedRequest) -> None:
        """Take the prompt off what is pending, and learn."""
        arrival_ns, prompt_tokens, work = self._sent.pop(request.request_id)
        self._pending[request.index] -= prompt_tokens
        shown = work * NS_PER_S / max(request.finish_ns - arrival_ns, 1)
        before = self._learned.get(request.index, shown)
        self._learned[request.index] = before + self._options.smoothing * (shown - before)

    def aborted(self, request_id: int, index: int) -> None:
        """Take the prompt off what is pending."""
        self._pending[index] -= self._sent.pop(request_id)[1]

    def _speed(self, instance: InstanceView, usual: float) -> float:
        if self._options.speeds:
            return self._options.speeds[instance.hardware]
        return self._learned.get(instance.index, usual)
