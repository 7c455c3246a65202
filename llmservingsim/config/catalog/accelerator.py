"""Accelerators by name, each number with its source."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from llmservingsim.errors import ConfigError, nearest, one_of


class EfficiencySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares of the peak that real kernels reach, each in (0, 1].

    Attributes:
        gemm: Of dense FLOP/s, by large matrix products.
        memory: Of memory bandwidth, by streaming kernels and decode.
        attention: Of dense FLOP/s, by prefill attention.
        link: Of link bandwidth, by collectives.
        reason: Why these values.
    """

    gemm: float = 0.7
    memory: float = 0.85
    attention: float = 0.5
    link: float = 0.75
    reason: str = "assumed"

    def __post_init__(self) -> None:
        for field in ("gemm", "memory", "attention", "link"):
            if not 0 < getattr(self, field) <= 1:
                raise ValueError(f"{field}: expected a share in (0, 1], got {getattr(self, field)}")


class PowerSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one device draws in each state.

    Under a power cap the clock falls to a share c of its maximum, and the part above idle falls with it:
    ``idle_w + (active_w - idle_w) * c ** dynamic_exponent``. The exponent 3 is that of ``f V^2`` with a voltage that
    follows the clock.

    Attributes:
        idle_w: With nothing to do.
        standby_w: After work, while the clocks stay up; None where the device goes to idle at once.
        standby_duration_s: How long that lasts.
        active_w: While computing at the maximum clock.
        dynamic_exponent: Power of the clock.
        min_clock: Lowest share of the maximum clock, in (0, 1].
        source: Where each number that is no default comes from.
    """

    idle_w: float
    standby_w: float | None = None
    standby_duration_s: float = 0.0
    active_w: float
    dynamic_exponent: float = 3.0
    min_clock: float = 0.4
    source: dict[str, str] = {}

    def __post_init__(self) -> None:
        if self.idle_w < 0 or self.active_w < self.idle_w:
            raise ValueError(f"active_w: expected at least idle_w ({self.idle_w:g}), got {self.active_w:g}")
        if self.standby_w is not None and not self.idle_w <= self.standby_w <= self.active_w:
            raise ValueError(
                f"standby_w: expected a value from idle_w ({self.idle_w:g}) to active_w ({self.active_w:g}), "
                f"got {self.standby_w:g}"
            )
        if self.standby_duration_s < 0 or (self.standby_duration_s and self.standby_w is None):
            raise ValueError("standby_duration_s: expected at least 0 seconds, and standby_w beside it")
        if not 0 < self.min_clock <= 1:
            raise ValueError(f"min_clock: expected a share in (0, 1], got {self.min_clock}")
        if self.dynamic_exponent < 0:
            raise ValueError(f"dynamic_exponent: expected at least 0, got {self.dynamic_exponent}")


class PriceSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one device costs. Prices change from month to month: state your own where money matters.

    Attributes:
        rent_usd_per_hour: On demand, None where nobody rents it by the hour.
        buy_usd: Of the device alone, None where it is not sold.
        source: Where each number comes from.
    """

    rent_usd_per_hour: float | None = None
    buy_usd: float | None = None
    source: dict[str, str] = {}

    def __post_init__(self) -> None:
        for field in ("rent_usd_per_hour", "buy_usd"):
            value = getattr(self, field)
            if value is not None and value < 0:
                raise ValueError(f"{field}: expected at least 0, got {value}")


class AcceleratorSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device; `source` gives a citation for each number.

    Attributes:
        memory_bytes: Total device memory; ``source["memory_bytes"]`` says whether the driver or the data sheet says so.
        memory_bandwidth: Bytes per second.
        bf16_flops, fp16_flops, fp8_flops, int8_flops, fp4_flops: Dense operations per second, 0 where the chip has no
            such unit.
        link_kind, link_bandwidth, link_latency_ns: To its peers: bytes per second of one direction, all links together.
        host_bandwidth: To the host, bytes per second of one direction.
        num_compute_units: SMs, compute units or tensor cores.
        max_threads_per_unit: Threads that may be resident on one unit, 0 where that has no meaning.
        tdp_w: Board power limit, 0 if not published.
        l2_bytes: Last level cache shared by all units, 0 if unknown.
        kernel_launch_ns: Floor under the time of any kernel: its launch, or the way through a chip without launches.
        array_dims: Rows and columns of a weight-stationary systolic array that computes matrix products, None where
            the size of tiles does not matter. `docs/concepts/latency.md` has the formula.
        array_load_cycles: Cycles that bring the next tile of weights into the array while it computes; as many as it
            has rows unless stated.
        runtime_bytes: Device memory that drivers and runtime take outside the allocator, None for what CUDA takes.
        power, price: What it draws and costs, None where unknown.
    """

    name: str
    vendor: str
    memory_bytes: int
    memory_bandwidth: float
    bf16_flops: float
    fp16_flops: float
    link_kind: str
    link_bandwidth: float
    link_latency_ns: int
    host_bandwidth: float
    num_compute_units: int
    kernel_launch_ns: int
    fp8_flops: float = 0.0
    int8_flops: float = 0.0
    fp4_flops: float = 0.0
    max_threads_per_unit: int = 0
    tdp_w: float = 0.0
    l2_bytes: int = 0
    array_dims: tuple[int, int] | None = None
    array_load_cycles: int = 0
    runtime_bytes: int | None = None
    power: PowerSpec | None = None
    price: PriceSpec | None = None
    efficiency: EfficiencySpec = EfficiencySpec()
    aliases: tuple[str, ...] = ()
    source: dict[str, str] = {}

    def __post_init__(self) -> None:
        for field in ("memory_bytes", "memory_bandwidth", "bf16_flops", "link_bandwidth", "num_compute_units"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field}: expected more than 0, got {getattr(self, field)}")
        if self.array_dims is not None and min(self.array_dims) < 1:
            raise ValueError(f"array_dims: expected at least 1 row and 1 column, got {list(self.array_dims)}")

    def flops(self, dtype: str) -> float:
        """Dense operations per second in ``dtype``; bf16's rate where the chip has no faster unit for it."""
        rates = {"fp16": self.fp16_flops, "float16": self.fp16_flops, "fp8": self.fp8_flops, "int8": self.int8_flops}
        return rates.get(dtype, self.fp4_flops if dtype == "fp4" else 0.0) or self.bf16_flops


def find_accelerator(name: str, extra: Mapping[str, AcceleratorSpec] = MappingProxyType({})) -> AcceleratorSpec:
    """Return the accelerator called ``name``, aliases included; case, spaces, dashes and underscores do not matter.

    Args:
        name: ``"H100"``, ``"RTX 4090"``, ...
        extra: The user's own, from `load_accelerators`; they come before the built-in ones.

    Raises:
        ConfigError: Nothing answers to the name.
    """
    known = {**catalogued_accelerators(), **extra}
    by_key = {_fold(alias): spec for spec in known.values() for alias in spec.aliases}
    by_key |= {_fold(key): spec for key, spec in known.items()}
    by_key |= {_fold(alias): spec for key, spec in extra.items() for alias in (key, *spec.aliases)}
    found = by_key.get(_fold(name))
    if found is None:
        raise ConfigError(
            f"accelerator {name!r} is not in the catalogue{nearest(name, known)}; expected one of "
            f"{one_of(known, 64)}, or an entry of your own file (load_accelerators)"
        )
    return found


def load_accelerators(paths: Iterable[Path]) -> dict[str, AcceleratorSpec]:
    """Read the user's own accelerators from TOML or YAML files, a table per name with the fields of `AcceleratorSpec`.

    Raises:
        ConfigError: A file cannot be read, or a key is unknown, missing or of the wrong type.
    """
    found: dict[str, AcceleratorSpec] = {}
    for path in paths:
        found |= _entries(_read(path), str(path))
    return found


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


@cache
def catalogued_accelerators() -> Mapping[str, AcceleratorSpec]:
    """The accelerators that ship with the simulator, by name."""
    text = files(__package__).joinpath("accelerators.toml").read_text(encoding="utf-8")
    return MappingProxyType(_entries(tomllib.loads(text), "accelerators.toml"))


def _entries(tables: Any, place: str) -> dict[str, AcceleratorSpec]:
    if not isinstance(tables, Mapping):
        raise ConfigError(f"{place}: expected a table per accelerator, got {type(tables).__name__}")
    return {str(name): _entry(str(name), table, place) for name, table in tables.items()}


def _entry(name: str, table: Any, place: str) -> AcceleratorSpec:
    if not isinstance(table, Mapping):
        raise ConfigError(f"{place}: {name}: expected a table with the fields of an accelerator, got {table!r}")
    fields = AcceleratorSpec.__struct_fields__
    for key in table:
        if key not in fields:
            raise ConfigError(
                f"{place}: {name}.{key}: unknown key{nearest(str(key), fields)}; expected {one_of(fields, 32)}"
            )
    try:
        return msgspec.convert({**table, "name": name}, AcceleratorSpec)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{place}: {name}: {error}") from error


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the accelerator file: {error}") from error
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: not valid TOML: {error}") from error
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{path}: expected a .toml, .yaml or .yml file")
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
