"""Integer nanoseconds and bytes, and the parsing of quantities that carry their unit.

Inside the simulator a time is an ``int`` of nanoseconds, a size an ``int`` of bytes and a bandwidth a ``float`` of
bytes per second. What a user writes carries its unit: ``"900GB/s"``, ``"2us"``, ``"80GiB"``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from llmservingsim.errors import ConfigError, nearest, one_of

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
J_PER_KWH = 3_600_000
TIME_MAX_NS = 2**62
"""146 years: sums of two times still fit the backend's 64 bits."""

_TIME_NS = {"ns": 1, "us": NS_PER_US, "ms": NS_PER_MS, "s": NS_PER_S, "min": 60 * NS_PER_S, "h": 3600 * NS_PER_S}
_PREFIX = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE_BYTES: dict[str, float] = {prefix + "B": factor for prefix, factor in (_PREFIX | _BINARY).items()}
_BANDWIDTH: dict[str, float] = {unit + "/s": factor for unit, factor in _SIZE_BYTES.items()}
_BANDWIDTH |= {prefix + "bit/s": factor / 8 for prefix, factor in _PREFIX.items()}
_FLOPS = {prefix + "FLOP/s": factor for prefix, factor in _PREFIX.items()}
_FREQUENCY_HZ = {"Hz": 1, "kHz": 10**3, "MHz": 10**6, "GHz": 10**9}
_POWER_W = {"W": 1, "mW": 1e-3, "kW": 1e3}
_ENERGY_PER_BIT = {"pJ/bit": 1e-12, "nJ/bit": 1e-9, "fJ/bit": 1e-15}
_CARBON_G_PER_KWH = {"gCO2/kWh": 1, "gCO2e/kWh": 1, "kgCO2/kWh": 1e3, "kgCO2e/kWh": 1e3}

_QUANTITY = re.compile(r"^\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z/][A-Za-z0-9/]*)\s*$")


def _parse(text: object, units: Mapping[str, float], kind: str, example: str) -> float:
    """Return the value of ``text`` in the base unit of ``units``; raise ConfigError on anything else."""
    if not isinstance(text, str):
        raise ConfigError(f"expected a {kind} with its unit, such as {example!r}, got {text!r}")
    match = _QUANTITY.match(text)
    if match is None:
        raise ConfigError(f"expected a {kind} with its unit, such as {example!r}, got {text!r}")
    number, unit = match.groups()
    if unit not in units:
        raise ConfigError(f"{unit!r} is no unit of {kind}{nearest(unit, units)}; expected one of {one_of(units, 24)}")
    value = float(number.replace("_", "")) * units[unit]
    if not math.isfinite(value):
        raise ConfigError(f"{text!r} is too large for a {kind}")
    return value


def parse_time_ns(text: object) -> int:
    """Parse a duration such as ``"2us"`` or ``"1.5 s"`` into nanoseconds."""
    time_ns = round(_parse(text, _TIME_NS, "time", "2us"))
    if time_ns > TIME_MAX_NS:
        raise ConfigError(f"{text!r} is too large for a time; expected at most {TIME_MAX_NS} ns")
    return time_ns


def parse_size_bytes(text: object) -> int:
    """Parse a size such as ``"80GiB"`` (2^30) or ``"24GB"`` (10^9) into bytes."""
    return round(_parse(text, _SIZE_BYTES, "size", "80GiB"))


def parse_bandwidth(text: object) -> float:
    """Parse a bandwidth such as ``"900GB/s"`` or ``"400Gbit/s"`` into bytes per second."""
    return _parse(text, _BANDWIDTH, "bandwidth", "900GB/s")


def parse_flops(text: object) -> float:
    """Parse a compute rate such as ``"989TFLOP/s"`` into operations per second."""
    return _parse(text, _FLOPS, "compute rate", "989TFLOP/s")


def parse_frequency(text: object) -> float:
    """Parse a frequency such as ``"940MHz"`` into cycles per second."""
    return _parse(text, _FREQUENCY_HZ, "frequency", "940MHz")


def parse_power_w(text: object) -> float:
    """Parse a power such as ``"700W"`` into watts."""
    return _parse(text, _POWER_W, "power", "700W")


def parse_energy_per_bit(text: object) -> float:
    """Parse an energy per bit moved such as ``"6pJ/bit"`` into joules per bit."""
    return _parse(text, _ENERGY_PER_BIT, "energy per bit", "6pJ/bit")


def parse_carbon_intensity(text: object) -> float:
    """Parse a carbon intensity such as ``"400gCO2/kWh"`` into grams per kilowatt-hour."""
    return _parse(text, _CARBON_G_PER_KWH, "carbon intensity", "400gCO2/kWh")


def format_size(size_bytes: float) -> str:
    """Write a size with the binary unit that leaves between one and four digits before the point."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(size_bytes) >= factor:
            return f"{size_bytes / factor:.2f} {unit}"
    return f"{size_bytes:.0f} B"


def format_time(time_ns: float) -> str:
    """Write a duration with the unit that leaves between one and three digits before the point."""
    for unit in ("h", "min", "s", "ms", "us"):
        if abs(time_ns) >= _TIME_NS[unit]:
            return f"{time_ns / _TIME_NS[unit]:.2f} {unit}"
    return f"{time_ns:.0f} ns"
