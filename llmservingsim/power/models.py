"""What an accelerator draws while it executes a graph, and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from llmservingsim.config.catalog import PowerSpec
from llmservingsim.errors import ConfigError, PluginError
from llmservingsim.plugins import make_plugin
from llmservingsim.power.curve import Floats


class Rest(NamedTuple):
    """What an accelerator draws from some time after its last work on.

    Attributes:
        after_s: Seconds after the work.
        watts: From then on.
    """

    after_s: float
    watts: float


class PowerModel(Protocol):
    """Says what one accelerator draws. Built from its `PowerSpec`, under a power cap with the lower ``active_w``."""

    def running_w(self, compute_share: Floats) -> Floats:
        """Return the mean power over each graph, in watts, at least 0; shape ``[graphs]``.

        Args:
            compute_share: Part of the graph's time in which the accelerator computed, in [0, 1]; in the rest it waited
                for other devices, the network or memories. Shape ``[graphs]``.
        """
        ...

    def resting(self) -> Sequence[Rest]:
        """Return what it draws between graphs: the first at 0 seconds, the others later and later.

        The last also holds before the first graph.
        """
        ...


class States:
    """Active while it computes, in standby while it waits and for some time after work, idle otherwise.

    Args:
        power: Of the accelerator.
    """

    def __init__(self, power: PowerSpec) -> None:
        self._power = power
        self._standby_w = power.idle_w if power.standby_w is None else power.standby_w

    def running_w(self, compute_share: Floats) -> Floats:
        """Return active power for the time of computing and standby power for the rest."""
        return self._standby_w + (self._power.active_w - self._standby_w) * compute_share

    def resting(self) -> Sequence[Rest]:
        """Return standby, then idle."""
        return _standby_then_idle(self._power)


class UtilisationPower:
    """Between idle and active, by the share of time in which it computes: ``idle + (active - idle) * (2 u - u^r)``.

    Source of the curve: Fan, Weber, Barroso, "Power provisioning for a warehouse-sized computer", ISCA 2007, who found
    r = 1.4 for whole servers. With r = 1 it is a straight line.

    Args:
        power: Of the accelerator.
        exponent: The r of the curve, in [1, 2].
    """

    def __init__(self, power: PowerSpec, exponent: float = 1.0) -> None:
        if not 1 <= exponent <= 2:
            raise ConfigError(f"power: exponent: expected a value from 1 to 2, got {exponent!r}")
        self._power = power
        self._exponent = exponent

    def running_w(self, compute_share: Floats) -> Floats:
        """Return the point of the curve."""
        above = 2 * compute_share - compute_share**self._exponent
        return self._power.idle_w + (self._power.active_w - self._power.idle_w) * above

    def resting(self) -> Sequence[Rest]:
        """Return standby, then idle."""
        return _standby_then_idle(self._power)


def _standby_then_idle(power: PowerSpec) -> Sequence[Rest]:
    idle = Rest(power.standby_duration_s, power.idle_w)
    if power.standby_w is None or not power.standby_duration_s:
        return (idle._replace(after_s=0.0),)
    return (Rest(0.0, power.standby_w), idle)


POWER_MODELS: Mapping[str, Any] = {"states": States, "utilisation": UtilisationPower}


def make_power_model(name: str, power: PowerSpec, options: Mapping[str, Any] | None = None) -> PowerModel:
    """Build the model called ``name`` for an accelerator.

    Raises:
        PluginError: If it is unknown, or its answers are no power.
    """
    made: PowerModel = make_plugin("power.model", name, POWER_MODELS, (power,), ("running_w", "resting"), options)
    _check(name, made)
    return made


def _check(name: str, model: PowerModel) -> None:
    """Ask a model a few questions, and refuse one whose answers make no sense."""
    shares = np.linspace(0, 1, 5)
    try:
        watts = np.asarray(model.running_w(shares.copy()), dtype=np.float64)
        rests = [(float(after), float(drawn)) for after, drawn in model.resting()]
    except (TypeError, ValueError) as error:
        raise PluginError(f"power: {name!r} gave no numbers: {error}") from error
    if watts.shape != shares.shape or not (np.isfinite(watts).all() and (watts >= 0).all()):
        raise PluginError(f"power: {name!r} draws {watts!r:.80}; expected {len(shares)} values of at least 0 W")
    rises = all(one[0] < other[0] for one, other in pairwise(rests))
    if not rests or rests[0][0] != 0 or not rises or any(not 0 <= drawn < np.inf for _, drawn in rests):
        raise PluginError(
            f"power: {name!r} rests as {rests!r:.80}; expected (seconds, watts) of at least 0 W, the first at 0 s, the "
            "others later and later"
        )
