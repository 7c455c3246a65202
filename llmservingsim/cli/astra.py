"""``llmservingsim astra``: run Chakra traces with ASTRA-sim's flags and result lines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from llmservingsim.backend.astra import Execution, RankResult, run_workloads
from llmservingsim.backend.statistics import RankStatistics, rank_statistics
from llmservingsim.backend.timeline import TensorUse, Timed, write_tensors, write_timeline
from llmservingsim.cli.astra_inputs import (
    AstraFlags,
    AstraInputs,
    Congestion,
    CongestionOption,
    DialectName,
    DialectOption,
    Groups,
    InjectionScale,
    Memory,
    Network,
    NumQueues,
    Rendezvous,
    System,
    Truth,
    WholeMicroseconds,
    Workloads,
    load_inputs,
)
from llmservingsim.cli.progress import SimulatedTime
from llmservingsim.trace.chakra import Tensor, read_tensors

LoggingFolder = Annotated[Path | None, typer.Option(help="Directory for log.log, which repeats the printed lines.")]
LoggingFile = Annotated[Path | None, typer.Option("--logging-configuration", help="Accepted; no logger reads it.")]
ComputeScale = Annotated[float, typer.Option("--compute-scale", help="Accepted without effect, as in ASTRA-sim.")]
CommScale = Annotated[float, typer.Option("--comm-scale", help="Accepted without effect, as in ASTRA-sim.")]
Statistics = Annotated[bool, typer.Option("--statistics", help="Say where each rank's time went.")]
Timeline = Annotated[Path | None, typer.Option(help="Write when nodes ran, for Perfetto.")]
Progress = Annotated[bool, typer.Option("--progress", help="Show the simulated time on standard error.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the results as JSON.")]


NodeTensors = list[list[tuple[Tensor, ...]]]
"""Of one workload: rank -> node -> its tensors."""


def astra(
    workloads: Workloads,
    system: System,
    network: Network,
    memory: Memory,
    groups: Groups = "empty",
    congestion: CongestionOption = Congestion.UNAWARE,
    dialect: DialectOption = DialectName.ASTRA_SIM,
    num_queues_per_dim: NumQueues = 1,
    injection_scale: InjectionScale = 1.0,
    rendezvous: Rendezvous = Truth.FALSE,
    _compute_scale: ComputeScale = 1.0,
    _comm_scale: CommScale = 1.0,
    _logging_configuration: LoggingFile = None,
    logging_folder: LoggingFolder = None,
    statistics: Statistics = False,
    timeline: Timeline = None,
    progress: Progress = False,
    whole_microseconds: WholeMicroseconds = False,
    as_json: AsJson = False,
) -> None:
    """Run Chakra execution traces from disk as ASTRA-sim's analytical simulator does.

    Prints one line per rank, in the order in which they finish. `llmservingsim astra --option ...` means the same.
    """
    flags = AstraFlags(
        workloads=workloads,
        system=system,
        network=network,
        memory=memory,
        groups=groups,
        congestion=congestion,
        dialect=dialect,
        num_queues_per_dim=num_queues_per_dim,
        injection_scale=injection_scale,
        rendezvous=rendezvous is Truth.TRUE,
        whole_microseconds=whole_microseconds,
    )
    inputs = load_inputs(flags)
    tensors = [read_tensors(w, inputs.network.npus) for w in workloads] if inputs.tensor_file is not None else []
    executions = _run(inputs, record=bool(statistics or timeline or tensors), progress=progress)
    if timeline is not None:
        write_timeline(timeline, *(Timed(e.graph, e.start_ns, e.end_ns) for e in executions))
    _write_tensors(executions, tensors, inputs.tensor_file)
    details = [rank_statistics(e, inputs.system) if statistics else [] for e in executions]
    lines = [line for k, e in enumerate(executions) for line in _lines(e.ranks, details[k], k, dialect)]
    if logging_folder is not None:
        logging_folder.mkdir(exist_ok=True)
        (logging_folder / "log.log").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    print(_json(executions, details) if as_json else "\n".join(lines))


def _run(inputs: AstraInputs, *, record: bool, progress: bool) -> list[Execution]:
    system = msgspec.structs.replace(inputs.system, record_nodes=record)
    with SimulatedTime(enabled=progress) as shown:
        watch = shown.update if progress else None
        return run_workloads(inputs.graphs, inputs.network, system, inputs.memory, watch)


def _in_order(ranks: Sequence[RankResult]) -> list[RankResult]:
    return sorted(ranks, key=lambda r: (r.finish_ns, r.rank))


def _lines(
    ranks: Sequence[RankResult], details: Sequence[RankStatistics], iteration: int, dialect: DialectName
) -> list[str]:
    """Return ASTRA-sim's lines about one workload, or those of LLMServingSim 2.0, which counts iterations."""
    which = f" iteration {iteration}" if dialect is DialectName.LLMSERVINGSIM else ""
    by_rank = {d.rank: d.lines() for d in details}
    lines = []
    for result in _in_order(ranks):
        lines.append(
            f"sys[{result.rank}]{which} finished, {result.finish_ns} cycles, "
            f"exposed communication {result.exposed_comm_ns} cycles."
        )
        lines += by_rank.get(result.rank, [])
    return lines


def _json(executions: Sequence[Execution], details: Sequence[Sequence[RankStatistics]]) -> str:
    """Return every rank of every workload; which workload is told when there are several."""
    rows: list[dict[str, Any]] = []
    for iteration, (execution, found) in enumerate(zip(executions, details, strict=True)):
        by_rank = {d.rank: _statistics(d) for d in found}
        for result in _in_order(execution.ranks):
            row = {"iteration": iteration, **result._asdict()} if len(executions) > 1 else result._asdict()
            rows.append(row | by_rank.get(result.rank, {}))
    content = {"ranks": rows, "finish_ns": max(row["finish_ns"] for row in rows)}
    return msgspec.json.encode(content).decode()


def _statistics(found: RankStatistics) -> dict[str, Any]:
    content = {key: value for key, value in found._asdict().items() if key not in ("rank", "roofline")}
    return content | (found.roofline._asdict() if found.roofline else {})


def _write_tensors(executions: Sequence[Execution], tensors: Sequence[NodeTensors], name: str | None) -> None:
    """Write ``<name>.<rank>.json`` for every rank whose tensors were read; of all workloads together."""
    uses: dict[int, list[TensorUse]] = {}
    for execution, by_rank in zip(executions, tensors, strict=False):
        bounds = execution.graph.rank_class.searchsorted(range(len(by_rank) + 1)).tolist()
        for rank, (first, last) in enumerate(pairwise(bounds)):
            times = zip(execution.start_ns[first:last].tolist(), execution.end_ns[first:last].tolist(), strict=True)
            for node, (start_ns, end_ns) in zip(by_rank[rank], times, strict=True):
                uses.setdefault(rank, []).extend(TensorUse(t.name, t.size_bytes, start_ns, end_ns) for t in node)
    for rank, found in uses.items():
        write_tensors(Path(f"{name}.{rank}.json"), rank, found)
