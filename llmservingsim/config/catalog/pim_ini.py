"""DRAMSim3's INI files, as LLMServingSim 2.0 extends them, to the fields of a `PimSpec`.

Format: Li et al., "DRAMsim3: a Cycle-accurate, Thermal-Capable DRAM Simulator", IEEE CAL 19(2), 2020. LLMServingSim
adds ``data_rate``, ``idle_power`` and ``peak_power`` to the section ``[other]``. Keys that this program has no use for
are not looked at. The file describes a memory, not its units: those are assumed to be HBM-PIM's (one for two banks) for
HBM and LPDDR, and GDDR6-AiM's (one beside each bank) for other DRAM.
"""

from __future__ import annotations

import configparser
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmservingsim.errors import ConfigError, nearest, shown

_MIB = 2**20
_ELEMENT_BYTES = 2
_KIND = re.compile(r"(HBM|LPDDR|GDDR|DDR)\d[A-Z]?(?=[^A-Za-z0-9]|$)", re.IGNORECASE)


class _Key(NamedTuple):
    """Where a number stands, other names that it has there, and what to take when it is left out."""

    section: str
    names: tuple[str, ...]
    default: float | None = None
    is_whole: bool = True
    least: float = 1


_KEYS = {
    "bankgroups": _Key("dram_structure", ("bankgroups",)),
    "banks_per_group": _Key("dram_structure", ("banks_per_group",)),
    "rows": _Key("dram_structure", ("rows",)),
    "columns": _Key("dram_structure", ("columns",)),
    "burst_length": _Key("dram_structure", ("BL",)),
    "bus_width": _Key("system", ("bus_width",)),
    "channel_mib": _Key("system", ("channel_size",)),
    "tck_ns": _Key("timing", ("tCK",), is_whole=False, least=0),
    "cl": _Key("timing", ("CL",)),
    "cwl": _Key("timing", ("CWL",), least=0),
    "trcd": _Key("timing", ("tRCD", "tRCDRD")),
    "trp": _Key("timing", ("tRP",)),
    "tras": _Key("timing", ("tRAS",)),
    "trfc": _Key("timing", ("tRFC",)),
    "trefi": _Key("timing", ("tREFI",)),
    "tccd_s": _Key("timing", ("tCCD_S",)),
    "tccd_l": _Key("timing", ("tCCD_L",)),
    "tfaw": _Key("timing", ("tFAW",), least=0),
    "twr": _Key("timing", ("tWR",), least=0),
    "data_rate_mt": _Key("other", ("data_rate",), default=math.nan, is_whole=False, least=0),
    "idle_mw": _Key("other", ("idle_power",), default=math.nan, is_whole=False, least=0),
    "peak_mw": _Key("other", ("peak_power",), default=math.nan, is_whole=False, least=0),
}
_ABOVE_ZERO = {"tck_ns", "data_rate_mt"}

_COMMON_UNITS: dict[str, object] = {
    "vectors_per_read": 1,
    "banks_per_activate": 4,
    "softmax_rate": 16e9,
    "command_ns": 100.0,
}
_UNITS_OF_PAIRS: dict[str, object] = {"banks_per_unit": 2, "buffer_bytes": 256, "accumulators": 128}
_UNITS_OF_BANKS: dict[str, object] = {"banks_per_unit": 1, "buffer_bytes": 2048, "accumulators": 1}
_ASSUMED_UNITS = {
    "macs_per_unit": "assumed: as many as 16-bit values are in one access",
    "unit_clock": "assumed: one access every tCCD_L",
    "vectors_per_read": "assumed: an access feeds one product, as in HBM-PIM and GDDR6-AiM",
    "banks_per_activate": "assumed: four, as tFAW allows",
    "softmax_rate": "assumed: 16 lanes at 1 GHz in the controller",
    "command_ns": "assumed: a few mode register commands",
}


def read_pim_ini(path: Path) -> dict[str, Any]:
    """Read a file into the fields of a `PimSpec`, of which one channel makes a device.

    Raises:
        ConfigError: The file cannot be read, is no INI, or a key is missing or no number; with file, line and key.
    """
    lines, sections = _parse(path)
    reader = _Reader(path, lines, sections)
    values = {field: reader.number(key, above_zero=field in _ABOVE_ZERO) for field, key in _KEYS.items()}
    return _fields(path, values, reader.text("dram_structure", "protocol"))


