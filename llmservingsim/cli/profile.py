"""``llmservingsim profile``: where operator latencies come from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.errors import ConfigError, one_of
from llmservingsim.latency import (
    KernelDatabase,
    MeasuredKernels,
    freeze_name,
    system_of,
    write_bundle,
    write_collectives,
)
from llmservingsim.latency.kernel_database import ENGINES, SYSTEMS
from llmservingsim.model import ParallelLayout, check_layout

app = typer.Typer(name="profile", help="Operator latencies: get them from elsewhere.", no_args_is_help=True)


class Source(StrEnum):
    """Where profiles can be imported from."""

    AICONFIGURATOR = "aiconfigurator"


@app.callback()
def profile() -> None:
    """Operator latencies: get them from elsewhere."""


@app.command("import")
def import_profile(
    source: Annotated[Source, typer.Argument(help="Database of measured kernels; needs the extra of its name.")],
    model: Annotated[str, typer.Option(help="Catalogued model, or one of --models.")],
    hardware: Annotated[str, typer.Option(help="Catalogued accelerator.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of bundles to write into.")],
    tp: Annotated[str, typer.Option(help="Tensor-parallel sizes, as 1,2,4.")] = "1",
    engine: Annotated[str, typer.Option(help="Whose kernels: vllm, sglang or trtllm.")] = "vllm",
    version: Annotated[str | None, typer.Option(help="Of the engine; by default the newest.")] = None,
    system: Annotated[str | None, typer.Option(help="As h200_sxm; by default that of the hardware.")] = None,
    models: Annotated[list[Path], typer.Option(help="Directory of model files; repeatable.")] = [],
) -> None:
    """Write what a database says of a model as a profile bundle, and the system's all-reduces beside it."""
    del source  # there is one
    accelerator = find_accelerator(hardware)
    found = find_model(model, models)
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: expected one of {one_of(ENGINES)}")
    database = KernelDatabase(system or system_of(accelerator.name), engine, version)
    root = output / accelerator.name
    for degree in _degrees(tp):
        layout = ParallelLayout(degree)
        check_layout(found, layout)
        folder = root / freeze_name(found, degree)
        write_bundle(MeasuredKernels(database, found, layout), accelerator, folder)
        print(folder)
    if collectives := write_collectives(database, root / "collectives.csv"):
        print(collectives)


@app.command("systems")
def systems() -> None:
    """List the accelerators whose kernels a database can tell."""
    for hardware, system in SYSTEMS.items():
        print(f"{hardware:<12} {system}")


def _degrees(text: str) -> list[int]:
    degrees = [int(part) for part in text.split(",") if part.strip().isdecimal()]
    if len(degrees) != len(text.split(",")) or 0 in degrees:
        raise ConfigError(f"--tp {text}: expected numbers of devices, as 1,2,4")
    return degrees
