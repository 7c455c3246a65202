"""``llmservingsim profile calibrate``: what bundles of a device say of it, and of a model that is none of theirs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from llmservingsim.config.catalog import find_accelerator
from llmservingsim.errors import ConfigError, one_of
from llmservingsim.latency import SHIPPED
from llmservingsim.latency.calibration import Errors, Fit
from llmservingsim.latency.measured import Measured, find_bundles
from llmservingsim.latency.models_left_out import LeftOut, leave_out

_PIPE_COLUMNS = 160


def calibrate(
    hardware: Annotated[str, typer.Option(help="Catalogued accelerator; its name is that of a folder of bundles.")],
    profiles: Annotated[
        list[Path] | None,
        typer.Argument(help="Directories of bundles; by default those that ship.", metavar="DIRECTORY"),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Bundles of this precision alone, as bf16.")] = None,
    models: Annotated[list[Path], typer.Option(help="Directory of model files; repeatable.")] = [],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Fit a roofline to the bundles of a device; tell its figures, and its errors on models that were left out."""
    accelerator = find_accelerator(hardware)
    found = find_bundles(profiles or [SHIPPED], accelerator.name, models)
    bundles = [bundle for bundle in found if variant in (None, bundle.variant)]
    if not bundles:
        has = one_of({bundle.variant for bundle in found})
        raise ConfigError(f"--variant {variant}: there is no bundle of precision {variant}; expected one of {has}")
    measured = Measured.read(bundles, accelerator)
    fit = Fit.to(measured)
    left_out = [leave_out(measured, model) for model in measured.models] if len(measured.models) > 1 else []
    if as_json:
        print(json.dumps(_told(fit, left_out), indent=2))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_COLUMNS)
    console.print(f"{accelerator.name}: {len(bundles)} bundles of {', '.join(measured.models)}", soft_wrap=True)
    console.print(_figures_table(fit))
    if not left_out:
        console.print("one model was measured, so none can be left out")
        return
    console.print(_classes_table(left_out))
    console.print(_iterations_table(left_out))


def _told(fit: Fit, found: Sequence[LeftOut]) -> dict[str, Any]:
    return {
        "bundles": [str(bundle.folder) for bundle in fit.bundles],
        "figures": fit.calibration.named_figures(),
        "fit_error_pct": {name: error._asdict() for name, error in fit.errors.items()},
        "left_out": [
            {
                "model": one.model,
                "fitted_to": one.fitted_to,
                "error_pct": {
                    of.operator_class: {
                        "calibrated": of.calibrated and of.calibrated._asdict(),
                        "roofline": of.roofline._asdict(),
                    }
                    for of in one.classes
                },
                "iterations": [iteration._asdict() for iteration in one.iterations],
            }
            for one in found
        ],
    }


def _figures_table(fit: Fit) -> Table:
    table = Table("operators", "figures")
    for head in ("points", "fit: mean", "p95"):
        table.add_column(head, justify="right")
    figures = fit.calibration.named_figures()
    for name, error in sorted(fit.errors.items()):
        told = ", ".join(f"{key} {value:.3g}" for key, value in figures.get(name, {}).items())
        table.add_row(name, told or "those of matrix products", str(error.points), *_percents(error))
    return table


def _classes_table(found: Sequence[LeftOut]) -> Table:
    table = Table("left out", "operators")
    for head in ("points", "calibrated: mean", "p95", "roofline: mean", "p95"):
        table.add_column(head, justify="right")
    for one in found:
        for of in one.classes:
            points = str(of.roofline.points)
            table.add_row(one.model, of.operator_class, points, *_percents(of.calibrated), *_percents(of.roofline))
        table.add_section()
    return table


def _iterations_table(found: Sequence[LeftOut]) -> Table:
    table = Table("left out", "tp", "iteration")
    for head in ("measured operators", "calibrated", "roofline"):
        table.add_column(head, justify="right")
    for one in found:
        for of in one.iterations:
            signed = (f"{of.calibrated_pct:+.1f} %", f"{of.roofline_pct:+.1f} %")
            table.add_row(one.model, str(of.tp), of.phase, f"{of.measured_ms:.2f} ms", *signed)
        table.add_section()
    return table


def _percents(error: Errors | None) -> tuple[str, str]:
    return ("not measured", "") if error is None else (f"{error.mean:.1f} %", f"{error.p95:.0f} %")
