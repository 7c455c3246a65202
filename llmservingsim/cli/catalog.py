"""``llmservingsim catalog``: what the simulator knows by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from llmservingsim.backend.topologies import build_network, parse_topology
from llmservingsim.cli.reference_catalog import memory_cells
from llmservingsim.config.catalog import (
    AcceleratorSpec,
    ModelSpec,
    NetworkEntry,
    PimSpec,
    catalogued_accelerators,
    catalogued_models,
    catalogued_networks,
    catalogued_pim,
    find_accelerator,
    find_model,
    find_network,
    find_pim,
    load_accelerators,
)
from llmservingsim.model import kv_bytes_per_token, num_parameters
from llmservingsim.units import format_size

_PIPE_COLUMNS = 160


class Kind(StrEnum):
    """What can be listed."""

    HARDWARE = "hardware"
    MODELS = "models"
    NETWORKS = "networks"
    PIM = "pim"


def catalog(
    kind: Annotated[Kind, typer.Argument(help="What to list.")] = Kind.HARDWARE,
    name: Annotated[str | None, typer.Argument(help="Show one entry with the source of each number.")] = None,
    hardware: Annotated[list[Path], typer.Option(help="File with accelerators of your own; repeatable.")] = [],
    models: Annotated[list[Path], typer.Option(help="Directory of model files; repeatable.")] = [],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the accelerators, models, networks or memories that compute that the simulator knows, or show one of them.

    A memory that computes may also be a DRAMSim3 .ini file.
    """
    own = load_accelerators(hardware) if hardware else {}
    if name is not None:
        entry = _find(kind, name, own, models)
        print(msgspec.json.format(msgspec.json.encode(entry), indent=2).decode())
    elif kind is Kind.HARDWARE:
        _list_hardware([*catalogued_accelerators().values(), *own.values()], as_json=as_json)
    elif kind is Kind.MODELS:
        _list_models(as_json=as_json)
    elif kind is Kind.NETWORKS:
        _list_networks(as_json=as_json)
    else:
        _list_pim(as_json=as_json)


def _find(
    kind: Kind, name: str, own: Mapping[str, AcceleratorSpec], models: Sequence[Path]
) -> AcceleratorSpec | ModelSpec | NetworkEntry | PimSpec:
    if kind is Kind.HARDWARE:
        return find_accelerator(name, own)
    if kind is Kind.PIM:
        return find_pim(name, Path())
    return find_model(name, models) if kind is Kind.MODELS else find_network(name)


def _list_hardware(entries: list[AcceleratorSpec], *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(entries).decode())
        return
    table = Table(Column("name", no_wrap=True), "memory", "bandwidth", "bf16 dense", "fp8 dense", "link", "TDP")
    for entry in entries:
        table.add_row(
            entry.name,
            format_size(entry.memory_bytes),
            f"{entry.memory_bandwidth / 1e9:,.0f} GB/s",
            f"{entry.bf16_flops / 1e12:,.0f} TFLOP/s",
            f"{entry.fp8_flops / 1e12:,.0f} TFLOP/s" if entry.fp8_flops else "-",
            f"{entry.link_kind} {entry.link_bandwidth / 1e9:,.0f} GB/s",
            f"{entry.tdp_w:.0f} W" if entry.tdp_w else "-",
        )
    _print(table)


def _print(table: Table) -> None:
    """Print a table; a file or a pipe has no width, so nothing is wrapped or cut there."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_COLUMNS)
    console.print(table)


def _list_models(*, as_json: bool) -> None:
    entries = [find_model(name, ()) for name in catalogued_models()]
    if as_json:
        print(msgspec.json.encode(entries).decode())
        return
    table = Table(Column("name", no_wrap=True), "family", "parameters", "layers", "hidden", "KV per token", "context")
    for entry in entries:
        table.add_row(
            entry.name,
            entry.family.value,
            f"{num_parameters(entry) / 1e9:,.2f} B",
            str(entry.num_layers),
            str(entry.hidden_size),
            format_size(kv_bytes_per_token(entry)),
            f"{entry.max_position_embeddings:,}",
        )
    _print(table)


def _list_networks(*, as_json: bool) -> None:
    entries = list(catalogued_networks().values())
    if as_json:
        print(msgspec.json.encode(entries).decode())
        return
    table = Table(Column("name", no_wrap=True), "kind", "shape", "description")
    for entry in entries:
        shape = build_network(parse_topology(entry.topology, entry.name)).npus_count
        table.add_row(entry.name, entry.topology["kind"], " x ".join(map(str, shape)), entry.description)
    _print(table)


def _list_pim(*, as_json: bool) -> None:
    entries = list(catalogued_pim().values())
    if as_json:
        print(msgspec.json.encode(entries).decode())
        return
    table = Table(Column("name", no_wrap=True), "DRAM", "device", "channels", "bus", "units see", "peak", "units")
    for entry in entries:
        table.add_row(*memory_cells(entry))
    _print(table)
