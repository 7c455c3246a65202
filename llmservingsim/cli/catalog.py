"""``llmservingsim catalog``: what the simulator knows by name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from llmservingsim.config.catalog import (
    AcceleratorSpec,
    catalogued_accelerators,
    catalogued_models,
    find_accelerator,
    find_model,
    load_accelerators,
)
from llmservingsim.model import kv_bytes_per_token, num_parameters
from llmservingsim.units import format_size

_PIPE_COLUMNS = 160


class Kind(StrEnum):
    """What can be listed."""

    HARDWARE = "hardware"
    MODELS = "models"


def catalog(
    kind: Annotated[Kind, typer.Argument(help="What to list.")] = Kind.HARDWARE,
    name: Annotated[str | None, typer.Argument(help="Show one entry with the source of each number.")] = None,
    hardware: Annotated[list[Path], typer.Option(help="File with accelerators of your own; repeatable.")] = [],
    models: Annotated[list[Path], typer.Option(help="Directory of model files; repeatable.")] = [],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the accelerators or models that the simulator knows, or show one of them."""
    own = load_accelerators(hardware) if hardware else {}
    if name is not None:
        entry = find_accelerator(name, own) if kind is Kind.HARDWARE else find_model(name, models)
        print(msgspec.json.format(msgspec.json.encode(entry), indent=2).decode())
    elif kind is Kind.HARDWARE:
        _list_hardware([*catalogued_accelerators().values(), *own.values()], as_json=as_json)
    else:
        _list_models(as_json=as_json)


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
