"""Sections of a memory JSON that only we have: memories of type MEMORY_DEVICES, with devices of their own speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast, get_args

from msgspec.structs import replace

from llmservingsim.backend.config import MEMORY_DEVICES, Discipline, MemoryLevelModel, MemoryLinkModel, MemoryRateModel
from llmservingsim.backend.fields import Fields
from llmservingsim.errors import TraceError

_RATES = ("mem-latency", "mem-bw", "mem-write-bw")


def read_devices(fields: Fields) -> MemoryLevelModel:
    """Read a level.

    Raises:
        TraceError: Naming the file and the key, if one is missing or wrong.
    """
    discipline = cast("Discipline", fields.text("discipline", "fifo", get_args(Discipline)))
    channels = fields.integer("channels", 1)
    fields.require("channels", channels > 0, "a positive integer")
    columns = [fields.array(key, float) for key in _RATES]
    for key, column in zip(_RATES, columns, strict=True):
        fields.require(key, len(column) == len(columns[0]) > 0, f"a number per device, as in {_RATES[0]}")
        fields.require(key, all(float(value) >= 0 for value in column), "numbers that are not negative")
    rates = [
        MemoryRateModel(int(latency), float(read), float(write)) for latency, read, write in zip(*columns, strict=True)
    ]
    return MemoryLevelModel(
        MEMORY_DEVICES,
        num_devices=len(rates),
        discipline=discipline,
        channels=channels,
        rates=rates,
        interleaves=fields.lists("interleaves"),
        links=_links(fields),
        rank_links=fields.lists("rank-links"),
        device_links=fields.lists("device-links"),
    )


def _links(fields: Fields) -> list[MemoryLinkModel]:
    if "link-bw" not in fields:
        return []
    bandwidths, latencies = fields.array("link-bw", float), fields.array("link-latency", int)
    fields.require("link-latency", len(latencies) == len(bandwidths), "a number per link, as in link-bw")
    return [MemoryLinkModel(float(b), int(latency)) for b, latency in zip(bandwidths, latencies, strict=True)]


def devices_section(path: Path, level: MemoryLevelModel) -> dict[str, Any]:
    """Return the section of a level.

    Raises:
        TraceError: If its devices stand in the network, or their size is stated: there is no key for that.
    """
    if replace(level, endpoints=[], capacity_bytes=0) != level:
        raise TraceError(f"{path}: there is no key for endpoints and capacities of devices of a memory")
    rate = MemoryRateModel(level.latency_ns, level.bandwidth_gbps, level.write_bandwidth_gbps)
    rates = level.rates or [rate] * level.num_devices
    return {
        "memory-type": MEMORY_DEVICES,
        "discipline": level.discipline,
        "channels": level.channels,
        "mem-latency": [r.latency_ns for r in rates],
        "mem-bw": [r.bandwidth_gbps for r in rates],
        "mem-write-bw": [r.write_bandwidth_gbps for r in rates],
        **({"interleaves": level.interleaves} if level.interleaves else {}),
        **(_links_section(level) if level.discipline == "flow" else {}),
    }


def _links_section(level: MemoryLevelModel) -> dict[str, Any]:
    return {
        "link-bw": [link.bandwidth_gbps for link in level.links],
        "link-latency": [link.latency_ns for link in level.links],
        "rank-links": level.rank_links,
        "device-links": level.device_links,
    }
