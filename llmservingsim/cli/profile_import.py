"""``llmservingsim profile import``: what other programs measured, as profile bundles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from llmservingsim.cli.degrees import parse_degrees
from llmservingsim.config import OperatorTableSpec
from llmservingsim.config.catalog import (
    AcceleratorSpec,
    ModelSpec,
    find_accelerator,
    find_model,
    load_accelerators,
)
from llmservingsim.config.load import read_data
from llmservingsim.errors import ConfigError, one_of
from llmservingsim.latency import KernelDatabase, MeasuredKernels, bundle_name, system_of
from llmservingsim.latency.freeze import MeasuredOperators, write_bundle, write_collective_rows, write_collectives
from llmservingsim.latency.frozen_table import freeze_table
from llmservingsim.latency.kernel_database import ENGINES
from llmservingsim.latency.vidur import VidurProfiles, fit_link, read_transfers
from llmservingsim.model import ParallelLayout, check_layout
from llmservingsim.strict import convert

_VIDUR_NEEDED = ("mlp", "attention")
_VIDUR_FILES = (*_VIDUR_NEEDED, "all_reduce", "send_recv")

app = typer.Typer(name="import", help="Write what other programs measured as profile bundles.", no_args_is_help=True)

Model = Annotated[str, typer.Option(help="Catalogued model, or one of --models.")]
Hardware = Annotated[str, typer.Option(help="Catalogued accelerator, or one of --hardware-file.")]
HardwareFiles = Annotated[list[Path], typer.Option("--hardware-file", help="Your own accelerators; repeatable.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Directory of bundles to write into.")]
Degrees = Annotated[str, typer.Option(help="Tensor-parallel sizes, as 1,2,4.")]
Models = Annotated[list[Path], typer.Option(help="Directory of model files; repeatable.")]


@app.callback()
def import_profile() -> None:
    """Write what other programs measured as profile bundles."""


@app.command("aiconfigurator")
def import_aiconfigurator(
    model: Model,
    hardware: Hardware,
    output: Output,
    tp: Degrees = "1",
    engine: Annotated[str, typer.Option(help="Whose kernels: vllm, sglang or trtllm.")] = "vllm",
    version: Annotated[str | None, typer.Option(help="Of the engine; by default the newest.")] = None,
    system: Annotated[str | None, typer.Option(help="As h200_sxm; by default that of the hardware.")] = None,
    models: Models = [],
    hardware_files: HardwareFiles = [],
) -> None:
    """From the database of measured kernels (extra `aiconfigurator`), with the system's all-reduces beside."""
    accelerator, found = find_accelerator(hardware, load_accelerators(hardware_files)), find_model(model, models)
    if engine not in ENGINES:
        raise ConfigError(f"--engine {engine}: expected one of {one_of(ENGINES)}")
    database = KernelDatabase(system or system_of(accelerator.name), engine, version)

    def measured(layout: ParallelLayout) -> MeasuredOperators:
        return MeasuredKernels(database, found, layout, whole_experts=True).operators()

    root = _write(output, accelerator, found, tp, measured)
    if collectives := write_collectives(database, root / "collectives.csv"):
        print(collectives)


@app.command("vidur")
def import_vidur(
    profiles: Annotated[
        list[Path],
        typer.Argument(help="Folders or files: mlp.csv and attention.csv, and if there all_reduce.csv, send_recv.csv."),
    ],
    model: Model,
    hardware: Hardware,
    output: Output,
    tp: Degrees = "1",
    models: Models = [],
    hardware_files: HardwareFiles = [],
) -> None:
    """From profiles of Vidur; medians count, and the slowest rank of a transfer."""
    files = _vidur_files(profiles)
    accelerator, found = find_accelerator(hardware, load_accelerators(hardware_files)), find_model(model, models)
    measured = VidurProfiles(files["mlp"], files["attention"], found)
    root = _write(output, accelerator, found, tp, measured.of)
    if path := files.get("all_reduce"):
        reduced = {("all_reduce", *key): time_us for key, time_us in read_transfers(path, "all_reduce").items()}
        print(write_collective_rows(reduced, root / "collectives.csv"))
    if path := files.get("send_recv"):
        latency_us, bytes_per_us = fit_link(read_transfers(path, "send_recv"))
        print(f"send_recv.csv: a link of {bytes_per_us / 1e3:.1f} GB/s and {latency_us:.1f} us")


@app.command("csv")
def import_csv(
    table: Annotated[Path, typer.Argument(help="CSV with a row per operator and shape.")],
    mapping: Annotated[
        Path, typer.Option(help="What its columns and rows mean: the keys of latency.table of a run file.")
    ],
    model: Model,
    hardware: Hardware,
    output: Output,
    tp: Degrees = "1",
    models: Models = [],
    hardware_files: HardwareFiles = [],
) -> None:
    """From a table of operator times."""
    stated = read_data(mapping)
    if not isinstance(stated, dict):
        raise ConfigError(f"{mapping}: expected keys and their values, 'columns' and 'operators' among them")
    spec = convert({**stated, "path": str(table)}, OperatorTableSpec, str(mapping), ConfigError)
    accelerator, found = find_accelerator(hardware, load_accelerators(hardware_files)), find_model(model, models)
    _write(output, accelerator, found, tp, lambda cut: freeze_table(table, spec, found, cut, accelerator))


def _write(
    output: Path,
    accelerator: AcceleratorSpec,
    model: ModelSpec,
    tp: str,
    measured: Callable[[ParallelLayout], MeasuredOperators],
) -> Path:
    """Write a bundle for each tensor-parallel size; return the folder of the hardware."""
    root = output / accelerator.name
    for degree in parse_degrees(tp):
        layout = ParallelLayout(degree)
        check_layout(model, layout)
        folder = root / bundle_name(model, degree)
        write_bundle(measured(layout), accelerator, folder)
        print(folder)
    return root


def _vidur_files(given: Sequence[Path]) -> dict[str, Path]:
    """Return the files of Vidur by their names, from folders and files."""
    found: dict[str, Path] = {}
    for path in given:
        inside = [path / f"{name}.csv" for name in _VIDUR_FILES if (path / f"{name}.csv").is_file()]
        if path.is_dir() and not inside:
            raise ConfigError(f"{path}: holds none of {', '.join(f'{name}.csv' for name in _VIDUR_FILES)}")
        for file in inside or [path]:
            if file.stem not in _VIDUR_FILES:
                raise ConfigError(f"{file}: expected a file named {one_of(f'{name}.csv' for name in _VIDUR_FILES)}")
            if file.stem in found:
                raise ConfigError(f"{file}: {found[file.stem]} is one already; expected one {file.name}")
            found[file.stem] = file
    for name in _VIDUR_NEEDED:
        if name not in found:
            raise ConfigError(f"{', '.join(map(str, given))}: there is no {name}.csv; expected it beside the others")
    return found
