"""The library's front door: one call from a config to a result."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from llmservingsim.astra_sim import AstraSimBackend
from llmservingsim.backend import NativeBackend
from llmservingsim.config import RunSpec, apply_overrides, load_run
from llmservingsim.config.catalog import load_accelerators
from llmservingsim.config.peer import import_peer_file, is_peer_file
from llmservingsim.energy import check_power, count_energy
from llmservingsim.errors import ConfigError
from llmservingsim.explain import Observed, plan_cost, summarise_cost, summarise_limits, time_shares
from llmservingsim.export import TraceExporter
from llmservingsim.libraries import Libraries
from llmservingsim.loop import serve
from llmservingsim.memory_traffic import memory_traffic
from llmservingsim.placement import placement_notes
from llmservingsim.report import (
    Attainment,
    Measured,
    Moved,
    Provenance,
    Recorder,
    RequestDetails,
    RequestTable,
    SimulationResult,
    Slos,
    summarise,
    summarise_energy,
    summarise_scaling,
)
from llmservingsim.resolve import BackendFactory, System, resolve
from llmservingsim.strict import convert
from llmservingsim.units import parse_time_ns
from llmservingsim.workload import (
    ClosedLoop,
    GeneratorSpec,
    ListWorkload,
    RequestSpec,
    Session,
    StreamWorkload,
    Workload,
    open_workload,
)

PathLike = str | Path
ConfigLike = PathLike | Mapping[str, Any] | RunSpec
WorkloadLike = PathLike | GeneratorSpec | Iterable[RequestSpec | Session]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a run is told beside its config and workload.

    Attributes:
        overrides: ``a.b=c`` each, as ``--set``.
        profiles: Directories of profile bundles.
        models: Directories of model files.
        hardware: Files with the user's own accelerators.
        seed: Replaces the config's, and that of a `GeneratorSpec`.
        num_requests: Serve no more than so many.
        emit_traces: Directory for Chakra traces.
        emit_iterations: Which iterations to export.
        backend: Makes what times graphs from a network, a system layer and memories.
        on_progress: Called with the recorder now and then.
    """

    overrides: Sequence[str] = ()
    profiles: Sequence[PathLike] = ()
    models: Sequence[PathLike] = ()
    hardware: Sequence[PathLike] = ()
    seed: int | None = None
    num_requests: int | None = None
    emit_traces: PathLike | None = None
    emit_iterations: range = range(10)
    backend: BackendFactory = NativeBackend
    on_progress: Callable[[Run], None] | None = None

    def __post_init__(self) -> None:
        for key in ("overrides", "profiles", "models", "hardware"):
            if isinstance(value := getattr(self, key), str | Path):
                raise ConfigError(f"{key}: expected a list, got {str(value)!r}; write [{str(value)!r}]")


class Run:
    """A run that is ready to start: everything is looked up and checked.

    Args:
        config: A run file, its contents, or a `RunSpec`.
        workload: A request trace, a generator, or requests; by default what the config names.
        options: The rest.

    Raises:
        UserError: If anything in the inputs is wrong.

    Attributes:
        spec: The complete specification.
        system: What serves.
        workload: What is asked for.
        recorder: What happened so far.
        notes: What the inputs say and the run does not use.
    """

    def __init__(
        self, config: ConfigLike, workload: WorkloadLike | None = None, options: RunOptions | None = None
    ) -> None:
        self.options = options or RunOptions()
        self.spec, self.notes = load_spec(config, self.options.overrides)
        if self.options.seed is not None:
            self.spec = msgspec.structs.replace(self.spec, seed=self.options.seed)
        base = folder_of(config)
        self.system: System = resolve(
            self.spec,
            find_libraries(self.options.profiles, self.options.models, self.options.hardware, base),
            self.options.backend,
        )
        check_power(self.spec, self.system)
        self._cost = plan_cost(self.spec, self.system.instances)
        self._slos = Slos(self.spec.slo, {instance.model for instance in self.system.instances})
        source = workload if workload is not None else _configured_workload(self.spec, base)
        if isinstance(source, GeneratorSpec) and self.options.seed is not None:
            source = msgspec.structs.replace(source, seed=self.options.seed)
        self.workload: Workload = _open(source, self.options.num_requests)
        if (clients := self.spec.clients) is not None:
            self.workload = ClosedLoop(self.workload, clients.max_concurrency, parse_time_ns(clients.think_time))
        self.recorder = Recorder(self.system.instances, self.system.sample_ns, self.system.memories)
        self._workload_name = str(source) if isinstance(source, str | Path) else type(source).__name__
        self._started_s = time.perf_counter()
        self._exporter: TraceExporter | None = None
        if self.options.emit_traces is not None:
            self._exporter = TraceExporter(Path(self.options.emit_traces), self.system, self.options.emit_iterations)

    def execute(self) -> SimulationResult:
        """Serve the workload to its end.

        Raises:
            SimulationError: If the run cannot go on; `result` still tells what happened until then.
        """
        self._started_s = time.perf_counter()
        progress = self.options.on_progress
        tick = (lambda: progress(self)) if progress is not None else None
        try:
            serve(self.system, self.workload, self.recorder, tick)
        finally:
            if self._exporter is not None:
                self._exporter.close()
            self.recorder.run_ended(self.system.backend.now_ns)
        return self.result()

    def result(self) -> SimulationResult:
        """Return what is known now."""
        wall_s = time.perf_counter() - self._started_s
        backend = self.system.backend
        told = backend.notes() if isinstance(backend, AstraSimBackend) else []
        provenance = Provenance(
            version=_version(),
            seed=self.spec.seed,
            config_hash=hashlib.sha256(msgspec.json.encode(self.spec)).hexdigest(),
            workload=self._workload_name,
            notes=(*self.notes, *told),
        )
        transfers = self.system.transfers
        measured = self._measured()
        moved = Moved(transfers, self.system.traffic)
        summary = summarise(measured, self.system.instances, moved, provenance, wall_s)
        if self.system.autoscaler is not None:
            summary["autoscaling"] = summarise_scaling(self.system.autoscaler.pools, self.recorder.end_ns)
        if accessed := memory_traffic(self.system):
            summary["bytes_moved"]["memories"] = accessed
        energy = count_energy(self.spec, self.system, measured)
        if energy is not None:
            summary["energy_j"] = summarise_energy(energy, measured.table)
        for instance, told_of in zip(self.system.instances, summary["instances"], strict=True):
            told_of["time_shares"] = time_shares(instance)
        summary["limits"] = summarise_limits(Observed(self.system, measured, accessed))
        if self._cost is not None:
            summary["cost"] = summarise_cost(self._cost, self.system, self.recorder.end_ns, summary)
        requests = sorted(self.recorder.records, key=lambda record: record.request_id)
        crossed = [] if transfers is None else sorted(transfers.records)
        details = RequestDetails(measured.table, measured.attainment, energy.request_j if energy is not None else None)
        samples = self.recorder.samples if energy is None else energy.with_power(self.recorder.samples)
        return SimulationResult(requests, samples, summary, crossed, details)

    def _measured(self) -> Measured:
        """Put together what is known of the requests that ended."""
        transfers = self.system.transfers
        ended_ns = [instance.engine.log.ended_ns for instance in self.system.instances]
        records = transfers.records if transfers is not None else ()
        table = RequestTable(self.recorder.records, self.recorder.details, ended_ns, records)
        return Measured(self.recorder, table, Attainment(self._slos, table) if self._slos.sections else None)


