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
        kernel_launch_ns: Floor under the time of any kernel.
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
    efficiency: EfficiencySpec = EfficiencySpec()
    aliases: tuple[str, ...] = ()
    source: dict[str, str] = {}

    def __post_init__(self) -> None:
        for field in ("memory_bytes", "memory_bandwidth", "bf16_flops", "link_bandwidth", "num_compute_units"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{field}: expected more than 0, got {getattr(self, field)}")

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
            f"{one_of(known, 24)}, or an entry of your own file (load_accelerators)"
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
                f"{place}: {name}.{key}: unknown key{nearest(str(key), fields)}; expected {one_of(fields, 24)}"
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
