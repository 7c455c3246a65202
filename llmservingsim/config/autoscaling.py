"""The section of the run file that lets the number of instances follow the load."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from llmservingsim.config.quantities import Count, QuantityError, check_quantities
from llmservingsim.units import NS_PER_MS, parse_bandwidth, parse_time_ns

_Number = Annotated[int, Meta(ge=0)]


class AutoscalingSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many of the listed instances run. `docs/concepts/autoscaling.md` explains it.

    Attributes:
        policy: ``queue``, ``kv_usage``, ``slo``, ``schedule``, or ``package.module:Class``.
        options: Of the policy.
        model: Whose instances; by default those of every model, each model by itself.
        role: Which of these, by ``kv_role``; by default all, each role by itself.
        min_instances: Fewest that run or start; 0 lets all stop.
        max_instances: Most that run or start; by default as many as the file lists.
        initial_instances: How many run when the run begins, the first in the file; by default ``min_instances``.
        start_up_delay: From the decision to an engine that takes requests, weights excluded if these are stated.
        weight_load_bandwidth: At which every device loads its share of the weights, as ``"5GB/s"``; adds to the delay.
        interval: Between two evaluations of the policy, at least ``"1ms"``.
        window: Over which a policy sees arrivals and finished requests.
        scale_down_delay: How long the policy must have asked for fewer before instances stop.
    """

    policy: str
    options: dict[str, Any] | None = None
    model: str | None = None
    role: Literal["kv_both", "kv_producer", "kv_consumer"] | None = None
    min_instances: _Number = 1
    max_instances: Count | None = None
    initial_instances: _Number | None = None
    start_up_delay: str
    weight_load_bandwidth: str | None = None
    interval: str = "15s"
    window: str = "60s"
    scale_down_delay: str = "5min"

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "interval", "window")
        check_quantities(self, parse_time_ns, "start_up_delay", "scale_down_delay", may_be_zero=True)
        check_quantities(self, parse_bandwidth, "weight_load_bandwidth")
        if parse_time_ns(self.interval) < NS_PER_MS:
            raise QuantityError(f"interval: expected at least 1ms, got {self.interval!r}")
        if self.max_instances is not None and self.min_instances > self.max_instances:
            raise QuantityError(f"min_instances: expected at most max_instances, {self.max_instances}")
        initial = self.initial_instances
        if initial is not None and initial < self.min_instances:
            raise QuantityError(f"initial_instances: expected at least min_instances, {self.min_instances}")
        if initial is not None and self.max_instances is not None and initial > self.max_instances:
            raise QuantityError(f"initial_instances: expected at most max_instances, {self.max_instances}")
