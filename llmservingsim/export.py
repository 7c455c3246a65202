"""Writes iterations as Chakra traces that a stock ASTRA-sim runs, with the files that describe its system.

::

    DIR/network.yml  system.json  memory.json      the instance's devices as a system of their own
    DIR/instance0/iteration_00042.0.et ...         one trace per rank
    DIR/instance0/iteration_00042.stage1.0.et ...  each pipeline stage is a system of its own
    DIR/instances0-1/iteration_00042.0.et ...      so is a group that runs in lock step, round by round;
                    comm_groups.json               its --comm-group-configuration
    DIR/iterations.csv                             what each exported iteration took in the run

Iterations that load from other memories than the devices' are in the dialect of LLMServingSim 2.0, where a rank can do
that while it communicates; its memory.json may have a type of ours.
"""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec

from llmservingsim.backend import MemoryModel, NetworkModel
from llmservingsim.backend.astra_files import CHAKRA_DIALECTS, write_memory, write_network, write_system
from llmservingsim.errors import ConfigError
from llmservingsim.instance import Execution
from llmservingsim.resolve import System
from llmservingsim.trace import GraphBuilder, IterationBuilder
from llmservingsim.trace.chakra import write_comm_groups, write_traces

COLUMNS = ("instance", "iteration", "start_ns", "duration_ns", "prefix")


class TraceExporter:
    """An `IterationListener` that writes what it hears.

    Args:
        directory: Where to write.
        system: The run's system; its instances report to this exporter from now on.
        iterations: Which iterations of each instance, or rounds of each group, to write.

    Raises:
        ConfigError: If the instances differ in size or share a ring, so that none is a system of its own, or if
            ASTRA-sim has no words for the network.
    """

    def __init__(self, directory: Path, system: System, iterations: range) -> None:
        self._directory = directory
        self._dialect = CHAKRA_DIALECTS[system.system.dialect]
        self._iterations = iterations
        self._submitted_ns: dict[Path, int] = {}
        self._last_end_ns: dict[tuple[int, int], int] = {}
        self._rows: list[tuple[int, int, int, int, str]] = []
        sizes = {len(i.builder.ranks) for i in system.instances}
        if len(sizes) > 1:
            raise ConfigError("--emit-traces: the instances have different numbers of devices; export one at a time")
        ranks = sizes.pop()
        network = _network_of(system.network, ranks)
        if "Ring" in system.network.topology and system.network.npus != ranks:
            raise ConfigError(
                "--emit-traces: instances that share a ring are no systems of their own, nor are stages; use one "
                "instance, or one group, of one stage that fills it"
            )
        if any(_begins_the_next(builder) for builder in system.builders):
            raise ConfigError(
                "--emit-traces: with placement.prefetch_across_iterations an iteration begins what the next one waits "
                "for, which no trace of its own can say; expected false"
            )
        directory.mkdir(parents=True, exist_ok=True)
        write_network(directory / "network.yml", network)
        write_system(directory / "system.json", system.system)
        write_memory(directory / "memory.json", _memory_of(system), ranks, system.system.dialect)
        for instance in system.instances:
            instance.listener = self

    def submitted(self, execution: Execution, now_ns: int) -> None:
        """Write the graph if it is one of those asked for."""
        if execution.number not in self._iterations:
            return
        prefix = self._prefix(execution)
        self._submitted_ns[prefix] = now_ns
        graph = execution.builder.export(execution.shapes)
        write_traces(graph, prefix, dialect=self._dialect)
        if len(execution.instances) > 1:
            write_comm_groups(graph, prefix.parent / "comm_groups.json")

    def ended(self, execution: Execution, now_ns: int) -> None:
        """Note what the graph took: it ran from its submission, or from the end of the one before."""
        first, builder = execution.instances[0], execution.builder
        prefix = self._prefix(execution)
        submitted_ns = self._submitted_ns.pop(prefix, None)
        if submitted_ns is not None:
            start_ns = max(submitted_ns, self._last_end_ns.get((first, builder.stage), 0))
            name = str(prefix.relative_to(self._directory))
            self._rows.append((first, execution.number, start_ns, now_ns - start_ns, name))
        self._last_end_ns[first, builder.stage] = now_ns

    def close(self) -> Path:
        """Write iterations.csv; return its path."""
        path = self._directory / "iterations.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(self._rows)
        return path

    def _prefix(self, execution: Execution) -> Path:
        builder = execution.builder
        folder = f"instance{'s' if len(execution.instances) > 1 else ''}{'-'.join(map(str, execution.instances))}"
        stage = f".stage{builder.stage}" if builder.layout.pp > 1 else ""
        return self._directory / folder / f"iteration_{execution.number:05d}{stage}"


def _begins_the_next(builder: GraphBuilder) -> bool:
    fetches = builder.fetches if isinstance(builder, IterationBuilder) else None
    return fetches is not None and fetches.placement.across_iterations


def _memory_of(system: System) -> MemoryModel:
    """The memories as every instance, and every stage, sees them that is a system of its own."""
    first, *others = [system.memories.model_of(builder.ranks) for builder in system.builders]
    if any(other != first for other in others):
        raise ConfigError(
            "--emit-traces: the instances or stages reach a memory over links that differ; one memory.json cannot say "
            "it of all; export one at a time"
        )
    return first


def _network_of(network: NetworkModel, ranks: int) -> NetworkModel:
    """The network of an instance that is a system of its own."""
    if network.fabric is not None:
        raise ConfigError("--emit-traces: ASTRA-sim's network file has no arbitrary links; use a grid as the topology")
    if network.npus == ranks:
        return network
    if len(network.topology) > 1:
        raise ConfigError(
            f"--emit-traces: an instance of {ranks} devices is no system of its own in a network of "
            f"{' x '.join(map(str, network.npus_count))}; use one instance on all of it, or one dimension"
        )
    return msgspec.structs.replace(network, npus_count=[ranks])


def parse_iterations(text: str) -> range:
    """Read ``first:end`` (end excluded), ``first:`` or a single number.

    Raises:
        ConfigError: If it is none of these.
    """
    first, colon, end = text.partition(":")
    try:
        start = int(first) if first or not colon else 0
        stop = (int(end) if end else 2**62) if colon else start + 1
    except ValueError:
        raise ConfigError(f"--emit-iterations {text}: expected first:end, such as 0:10") from None
    if start < 0 or stop <= start:
        raise ConfigError(f"--emit-iterations {text}: expected 0 <= first < end")
    return range(start, stop)
