"""``llmservingsim profile``: where operator latencies come from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from llmservingsim.cli import profile_import
from llmservingsim.cli.profile_calibrate import calibrate
from llmservingsim.cli.profile_run import run
from llmservingsim.cli.profile_table import print_findings
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.errors import ConfigError, LLMServingSimError
from llmservingsim.latency.check import Subject, check_bundle
from llmservingsim.latency.kernel_database import SYSTEMS
from llmservingsim.model import ParallelLayout

app = typer.Typer(
    name="profile",
    help="Operator latencies: measure them, get them from elsewhere, and check them.",
    no_args_is_help=True,
)
app.command("run")(run)
app.command("calibrate")(calibrate)
app.add_typer(profile_import.app, name="import")


@app.callback()
def profile() -> None:
    """Operator latencies: measure them, get them from elsewhere, and check them."""


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
