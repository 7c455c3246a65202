"""Memories that compute, by name or from a DRAMSim3 file, each number with its source."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

from llmservingsim.config.catalog.pim_ini import read_pim_ini
from llmservingsim.errors import ConfigError, nearest, one_of
from llmservingsim.strict import convert
from llmservingsim.units import NS_PER_S, format_size

_FOLDERS_ABOVE = 3
"""How far up from the run file a DRAMSim3 file is looked for by its stem."""

_POSITIVE = (
    *("channels", "bankgroups", "banks_per_group", "rows", "columns", "bus_width", "burst_length", "data_rate"),
    *("tck_ns", "cl", "trcd", "trp", "tras", "trfc", "trefi", "tccd_s", "tccd_l", "channel_bytes", "banks_per_unit"),
    *("macs_per_unit", "unit_clock", "vectors_per_read", "banks_per_activate", "buffer_bytes", "accumulators"),
    "softmax_rate",
)


class PimSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A memory with multiply-accumulate (MAC) units; ``source`` gives a citation for each number.

    Timings are in clock cycles with the meaning that JEDEC's standards give them. A channel is what has its own command
    and data bus; of HBM that is a pseudo-channel where the memory has them.

    Attributes:
        protocol: Kind of DRAM, such as ``HBM2``.
        channels: Of one device: a stack, a package, a module or a card.
        bankgroups, banks_per_group: Of one channel.
        rows, columns: Of one bank; a column is as wide as the channel's bus.
        bus_width: Bits of a channel.
        burst_length: Transfers of one column access.
        data_rate: Transfers per second and pin.
        tck_ns: Clock cycle.
        cl, cwl: From a read or write command to its data.
        trcd, trp, tras: Row opened to column command, row closed, row open at least.
        trfc, trefi: A refresh, and the interval between two.
        tccd_s, tccd_l: Between column commands to different bank groups, and to the same one.
        tfaw: At most four activations fall into it.
        twr: Last data written to closing the row.
        channel_bytes: Memory of a channel that its units reach.
        unit_place: ``bank``: beside the banks, which all feed them at once; operands come and go over the bus.
            ``controller``: in the channel's controller, fed over the bus by one bank after another.
        banks_per_unit: Banks that share a unit; all of the channel for a controller.
        macs_per_unit, unit_clock: Multiply-accumulates per cycle of a unit, and its clock in Hz.
        vectors_per_read: Input vectors that a unit multiplies with what one column access read.
        banks_per_activate: Banks that open their row at the same time; 4 is what tFAW allows in plain DRAM.
        buffer_bytes: Input values that the units of a channel hold at a time.
        accumulators: Results that a unit holds at a time.
        softmax_rate: Values per second that the softmax unit of a channel's controller takes in.
        command_ns: From a matrix-vector product's request to its first command: mode registers, program.
        idle_w, active_w: Of a channel that waits, and of one whose units compute; 0 where nobody says.
        access_pj_per_bit: Energy of a bit read from a bank by a unit, 0 where nobody says.
    """

    name: str
    protocol: str
    bankgroups: int
    banks_per_group: int
    rows: int
    columns: int
    bus_width: int
    burst_length: int
    data_rate: float
    tck_ns: float
    cl: int
    cwl: int
    trcd: int
    trp: int
    tras: int
    trfc: int
    trefi: int
    tccd_s: int
    tccd_l: int
    tfaw: int
    twr: int
    channel_bytes: int
    banks_per_unit: int
    macs_per_unit: int
    unit_clock: float
    buffer_bytes: int
    accumulators: int
    softmax_rate: float
    command_ns: float
    vendor: str = ""
    channels: int = 1
    unit_place: Literal["bank", "controller"] = "bank"
    vectors_per_read: int = 1
    banks_per_activate: int = 4
    idle_w: float = 0.0
    active_w: float = 0.0
    access_pj_per_bit: float = 0.0
    aliases: tuple[str, ...] = ()
    source: dict[str, str] = {}

    def __post_init__(self) -> None:
        problem = _contradiction(self)
        if problem:
            raise ValueError(problem)

    @property
    def banks(self) -> int:
        """Banks of a channel."""
        return self.bankgroups * self.banks_per_group

    @property
    def units(self) -> int:
        """MAC units of a channel."""
        return self.banks // self.banks_per_unit

    @property
    def page_bytes(self) -> int:
        """What an open row of one bank holds."""
        return self.columns * self.bus_width // 8

    @property
    def access_bytes(self) -> int:
        """What one column access moves."""
        return self.bus_width * self.burst_length // 8

    @property
    def channel_bandwidth(self) -> float:
        """Bytes per second over the bus of a channel: ``bus_width / 8 * data_rate``."""
        return self.bus_width / 8 * self.data_rate

    @property
    def read_latency_ns(self) -> float:
        """From a read command to its data: ``CL * tCK``."""
        return self.cl * self.tck_ns

    @property
    def access_interval_ns(self) -> float:
        """Between two column accesses of one unit.

        All banks at once are spaced as accesses to the same bank group. A controller goes through the bank groups, and
        waits for the bus.
        """
        if self.unit_place == "bank":
            return self.tccd_l * self.tck_ns
        return max(self.tccd_s * self.tck_ns, self.burst_length / self.data_rate * NS_PER_S)

    @property
    def internal_bandwidth(self) -> float:
        """Bytes per second that reach the units of a channel while rows are open."""
        return self.units * self.access_bytes / self.access_interval_ns * NS_PER_S

    @property
    def flops(self) -> float:
        """Peak operations per second of a channel's units, two per MAC."""
        return 2 * self.units * self.macs_per_unit * self.unit_clock

    @property
    def device_bytes(self) -> int:
        """Memory of a device that its units reach."""
        return self.channels * self.channel_bytes

    def assumptions(self) -> dict[str, str]:
        """The numbers that nobody published, with the reason for each."""
        return {key: text for key, text in self.source.items() if text.startswith("assumed")}

    def channels_of(self, memory_bytes: int) -> int:
        """Return the channels of a memory of this size, ``memory_bytes // channel_bytes``.

        Raises:
            ConfigError: It is smaller than one channel.
        """
        if memory_bytes < self.channel_bytes:
            raise ConfigError(
                f"a memory of {format_size(memory_bytes)} is smaller than one channel of {self.name}; "
                f"expected at least {format_size(self.channel_bytes)}"
            )
        return memory_bytes // self.channel_bytes