def _fields(path: Path, values: Mapping[str, float], protocol: str) -> dict[str, Any]:
    file = f"{path.name}"
    direct = {field for field in _KEYS if field not in ("channel_mib", "data_rate_mt", "idle_mw", "peak_mw")}
    source = {field: f"{file}: {_KEYS[field].names[0]}" for field in direct}
    fields: dict[str, Any] = {field: values[field] for field in direct}
    found = _KIND.match(path.stem)
    fields |= {"name": path.stem, "protocol": (found[0] if found else protocol).upper()}
    fields["channel_bytes"] = round(values["channel_mib"] * _MIB)
    source["channel_bytes"] = f"{file}: channel_size, MB of 2^20 bytes"
    stated = values["data_rate_mt"]
    fields["data_rate"] = (2e3 / values["tck_ns"] if math.isnan(stated) else stated) * 1e6
    source["data_rate"] = "assumed: two transfers per tCK" if math.isnan(stated) else f"{file}: data_rate, MT/s"
    for field, key, name in (("idle_w", "idle_mw", "idle_power"), ("active_w", "peak_mw", "peak_power")):
        if not math.isnan(values[key]):
            fields[field] = values[key] / 1e3
            source[field] = f"{file}: {name}, mW per channel"
    has_pairs = fields["protocol"].startswith(("HBM", "LPDDR")) and fields["bankgroups"] * fields["banks_per_group"] > 1
    units = _UNITS_OF_PAIRS if has_pairs else _UNITS_OF_BANKS
    source |= dict.fromkeys(units, f"assumed: as {'HBM-PIM' if has_pairs else 'GDDR6-AiM'}")
    fields |= _COMMON_UNITS | units
    fields["macs_per_unit"] = max(1, fields["bus_width"] * fields["burst_length"] // (8 * _ELEMENT_BYTES))
    fields["unit_clock"] = 1e9 / (fields["tccd_l"] * fields["tck_ns"])
    fields["source"] = dict(
        sorted((source | _ASSUMED_UNITS | {"channels": "assumed: a device of one channel"}).items())
    )
    return fields


def _parse(path: Path) -> tuple[list[str], configparser.ConfigParser]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the DRAMSim3 file: {error}") from error
    sections = configparser.ConfigParser(
        inline_comment_prefixes=("#", ";"), interpolation=None, default_section="", allow_no_value=True
    )
    try:
        sections.read_string(text, source=str(path))
    except configparser.DuplicateOptionError as error:
        raise ConfigError(f"{path}:{error.lineno}: [{error.section}] has {error.option!r} twice") from error
    except configparser.DuplicateSectionError as error:
        raise ConfigError(f"{path}:{error.lineno}: section [{error.section}] stands there twice") from error
    except configparser.MissingSectionHeaderError as error:
        raise ConfigError(f"{path}:{error.lineno}: expected a section such as [timing] first") from error
    except configparser.ParsingError as error:
        raise ConfigError(f"{path}:{error.errors[0][0]}: expected a line 'key = value'") from error
    return text.splitlines(), sections


class _Reader:
    """Looks up keys, and says where in the file something is wrong."""

    def __init__(self, path: Path, lines: list[str], sections: configparser.ConfigParser) -> None:
        self._path = path
        self._lines = lines
        self._sections = sections

    def number(self, key: _Key, *, above_zero: bool) -> float:
        """Return the value of a key, of any of its names; NaN where it may be left out and is."""
        for name in key.names:
            if self._sections.has_option(key.section, name):
                return self._number(key, name, above_zero)
        if key.default is not None:
            return key.default
        raise self._missing(key.section, key.names, "a number")

    def text(self, section: str, name: str) -> str:
        """Return the value of a key as it stands there."""
        value = self._sections.get(section, name, fallback=None)
        if not value:
            raise self._missing(section, (name,), "a kind of DRAM such as HBM")
        return value

    def _number(self, key: _Key, name: str, above_zero: bool) -> float:
        written = self._sections.get(key.section, name) or ""
        kind = "whole number" if key.is_whole else "number"
        bound = "more than 0" if above_zero else f"at least {key.least:g}"
        try:
            value = float(int(written)) if key.is_whole else float(written)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < key.least or (above_zero and value == 0):
            line = self._line(key.section, name)
            raise ConfigError(
                f"{self._path}:{line}: [{key.section}] {name}: expected a {kind} of {bound}, got {shown(written)}"
            )
        return int(value) if key.is_whole else value

    def _missing(self, section: str, names: tuple[str, ...], what: str) -> ConfigError:
        if not self._sections.has_section(section):
            near = nearest(section, self._sections.sections())
            return ConfigError(f"{self._path}: section [{section}] is missing{near}; expected {names[0]} there")
        also = f" (or {', '.join(names[1:])})" if names[1:] else ""
        near = nearest(names[0], self._sections.options(section))
        return ConfigError(f"{self._path}: [{section}] {names[0]}{also} is missing{near}; expected {what}")

    def _line(self, section: str, name: str) -> int:
        """Number of the line in which a key of a section stands, from 1."""
        current = ""
        for number, line in enumerate(self._lines, 1):
            header = re.match(r"\s*\[(?P<name>[^\]]+)\]", line)
            if header:
                current = header["name"]
            elif current == section and re.match(rf"\s*{re.escape(name)}\s*[=:]", line, re.IGNORECASE):
                return number
        return 0
