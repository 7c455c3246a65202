"""A policy from what the run file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmservingsim.errors import ConfigError
from llmservingsim.plugins import find_plugin, make_plugin
from llmservingsim.serving.scaling.proportional import KvUsagePolicy, QueuePolicy
from llmservingsim.serving.scaling.protocol import ScalingPolicy
from llmservingsim.serving.scaling.schedule import SchedulePolicy
from llmservingsim.serving.scaling.slo import SloPolicy
from llmservingsim.strict import convert

SCALING_POLICIES: Mapping[str, Callable[..., ScalingPolicy]] = {
    "queue": QueuePolicy,
    "kv_usage": KvUsagePolicy,
    "slo": SloPolicy,
    "schedule": SchedulePolicy,
}


def make_policy(name: str, options: Mapping[str, Any] | None) -> ScalingPolicy:
    """Build an autoscaling policy.

    Args:
        name: Built-in, entry point, or ``package.module:Class``.
        options: What the run file says for it.

    Raises:
        ConfigError: If an option is unknown, missing or wrong.
        PluginError: If nothing has that name, or it cannot be built or has no method ``desired``.
    """
    kind = getattr(find_plugin("autoscaling", name, SCALING_POLICIES), "Options", None)
    stated = dict(options or {})
    arguments: tuple[Any, ...] = ()
    if kind is not None:
        arguments, stated = (convert(stated, kind, f"options of {name!r}", ConfigError),), {}
    made: ScalingPolicy = make_plugin("autoscaling", name, SCALING_POLICIES, arguments, ("desired",), stated)
    return made
