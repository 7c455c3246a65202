"""``llmservingsim astra``: run Chakra traces with ASTRA-sim's flags and result lines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from llmservingsim.backend.astra import RankResult, run_traces
from llmservingsim.backend.astra_files import read_groups, read_memory, read_network, read_system
from llmservingsim.errors import TraceError
from llmservingsim.trace.chakra import read_traces


class Congestion(StrEnum):
    """Which network model times messages."""

    AWARE = "aware"
    UNAWARE = "unaware"


def astra(
    workload: Annotated[Path, typer.Option("--workload-configuration", help="Prefix: rank i reads PREFIX.i.et.")],
    system: Annotated[Path, typer.Option("--system-configuration", help="System layer, JSON.")],
    network: Annotated[Path, typer.Option("--network-configuration", help="Network, YAML.")],
    memory: Annotated[Path, typer.Option("--remote-memory-configuration", help="Remote memory, JSON.")],
    groups: Annotated[str, typer.Option("--comm-group-configuration", help="Communicator groups, JSON.")] = "empty",
    congestion: Annotated[Congestion, typer.Option(help="Network model.")] = Congestion.UNAWARE,
    injection_scale: Annotated[float, typer.Option(min=0, help="Multiplies the endpoint delay.")] = 1.0,
    whole_microseconds: Annotated[
        bool,
        typer.Option("--whole-microseconds", help="Ignore exact durations, which a stock ASTRA-sim does not read."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Run Chakra execution traces from disk as ASTRA-sim's analytical simulator does.

    Prints one line per rank, in the order in which they finish. `llmservingsim astra --option ...` means the same.
    """
    if congestion is Congestion.AWARE:
        raise TraceError("--congestion aware: the congestion-aware network is not simulated yet; expected unaware")
    network_model = read_network(network)
    communicators = None if "empty" in groups else read_groups(Path(groups))
    graph = read_traces(
        workload,
        ranks=network_model.npus,
        groups=communicators,
        dimensions=1,
        exact_durations=not whole_microseconds,
    )
    results = run_traces(graph, network_model, read_system(system, injection_scale), read_memory(memory))
    _print(sorted(results, key=lambda r: (r.finish_ns, r.rank)), as_json=as_json)


def _print(results: list[RankResult], *, as_json: bool) -> None:
    if as_json:
        import msgspec

        ranks = [result._asdict() for result in results]
        print(msgspec.json.encode({"ranks": ranks, "finish_ns": max(r.finish_ns for r in results)}).decode())
        return
    for result in results:
        print(
            f"sys[{result.rank}] finished, {result.finish_ns} cycles, "
            f"exposed communication {result.exposed_comm_ns} cycles."
        )
