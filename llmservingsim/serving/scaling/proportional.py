"""As many instances as keep a mean at its target: by requests, or by KV usage."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta, Struct

from llmservingsim.serving.scaling.protocol import ScalingView

_ROUNDING = 1e-9


def proportional(view: ScalingView, total: float, target: float, tolerance: float) -> int:
    """Return ``ceil(current * (total / current) / target)``, or what is up where that is close.

    The rule of Kubernetes' Horizontal Pod Autoscaler, ``desiredReplicas = ceil(currentReplicas *
    currentMetricValue / desiredMetricValue)`` (documentation of v1.30, "Algorithm details"), for a metric that is the
    mean over instances. As there, nothing changes while the ratio of mean to target is within the tolerance of 1; and
    instances that start count as idle, but none is given up while the mean of the active ones is above the target.

    Args:
        view: Of the pool.
        total: Sum of the metric over the active instances.
        target: Of its mean.
        tolerance: Deviation of the ratio from 1 that is let be, as 0.1.
    """
    up = view.num_up
    if up and abs(total / (target * up) - 1) <= tolerance:
        return up
    wanted = math.ceil(total / target - _ROUNDING)
    if wanted < up and view.num_starting and total > target * len(view.active):
        return up
    return wanted


class QueueOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `queue`.

    Attributes:
        target: Requests per instance, waiting and running.
        tolerance: Deviation of the mean from the target, as a share of it, at which nothing changes; Kubernetes' 0.1.
    """

    target: Annotated[float, Meta(gt=0, le=1e9)]
    tolerance: Annotated[float, Meta(ge=0, lt=1)] = 0.1


class QueuePolicy:
    """Keeps the number of waiting and running requests per instance at a target; held ones count with them."""

    Options = QueueOptions

    def __init__(self, options: QueueOptions) -> None:
        self._options = options

    def desired(self, view: ScalingView) -> int:
        """Return ``ceil(requests / target)``, see `proportional`."""
        return proportional(view, view.num_requests, self._options.target, self._options.tolerance)


class KvUsageOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `kv_usage`.

    Attributes:
        target: Share of KV blocks that requests hold, in the mean of all active instances.
        tolerance: Deviation of the mean from the target, as a share of it, at which nothing changes; Kubernetes' 0.1.
    """

    target: Annotated[float, Meta(gt=0, le=1)] = 0.8
    tolerance: Annotated[float, Meta(ge=0, lt=1)] = 0.1


class KvUsagePolicy:
    """Keeps the mean KV usage at a target; one instance is wanted at least while there is any request."""

    Options = KvUsageOptions

    def __init__(self, options: KvUsageOptions) -> None:
        self._options = options

    def desired(self, view: ScalingView) -> int:
        """Return ``ceil(sum of usages / target)``, see `proportional`."""
        if not view.active:
            return max(view.num_starting, min(1, view.num_held))
        usage = sum(i.kv_usage for i in view.active)
        wanted = proportional(view, usage, self._options.target, self._options.tolerance)
        return max(wanted, min(1, view.num_requests))