def simulate(config: ConfigLike, workload: WorkloadLike | None = None, **options: Any) -> SimulationResult:
    """Simulate a run.

    Args:
        config: A run file (ours or LLMServingSim 2.0's), its contents as a dictionary, or a `RunSpec`.
        workload: A JSONL trace, a `GeneratorSpec`, or an iterable of `RequestSpec` and `Session`;
            by default what the config names.
        **options: Fields of `RunOptions`: overrides, profiles, models, hardware, seed, num_requests, ...

    Returns:
        Requests, time series and summary; ``result.requests_frame()`` is a pandas DataFrame.

    Raises:
        UserError: If anything in the inputs is wrong.
        SimulationError: If the run cannot go on.
    """
    return Run(config, workload, RunOptions(**options)).execute()


def load_spec(config: ConfigLike, overrides: Sequence[str] = ()) -> tuple[RunSpec, list[str]]:
    """Read a config in any of its forms and apply overrides; also return notes on what it says in vain.

    Raises:
        ConfigError: If it says something wrong.
    """
    if isinstance(config, str | Path):
        spec, notes = load_run(Path(config), overrides)
        return spec, [*notes, *placement_notes(spec)]
    notes = []
    if isinstance(config, RunSpec):
        spec = config
    elif is_peer_file(config):
        spec, notes = import_peer_file(config, "config")
    else:
        spec = convert(config, RunSpec, "config", ConfigError)
    spec = apply_overrides(spec, overrides)
    return spec, [*notes, *placement_notes(spec)]


def find_libraries(
    profiles: Sequence[PathLike], models: Sequence[PathLike], hardware: Sequence[PathLike], base: Path = Path()
) -> Libraries:
    """Open the places where a run may look things up beside the catalogue; ``base`` is `folder_of` its config.

    Raises:
        ConfigError: If a directory does not exist or a file of accelerators is wrong.
    """
    for directory in (*profiles, *models):
        if not Path(directory).is_dir():
            raise ConfigError(f"{directory}: no such directory")
    return Libraries(
        profiles=tuple(map(Path, profiles)),
        models=tuple(map(Path, models)),
        accelerators=load_accelerators(list(map(Path, hardware))) if hardware else {},
        base=base,
    )


def folder_of(config: ConfigLike) -> Path:
    """Where the relative paths of a config start: in the folder of its file, else in the working directory."""
    return Path(config).parent if isinstance(config, str | Path) else Path()


def _configured_workload(spec: RunSpec, base: Path) -> Path:
    if spec.workload is None:
        raise ConfigError("there is no workload: give --workload FILE, or name one as 'workload' in the config")
    return base / spec.workload


def _open(source: WorkloadLike, limit: int | None) -> Workload:
    if limit == 0:
        return StreamWorkload(iter(()), total_requests=0)
    if isinstance(source, str | Path):
        return open_workload(Path(source), limit)
    if isinstance(source, GeneratorSpec):
        return open_workload(source, limit)
    return ListWorkload(list(source), limit=limit)


def _version() -> str:
    try:
        return version("llmservingsim")
    except PackageNotFoundError:  # a source tree that is not installed
        return "0+unknown"
