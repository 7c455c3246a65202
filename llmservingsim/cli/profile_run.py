"""``llmservingsim profile run``: measure every operator of a model on the device at hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from llmservingsim.cli.degrees import parse_degrees
from llmservingsim.cli.profile_progress import ShotProgress
from llmservingsim.config.catalog import ModelSpec, find_accelerator, find_model
from llmservingsim.errors import ConfigError, ProfileError, one_of
from llmservingsim.latency import VARIANTS, bundle_name
from llmservingsim.model import ParallelLayout, check_layout
from llmservingsim.profiler import Engine, EngineOptions, Goal, Job, Journal, Limits, Session, make_engine
from llmservingsim.profiler.bundle import write_bundle
from llmservingsim.profiler.collectives import measure_all_reduces
from llmservingsim.profiler.engine import default_device
from llmservingsim.profiler.hardware import check_name, run_command, write_accelerator, write_run_file
from llmservingsim.profiler.journal import NAME
from llmservingsim.profiler.naming import named_model
from llmservingsim.profiler.sampling import Effort
from llmservingsim.units import NS_PER_S, parse_time_ns

_MOST_SEQUENCES = 128
_MOST_TOKENS = 2048
_LONGEST = 8192


def run(
    model: Annotated[str, typer.Argument(help="Catalogued model, one of --models, or DIR/ORG/NAME of a config.json.")],
    hardware: Annotated[str, typer.Option(help="What the device is called: of the catalogue, or a name of your own.")],
    tp: Annotated[str, typer.Option(help="Tensor-parallel sizes, as 1,2,4: one rank of each is measured.")] = "1",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda where there is one.")] = None,
    engine: Annotated[str, typer.Option(help="torch, vllm, sglang, or package.module:Class.")] = "torch",
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory of bundles to write into.")] = Path(
        "profiles"
    ),
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float16 or float32; by default the model's.")] = None,
    budget: Annotated[str, typer.Option(help="Time for measuring, as 15m, earlier runs included.")] = "10m",
    error: Annotated[float, typer.Option(help="Error of interpolation to reach, as a share.")] = 0.03,
    noise: Annotated[
        float, typer.Option(help="Standard error at which a shot is repeated no more, as a share.")
    ] = 0.01,
    max_num_seqs: Annotated[int, typer.Option(help="Most sequences of a batch.")] = _MOST_SEQUENCES,
    max_num_batched_tokens: Annotated[int, typer.Option(help="Most new tokens of a batch.")] = _MOST_TOKENS,
    max_model_len: Annotated[
        int | None, typer.Option(help=f"Longest sequence; by default the model's, at most {_LONGEST}.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of a CPU; by default all cores.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what earlier runs measured.")] = False,
    models: Annotated[list[Path], typer.Option(help="Directory of model files; repeatable.")] = [],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Measure every operator that a model needs on this device, and write a profile bundle.

    Measures a coarse grid, then wherever interpolation is worst, until the error or the budget is reached. What was
    measured is kept: killed or stopped (Ctrl-C), the same command goes on.
    """
    name, directories = named_model(model, models)
    found = _in_dtype(find_model(name, directories), dtype)
    degrees = parse_degrees(tp)
    for degree in degrees:
        check_layout(found, ParallelLayout(degree))
    limits = Limits(max_num_seqs, max_num_batched_tokens, max_model_len or min(_LONGEST, found.max_position_embeddings))
    goal = Goal(_share("--error", error), _budget_s(budget) / len(degrees), Effort(_share("--noise", noise)))
    device = device or default_device()
    target = _Target(found, check_name(hardware), output, device, engine, threads, limits)
    progress = ShotProgress(enabled=not quiet)
    for degree in degrees:
        job = Job(found, ParallelLayout(degree), limits, device, with_experts=degree == 1 or 1 not in degrees)
        if not target.profile(job, goal, progress, restart=restart):
            break
    command = target.write_run_files(degrees[0], dtype, directories)
    if not quiet:
        print(f"simulate with it:\n  {command}")


@dataclass(frozen=True, slots=True)
class _Target:
    """What is measured, and where to.

    Attributes:
        model: With the dtype that is measured.
        hardware: Name of the device.
        output: Directory of bundles.
        device, engine, threads: What measures.
        limits: How far.
    """

    model: ModelSpec
    hardware: str
    output: Path
    device: str
    engine: str
    threads: int | None
    limits: Limits

    def profile(self, job: Job, goal: Goal, progress: ShotProgress, *, restart: bool) -> bool:
        """Measure one degree and write its bundle; return whether nobody interrupted."""
        folder = self.output / self.hardware / bundle_name(job.model, job.layout.tp)
        engine = self._make(job.layout.tp)
        described = dict(engine.describe())
        conditions = {
            "model": job.model.name,
            "hardware": self.hardware,
            "tensor_parallel_size": job.layout.tp,
            "dtype": job.model.dtype,
            "device": self.device,
            "engine": self.engine,
            **described,
        }
        journal = Journal(folder / NAME, conditions, restart=restart)
        session = Session(job, engine, journal, goal)
        try:
            is_whole = progress.follow(session, str(folder))
        finally:
            journal.close()
        meta = {
            "hardware": self.hardware,
            "engine": self.engine,
            "device": self.device,
            "dtype": job.model.dtype,
            "limits": {name: getattr(job.limits, name) for name in job.limits.__dataclass_fields__},
            **described,
            **engine.circumstances(),
            "collectives": measure_all_reduces(self.device, self.output / self.hardware / "collectives.csv"),
            "idle_power_w": "not read" if session.idle_w is None else round(session.idle_w, 1),
            "error_reached": None if session.error is None else round(session.error, 4),
            "is_coarse": session.is_coarse,
        }
        write_bundle(journal, job, meta, folder)
        progress.tell_end(session, folder)
        return is_whole

    def write_run_files(self, tp: int, dtype: str | None, models: Iterable[Path]) -> str:
        """Write the run file, and the accelerator where the catalogue has none; return the command to use them."""
        folder = self.output / self.hardware
        own = not _is_catalogued(self.hardware)
        if own:
            engine = self._make(tp)
            write_accelerator(folder, self.hardware, engine.facts(), str(engine.describe().get("device_name", "it")))
        write_run_file(folder, self.hardware, self.model.name, dtype, tp, self.limits)
        return run_command(self.output, self.hardware, own_entry=own, models=list(models))

    def _make(self, tp: int) -> Engine:
        options = EngineOptions(self.model, ParallelLayout(tp), self.device, self.threads, self.limits.max_model_len)
        return make_engine(self.engine, options)


def _is_catalogued(hardware: str) -> bool:
    try:
        return find_accelerator(hardware).name == hardware
    except ConfigError:
        return False


def _in_dtype(model: ModelSpec, dtype: str | None) -> ModelSpec:
    if dtype is None:
        return model
    if dtype not in VARIANTS:
        raise ConfigError(f"--dtype {dtype}: expected {one_of(VARIANTS)}")
    return replace(model, dtype=dtype)


def _share(option: str, value: float) -> float:
    if not 0 < value < 1:
        raise ConfigError(f"{option} {value:g}: expected a share between 0 and 1, as 0.03")
    return value


def _budget_s(text: str) -> float:
    """Parse ``15m``, which is what people write, as ``15min``."""
    try:
        seconds = parse_time_ns(f"{text}in" if text.endswith("m") else text) / NS_PER_S
    except ConfigError as error:
        raise ConfigError(f"--budget {text}: expected a time such as 90s, 15m or 1h ({error})") from error
    if seconds <= 0:
        raise ProfileError(f"--budget {text}: expected more than nothing")
    return seconds
