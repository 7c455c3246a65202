"""More instances while requests miss their limits, fewer while stricter ones would be kept as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from llmservingsim.config.quantities import QuantityError, check_quantities
from llmservingsim.serving.scaling.protocol import ScalingView, ServedRequest
from llmservingsim.units import parse_time_ns


class SloOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `slo`; at least one of the limits is stated.

    Attributes:
        ttft: Limit of the time to first token, as ``"500ms"``.
        tpot: Limit of the mean time per output token after the first.
        attainment: Share of requests that shall keep the limits.
        headroom: Instances are given up while so many keep even these shares of the limits.
        step: Instances that are added or given up at once.
    """

    ttft: str | None = None
    tpot: str | None = None
    attainment: Annotated[float, Meta(gt=0, le=1)] = 0.95
    headroom: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    step: Annotated[int, Meta(ge=1)] = 1

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "ttft", "tpot")
        if self.ttft is None and self.tpot is None:
            raise QuantityError("expected a limit, ttft or tpot, or both")


class SloPolicy:
    """Holds the share of finished requests that keep their limits at a target.

    Only requests that arrived after the number of active instances last changed count: what came before tells of a pool
    that is no more. Nothing is changed while instances start, nor while no such request has finished; a pool without
    any request in the window is given up step by step, and one that is empty starts an instance for a held request.
    """

    Options = SloOptions

    def __init__(self, options: SloOptions) -> None:
        self._options = options
        self._ttft_ns = parse_time_ns(options.ttft) if options.ttft is not None else None
        self._tpot_ns = parse_time_ns(options.tpot) if options.tpot is not None else None
        self._num_active = -1
        self._settled_ns = 0

    def desired(self, view: ScalingView) -> int:
        """Return what is up, a step more or a step less."""
        if len(view.active) != self._num_active:
            self._settled_ns = view.now_ns if self._num_active >= 0 else 0
            self._num_active = len(view.active)
        up, step = view.num_up, self._options.step
        if view.num_starting:
            return up
        if not up:
            return min(1, view.num_held)
        served = [r for r in view.served if r.arrival_ns >= self._settled_ns]
        if not served:
            is_idle = not view.num_requests and not view.num_arrived
            return max(up - step, 0) if is_idle else up
        if self._attainment(served, 1) < self._options.attainment:
            return up + step
        if self._attainment(served, self._options.headroom) >= self._options.attainment:
            return max(up - step, min(1, view.num_requests))
        return up

    def _attainment(self, served: Sequence[ServedRequest], share: float) -> float:
        """The share of requests that keep this share of the limits."""
        return sum(self._keeps(request, share) for request in served) / len(served)

    def _keeps(self, request: ServedRequest, share: float) -> bool:
        if self._ttft_ns is not None and request.ttft_ns > share * self._ttft_ns:
            return False
        tpot_ns = request.tpot_ns
        return self._tpot_ns is None or tpot_ns is None or tpot_ns <= share * self._tpot_ns
