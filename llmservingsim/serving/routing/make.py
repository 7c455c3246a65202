"""A router from what the run file says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from llmservingsim.errors import ConfigError, PluginError
from llmservingsim.plugins import find_plugin, make_plugin
from llmservingsim.serving.routing.expected_time import ExpectedTimeRouter
from llmservingsim.serving.routing.least_loaded import LeastKvRouter, LeastLoadedRouter
from llmservingsim.serving.routing.power_of_two import PowerOfTwoRouter
from llmservingsim.serving.routing.prefix_aware import PrefixAwareRouter
from llmservingsim.serving.routing.protocol import Router
from llmservingsim.serving.routing.random_choice import RandomRouter
from llmservingsim.serving.routing.round_robin import RoundRobinRouter
from llmservingsim.serving.routing.session_affinity import SessionAffinityRouter
from llmservingsim.serving.routing.weighted import WeightedRouter
from llmservingsim.strict import convert

ROUTERS: Mapping[str, Callable[..., Router]] = {
    "round_robin": RoundRobinRouter,
    "random": RandomRouter,
    "least_loaded": LeastLoadedRouter,
    "least_kv": LeastKvRouter,
    "power_of_two": PowerOfTwoRouter,
    "prefix_aware": PrefixAwareRouter,
    "session_affinity": SessionAffinityRouter,
    "weighted": WeightedRouter,
    "expected_time": ExpectedTimeRouter,
}


def make_router(stated: str | Mapping[str, Any], seed: int) -> Router:
    """Build a router.

    Args:
        stated: A name, or ``policy`` with a name and options beside it.
        seed: Of the run; for a router whose options have one that is not stated.

    Raises:
        ConfigError: If the policy is not named, or an option is unknown, missing or wrong.
        PluginError: If nothing has that name, or it cannot be built or does not route.
    """
    options: dict[str, Any] = {"policy": stated} if isinstance(stated, str) else dict(stated)
    name = options.pop("policy", None)
    if not isinstance(name, str):
        raise ConfigError(f"router: expected a name, or a section with the key 'policy', got {stated!r:.60}")
    kind = getattr(find_plugin("router", name, ROUTERS), "Options", None)
    arguments: tuple[Any, ...] = ()
    if kind is not None and not (isinstance(kind, type) and issubclass(kind, msgspec.Struct)):
        raise PluginError(f"router: 'Options' of {name!r} is {kind!r:.60}; expected a msgspec Struct")
    if kind is not None:
        if "seed" in kind.__struct_fields__:
            options.setdefault("seed", seed)
        arguments, options = (convert(options, kind, f"router {name!r}", ConfigError),), {}
    made: Router = make_plugin("router", name, ROUTERS, arguments, ("route",), options)
    return made
