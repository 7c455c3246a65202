"""``llmservingsim run``: simulate a config under a request trace."""

from __future__ import annotations

import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from llmservingsim.api import Run, RunOptions
from llmservingsim.astra_sim import AstraSimBackend
from llmservingsim.backend import NativeBackend
from llmservingsim.backend.astra_binary import TIMEOUT_S, AstraSimBinary
from llmservingsim.cli.progress import LiveProgress
from llmservingsim.cli.tables import print_summary
from llmservingsim.errors import ConfigError, LLMServingSimError
from llmservingsim.export import parse_iterations
from llmservingsim.report import SimulationResult
from llmservingsim.resolve import BackendFactory


class BackendName(StrEnum):
    """What times graphs."""

    NATIVE = "native"
    ASTRA_SIM = "astra-sim"


Config = Annotated[Path, typer.Argument(help="Run file (YAML, TOML, JSON), or a cluster file of LLMServingSim 2.0.")]
Workload = Annotated[Path | None, typer.Option("--workload", "-w", help="Request trace (JSONL).")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Directory for the results.")]
Overrides = Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a leaf of the config.")]
Profiles = Annotated[list[Path], typer.Option(help="Directory of profile bundles; repeatable.")]
Models = Annotated[list[Path], typer.Option(help="Directory of model files; repeatable.")]
Hardware = Annotated[list[Path], typer.Option(help="File with accelerators of your own; repeatable.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of random policies; the built-in ones draw nothing.")]
NumRequests = Annotated[int | None, typer.Option(min=0, help="Serve no more than so many requests.")]
Interval = Annotated[str | None, typer.Option(help="Step of the time series, such as 1s.")]
EmitTraces = Annotated[Path | None, typer.Option(help="Export iterations as Chakra traces into this directory.")]
EmitIterations = Annotated[str, typer.Option(metavar="FIRST:END", help="Which iterations to export.")]
BackendChoice = Annotated[BackendName, typer.Option(help="What times iterations.")]
AstraBinary = Annotated[Path | None, typer.Option(help="Your ASTRA-sim executable, for --backend astra-sim.")]
AstraTimeout = Annotated[float | None, typer.Option(min=0, help="Seconds that one run of it may take; else 600.")]
AstraDirectory = Annotated[Path | None, typer.Option(help="Keep the files of every run of it, and its logs, here.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]


def run(
    config: Config,
    workload: Workload = None,
    output: Output = None,
    overrides: Overrides = [],
    profiles: Profiles = [],
    models: Models = [],
    hardware: Hardware = [],
    seed: Seed = None,
    num_requests: NumRequests = None,
    interval: Interval = None,
    emit_traces: EmitTraces = None,
    emit_iterations: EmitIterations = "0:10",
    backend: BackendChoice = BackendName.NATIVE,
    astra_binary: AstraBinary = None,
    astra_timeout: AstraTimeout = None,
    astra_directory: AstraDirectory = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Simulate a config under a request trace.

    Writes requests.csv, timeseries.csv and summary.json into the output directory and prints a summary.
    """
    progress = LiveProgress(enabled=not (quiet or as_json) and sys.stderr.isatty())
    options = RunOptions(
        overrides=[*overrides, *([f'timeseries_interval="{interval}"'] if interval else [])],
        profiles=profiles,
        models=models,
        hardware=hardware,
        seed=seed,
        num_requests=num_requests,
        emit_traces=emit_traces,
        emit_iterations=parse_iterations(emit_iterations),
        backend=_backend(backend, astra_binary, astra_timeout, astra_directory),
        on_progress=progress.update if progress.enabled else None,
    )
    prepared = Run(config, workload, options)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # now, not after the run
    try:
        with progress:
            result = prepared.execute()
    except (LLMServingSimError, KeyboardInterrupt):
        _write(prepared.result(), output, quiet=quiet or as_json, what="Results until then")
        raise
    _write(result, output, quiet=quiet or as_json, what="Results", summary=True)
    if as_json:
        import msgspec

        print(msgspec.json.encode(result.summary).decode())


def _backend(name: BackendName, binary: Path | None, timeout_s: float | None, directory: Path | None) -> BackendFactory:
    """Return what makes the chosen backend; options of the other one are mistakes."""
    if name is BackendName.ASTRA_SIM:
        if binary is None:
            raise ConfigError("--backend astra-sim: give --astra-binary PATH, an ASTRA-sim that you built")
        simulator = AstraSimBinary(binary, TIMEOUT_S if timeout_s is None else timeout_s)
        return partial(AstraSimBackend, binary=simulator, directory=directory)
    for option, value in (("binary", binary), ("timeout", timeout_s), ("directory", directory)):
        if value is not None:
            raise ConfigError(f"--astra-{option}: the native backend runs no binary; add --backend astra-sim")
    return NativeBackend


def _write(result: SimulationResult, output: Path | None, *, quiet: bool, what: str, summary: bool = False) -> None:
    paths = result.write(output) if output is not None else []
    if quiet:
        return
    if summary:
        print_summary(result.summary)
    if paths:
        print(f"{what}: {', '.join(str(p) for p in paths)}")
