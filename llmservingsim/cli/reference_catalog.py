"""The reference page of the catalogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmservingsim.cli.markdown import literal, table
from llmservingsim.config.catalog import (
    AcceleratorSpec,
    NetworkEntry,
    PimSpec,
    catalogued_accelerators,
    catalogued_models,
    catalogued_networks,
    catalogued_pim,
    find_model,
)
from llmservingsim.model import kv_bytes_per_token, num_parameters
from llmservingsim.units import format_size


def catalog_page(notice: str) -> str:
    """Accelerators, models, networks and memories with their numbers and where these come from, below ``notice``."""
    accelerators = list(catalogued_accelerators().values())
    parts = [notice, "# Catalogue\n"]
    parts.append(
        "What a run file may name under `hardware` and `model`. Letter case, spaces, dashes and underscores in an "
        "accelerator's name do not matter. Accelerators of your own come from `--hardware FILE`, models from "
        "`--models DIR` or as the path of a Hugging Face `config.json`.\n"
    )
    parts.append("## Accelerators\n\nFLOP/s are dense; a link counts one direction.\n")
    parts.append(table(_ACCELERATOR_COLUMNS, [_accelerator_row(a) for a in accelerators]))
    parts.append(
        "### Efficiencies\n\nShares of the peak that the roofline assumes; a profile bundle makes them unnecessary.\n"
    )
    columns = ("name", "gemm", "memory", "attention", "link", "kernel floor", "array", "reason")
    parts.append(table(columns, [_efficiency_row(a) for a in accelerators]))
    parts.append(
        "### Power and price\n\nWatts and US dollars of one device. Most are assumptions, and prices change from month "
        "to month: state your own where they matter. After work a device is in standby for the seconds in brackets.\n"
    )
    parts.append(table(_POWER_COLUMNS, [_power_row(a) for a in accelerators]))
    parts.append("### Sources\n")
    for accelerator in accelerators:
        rows = list(_sources(accelerator))
        parts.append(f"#### {accelerator.name}\n\n{table(('number', 'source'), rows)}")
    parts.append("## Models\n\nArchitecture numbers of the published `config.json` files.\n")
    parts.append(table(_MODEL_COLUMNS, [_model_row(name) for name in catalogued_models()]))
    parts.append(
        "Which families this version simulates stands in the [README](../../README.md#limits-of-this-version).\n"
    )
    return "\n".join([*parts, *_networks(), *_memories()])


def _networks() -> Iterator[str]:
    """Networks with their values and where these come from."""
    yield (
        "## Networks\n\nWhat a run file may name under `network.topology`; bandwidths are those of one direction. "
        "`network.options` replaces values, as in `{nodes: 16}`. [Topology files](configuration.md#topology-files) "
        "says what the keys mean.\n"
    )
    for entry in catalogued_networks().values():
        rows = [(f"`{path}`", _value_at(entry, path), source) for path, source in entry.source.items()]
        also = f" Also known as {', '.join(entry.aliases)}." if entry.aliases else ""
        lead = f"### {entry.name}\n\n`kind: {entry.topology['kind']}`. {entry.description}.{also}\n"
        yield f"{lead}\n{table(('key', 'value', 'source'), rows)}"


def _memories() -> Iterator[str]:
    """Memories that compute with their values and where these come from."""
    entries = list(catalogued_pim().values())
    yield (
        "## Memory that computes\n\nPer device: what its buses move, and what reaches its units while rows are open. "
        "[The device models](../concepts/pim.md) say what the keys mean for the time of an operator. Timings are clock "
        "cycles.\n"
    )
    columns = ("name", "DRAM", "memory", "channels", "bus", "units see", "peak", "units", "aliases")
    yield table(columns, [(*memory_cells(entry), ", ".join(entry.aliases) or "-") for entry in entries])
    for entry in entries:
        rows = [(f"`{key}`", literal(getattr(entry, key)), source) for key, source in entry.source.items()]
        yield f"### {entry.name}\n\n{table(('key', 'value', 'source'), rows)}"


def memory_cells(entry: PimSpec) -> tuple[str, ...]:
    """What a row on a memory that computes says, of the whole device: name to units."""
    return (
        entry.name,
        entry.protocol,
        format_size(entry.device_bytes),
        str(entry.channels),
        f"{entry.channels * entry.channel_bandwidth / 1e9:,.1f} GB/s",
        f"{entry.channels * entry.internal_bandwidth / 1e9:,.1f} GB/s",
        f"{entry.channels * entry.flops / 1e12:,.2f} TFLOP/s",
        f"{entry.channels * entry.units} ({entry.unit_place})",
    )


def _value_at(entry: NetworkEntry, path: str) -> str:
    value: Any = entry.topology
    for key in path.split("."):
        value = value[key]
    return f"{len(value)} of them" if isinstance(value, list) and isinstance(value[0], dict) else literal(value)


_ACCELERATOR_COLUMNS = ("name", "memory", "bandwidth", "bf16", "fp8", "link", "link latency", "units", "TDP", "aliases")
_POWER_COLUMNS = ("name", "idle", "standby", "active", "rent per hour", "buy")
_MODEL_COLUMNS = ("name", "family", "parameters", "layers", "hidden", "heads (KV)", "KV per token", "context")


def _accelerator_row(entry: AcceleratorSpec) -> tuple[str, ...]:
    return (
        entry.name,
        format_size(entry.memory_bytes),
        f"{entry.memory_bandwidth / 1e9:,.0f} GB/s",
        f"{entry.bf16_flops / 1e12:,.0f} TFLOP/s",
        f"{entry.fp8_flops / 1e12:,.0f} TFLOP/s" if entry.fp8_flops else "-",
        f"{entry.link_kind}, {entry.link_bandwidth / 1e9:,.0f} GB/s",
        f"{entry.link_latency_ns:,} ns",
        str(entry.num_compute_units),
        f"{entry.tdp_w:.0f} W" if entry.tdp_w else "-",
        ", ".join(entry.aliases) or "-",
    )


def _efficiency_row(entry: AcceleratorSpec) -> tuple[str, ...]:
    share = entry.efficiency
    shares = (str(value) for value in (share.gemm, share.memory, share.attention, share.link))
    array = " x ".join(map(str, entry.array_dims or "-"))
    return entry.name, *shares, f"{entry.kernel_launch_ns:,} ns", array, share.reason


def _power_row(entry: AcceleratorSpec) -> tuple[str, ...]:
    cells = ["-"] * 5
    if (power := entry.power) is not None:
        cells[0], cells[2] = f"{power.idle_w:,.0f} W", f"{power.active_w:,.0f} W"
        if power.standby_w is not None:
            cells[1] = f"{power.standby_w:,.0f} W ({power.standby_duration_s:g} s)"
    if (price := entry.price) is not None:
        cells[3] = "-" if price.rent_usd_per_hour is None else f"{price.rent_usd_per_hour:.2f}"
        cells[4] = "-" if price.buy_usd is None else f"{price.buy_usd:,.0f}"
    return entry.name, *cells


def _sources(entry: AcceleratorSpec) -> Iterator[tuple[str, str]]:
    """Each number of an entry with where it comes from; those of power and price with their section."""
    yield from ((f"`{key}`", source) for key, source in entry.source.items())
    for section, part in (("power", entry.power), ("price", entry.price)):
        if part is not None:
            yield from ((f"`{section}.{key}`", source) for key, source in part.source.items())


def _model_row(name: str) -> tuple[str, ...]:
    model = find_model(name)
    return (
        f"`{name}`",
        model.family.value,
        f"{num_parameters(model) / 1e9:,.2f} B",
        str(model.num_layers),
        str(model.hidden_size),
        f"{model.num_heads} ({model.num_kv_heads})",
        format_size(kv_bytes_per_token(model)),
        f"{model.max_position_embeddings:,}",
    )
