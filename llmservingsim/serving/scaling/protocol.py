"""What an autoscaling policy sees and what it answers."""

from __future__ import annotations

from typing import Protocol

import msgspec

from llmservingsim.serving.routing.protocol import InstanceLoad
from llmservingsim.units import NS_PER_S


class ServedRequest(msgspec.Struct, frozen=True, gc=False):
    """What the front end knows of a request that ended.

    Attributes:
        arrival_ns, first_token_ns, finish_ns: When it came, and when its first and its last token were there.
        output_tokens: Length of the answer.
    """

    arrival_ns: int
    first_token_ns: int
    finish_ns: int
    output_tokens: int

    @property
    def ttft_ns(self) -> int:
        """Time to first token, from arrival."""
        return self.first_token_ns - self.arrival_ns

    @property
    def tpot_ns(self) -> float | None:
        """Mean time per output token after the first; None for a single token."""
        if self.output_tokens < 2:
            return None
        return (self.finish_ns - self.first_token_ns) / (self.output_tokens - 1)


class ScalingView(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a pool of instances when its policy is asked.

    Attributes:
        now_ns: The time.
        model: Which all of them serve.
        active: Instances that take new requests, and what waits and runs there.
        num_starting: Instances that do not take any yet.
        num_draining: Instances that finish what they have and then stop.
        num_held: Requests that wait at the router, or for a decode instance, because none is active.
        num_arrived: Requests that arrived in the window.
        served: Requests that ended in the window, in the order of their end.
        window_ns: Length of the window, which ends now.
        min_instances, max_instances: Between which the answer is kept.
    """

    now_ns: int
    model: str
    active: tuple[InstanceLoad, ...]
    num_starting: int = 0
    num_draining: int = 0
    num_held: int = 0
    num_arrived: int = 0
    served: tuple[ServedRequest, ...] = ()
    window_ns: int
    min_instances: int
    max_instances: int

    @property
    def num_up(self) -> int:
        """Instances that are active or will be."""
        return len(self.active) + self.num_starting

    @property
    def num_requests(self) -> int:
        """Requests that wait or run at active instances, and those that are held."""
        return self.num_held + sum(i.num_waiting + i.num_running for i in self.active)

    @property
    def arrival_rate(self) -> float:
        """Requests per second over the window; where it began before the run did, nobody came until then."""
        return self.num_arrived * NS_PER_S / self.window_ns


class ScalingPolicy(Protocol):
    """Says how many instances there should be. It may also have the method of `PlannedPolicy`.

    A class whose attribute ``Options`` is a msgspec Struct is built from one of these, made of the section's
    ``options``. Any other class gets them as keyword arguments. Each pool has a policy of its own.
    """

    def desired(self, view: ScalingView) -> int:
        """Return how many instances should be active or on their way, 0 or more; limits are kept by others.

        Asked at multiples of ``interval``, and when a request is held while no instance is up. Where nothing has
        happened for so long that the view, its time apart, cannot change any more, it is not asked again.
        """
        ...


class PlannedPolicy(ScalingPolicy, Protocol):
    """A policy whose answer depends on the time as well."""

    def next_change_ns(self, now_ns: int) -> int | None:
        """Return the first time after ``now_ns`` at which it is to be asked whatever happens, None if there is none."""
        ...