def _contradiction(spec: PimSpec) -> str:
    """Say what is impossible about the numbers of a device; an empty string when nothing is."""
    for field in _POSITIVE:
        if getattr(spec, field) <= 0:
            return f"{field}: expected more than 0, got {getattr(spec, field)}"
    for field in ("cwl", "tfaw", "twr", "command_ns", "idle_w", "active_w", "access_pj_per_bit"):
        if getattr(spec, field) < 0:
            return f"{field}: expected at least 0, got {getattr(spec, field)}"
    held = spec.banks * spec.rows * spec.page_bytes
    wrong = {
        f"a row of {spec.columns} columns of {spec.bus_width} bits is no multiple of an access of "
        f"{spec.burst_length} columns": bool(spec.bus_width % 8 or spec.columns % spec.burst_length),
        f"banks_per_unit {spec.banks_per_unit} does not divide the {spec.banks} banks of a channel": bool(
            spec.banks % spec.banks_per_unit
        ),
        f"banks_per_unit: a unit in the controller reaches all {spec.banks} banks, got {spec.banks_per_unit}": (
            spec.unit_place == "controller" and spec.units != 1
        ),
        f"trfc {spec.trfc} leaves no time between refreshes every trefi {spec.trefi} cycles": spec.trfc >= spec.trefi,
        f"channel_bytes: {format_size(spec.channel_bytes)} is less than the {format_size(held)} of its banks": (
            held > spec.channel_bytes
        ),
    }
    return next((problem for problem, is_so in wrong.items() if is_so), "")


def find_pim(name: str, base: Path) -> PimSpec:
    """Return the device called ``name``, or the one that a DRAMSim3 file describes.

    Args:
        name: A name of the catalogue or an alias; case, spaces, dashes and underscores do not matter. Or the path of
            an INI file. Or its stem, as ``pim_config`` of LLMServingSim 2.0 has it.
        base: Where relative paths begin. Stems are looked for there, in its folders ``pim`` and ``pim_config``, and the
            same in the three folders above.

    Raises:
        ConfigError: Nothing answers to the name, or the file is wrong.
    """
    known = catalogued_pim()
    by_key = {_fold(alias): spec for spec in known.values() for alias in (*spec.aliases, spec.name)}
    found = by_key.get(_fold(name))
    if found is not None:
        return found
    if name.lower().endswith(".ini"):
        return _from_ini(base / name)
    for folder in [base, *base.absolute().parents[:_FOLDERS_ABOVE]]:
        for path in (folder / sub / f"{name}.ini" for sub in ("", "pim", "pim_config")):
            if path.is_file():
                return _from_ini(path)
    raise ConfigError(
        f"memory that computes {name!r} is not in the catalogue{nearest(name, known)}; expected one of "
        f"{one_of(known, 24)}, or the path or stem of a DRAMSim3 .ini file at {base.absolute()}"
    )


def _from_ini(path: Path) -> PimSpec:
    return convert(read_pim_ini(path), PimSpec, str(path), ConfigError)


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


@cache
def catalogued_pim() -> Mapping[str, PimSpec]:
    """The memories that compute that ship with the simulator, by name."""
    text = files(__package__).joinpath("pim.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    return MappingProxyType(
        {
            name: convert({**table, "name": name}, PimSpec, f"pim.toml: {name}", ConfigError)
            for name, table in tables.items()
        }
    )
