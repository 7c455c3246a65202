"""``llmservingsim profile``: where operator latencies come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llmservingsim.cli.degrees import parse_degrees
from llmservingsim.cli.profile_run import run
from llmservingsim.cli.profile_table import print_findings
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.errors import ConfigError, LLMServingSimError, one_of
from llmservingsim.latency import (
    KernelDatabase,
    MeasuredKernels,
    bundle_name,
    system_of,
)
from llmservingsim.latency.check import Subject, check_bundle
from llmservingsim.latency.freeze import write_bundle, write_collectives
from llmservingsim.latency.kernel_database import ENGINES, SYSTEMS
from llmservingsim.model import ParallelLayout, check_layout

app = typer.Typer(
    name="profile",
    help="Operator latencies: measure them, get them from elsewhere, and check them.",
    no_args_is_help=True,
)


class Source(StrEnum):
    """Where profiles can be imported from."""

    AICONFIGURATOR = "aiconfigurator"


app.command("run")(run)


@app.callback()
def profile() -> None:
    """Operator latencies: measure them, get them from elsewhere, and check them."""


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
    for degree in parse_degrees(tp):
        layout = ParallelLayout(degree)
        check_layout(found, layout)
        folder = root / bundle_name(found, degree)
        write_bundle(MeasuredKernels(database, found, layout), accelerator, folder)
        print(folder)
    if collectives := write_collectives(database, root / "collectives.csv"):
        print(collectives)


@app.command("systems")
def systems() -> None:
    """List the accelerators whose kernels a database can tell."""
    for hardware, system in SYSTEMS.items():
        print(f"{hardware:<12} {system}")


@app.command("check")
def check(
    bundle: Annotated[Path, typer.Argument(help="A tp<N> folder, or any folder above some.")],
    hardware: Annotated[str | None, typer.Option(help="It was measured on; by default as its path says.")] = None,
    model: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    models: Annotated[list[Path], typer.Option(help="Directory of model files; repeatable.")] = [],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell how far a bundle can be trusted: coverage, contradictions, errors of points that are left out, peaks."""
    folders = sorted(path.parent for path in bundle.rglob("dense.csv"))
    if not folders:
        raise ConfigError(
            f"{bundle}: there is no bundle; expected a folder with a dense.csv, or one above such folders"
        )
    told: dict[str, Any] = {}
    for folder in folders:
        subject = _subject(folder.resolve(), hardware, model, models)
        findings = check_bundle(folder, subject)
        told[str(folder)] = [{**found._asdict(), "problems": found.problems} for found in findings]
        if not as_json:
            print_findings(str(folder), findings, is_subject_known=subject is not None)
    if as_json:
        print(json.dumps(told, indent=2))


def _subject(folder: Path, hardware: str | None, model: str | None, models: Sequence[Path]) -> Subject | None:
    """What a bundle was measured on: as stated, else as its ``<hardware>/<org>/<model>/<variant>/tp<N>`` says."""
    *_, device, organisation, name, _, degree = ("", "", "", "", "", *folder.parts)
    try:
        accelerator = find_accelerator(hardware or device)
        found = find_model(model or f"{organisation}/{name}", models)
    except LLMServingSimError:
        if hardware is not None or model is not None:
            raise
        return None
    tp = degree.removeprefix("tp")
    return Subject(found, ParallelLayout(int(tp) if tp.isdecimal() else 1), accelerator)
