"""Accelerators under a power cap, and with numbers that a run file states.

Power follows the clock as ``idle + (active - idle) * c ** dynamic_exponent``, c being the share of the maximum clock;
the exponent 3 is that of dynamic power C V^2 f with a voltage that follows the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from llmservingsim.config.catalog import AcceleratorSpec, PowerSpec, find_accelerator
from llmservingsim.config.power_spec import AcceleratorPowerSpec, NodePowerSpec
from llmservingsim.errors import ConfigError
from llmservingsim.units import NS_PER_S, parse_power_w, parse_time_ns


def own_numbers(power: NodePowerSpec, extra: Mapping[str, AcceleratorSpec]) -> dict[str, AcceleratorSpec]:
    """Return the user's own accelerators, and those whose power a server's section states, with that power.

    Raises:
        ConfigError: If one is unknown, or a number is missing or contradicts another.
    """
    found = dict(extra)
    for name, stated in power.accelerators.items():
        try:
            entry = find_accelerator(name, extra)
        except ConfigError as error:
            raise ConfigError(f"power.accelerators: {error}") from None
        found[entry.name] = msgspec.structs.replace(entry, power=_with(entry, stated))
    return found


def clock_under(power: PowerSpec, cap_w: float) -> float:
    """Return the share of its maximum clock at which an accelerator draws no more than a cap.

    Raises:
        ConfigError: If that is below its lowest clock.
    """
    if cap_w >= power.active_w:
        return 1.0
    above_w = power.active_w - power.idle_w
    least_w = power.idle_w + above_w * power.min_clock**power.dynamic_exponent
    if cap_w < least_w:
        raise ConfigError(
            f"power_cap: at its lowest clock, {power.min_clock:g} of the maximum, the accelerator draws "
            f"{least_w:.1f} W; expected at least that, got {cap_w:g} W"
        )
    return float(((cap_w - power.idle_w) / above_w) ** (1 / power.dynamic_exponent))


def capped(power: PowerSpec, clock: float) -> PowerSpec:
    """Return what an accelerator draws at a share of its maximum clock."""
    active_w = power.idle_w + (power.active_w - power.idle_w) * clock**power.dynamic_exponent
    standby_w = None if power.standby_w is None else min(power.standby_w, active_w)
    return msgspec.structs.replace(power, active_w=active_w, standby_w=standby_w)


def _with(entry: AcceleratorSpec, stated: AcceleratorPowerSpec) -> PowerSpec:
    """Put stated numbers over those of the catalogue."""
    numbers: dict[str, Any] = {
        key: parse_power_w(value)
        for key, value in (("idle_w", stated.idle), ("standby_w", stated.standby), ("active_w", stated.active))
        if value is not None
    }
    if stated.standby_duration is not None:
        numbers["standby_duration_s"] = parse_time_ns(stated.standby_duration) / NS_PER_S
    try:
        if entry.power is not None:
            return msgspec.structs.replace(entry.power, **numbers)
        if "idle_w" not in numbers or "active_w" not in numbers:
            raise ConfigError(
                f"power.accelerators: the catalogue has no power of {entry.name}; expected both idle and active"
            )
        return PowerSpec(**numbers)
    except ValueError as error:
        raise ConfigError(f"power.accelerators: {entry.name}: {error}") from error
