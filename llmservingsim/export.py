"""Writes iterations as Chakra traces that a stock ASTRA-sim runs, with the files that describe its system.

::

    DIR/network.yml  system.json  memory.json      the instance's devices as a system of their own
    DIR/instance0/iteration_00042.0.et ...         one trace per rank
    DIR/iterations.csv                             what each exported iteration took in the run

Iterations that load from other memories than the devices' are in the dialect of LLMServingSim 2.0, where a rank can do
that while it communicates; its memory.json may have a type of ours.
"""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec

from llmservingsim.backend import NetworkModel
from llmservingsim.backend.astra_files import CHAKRA_DIALECTS, write_memory, write_network, write_system
from llmservingsim.errors import ConfigError
from llmservingsim.instance import Instance
from llmservingsim.resolve import System
from llmservingsim.serving.batch import Batch
from llmservingsim.trace.chakra import write_traces

COLUMNS = ("instance", "iteration", "start_ns", "duration_ns", "prefix")


class TraceExporter:
    """An `IterationListener` that writes what it hears.

    Args:
        directory: Where to write.
        system: The run's system; its instances report to this exporter from now on.
        iterations: Which iterations of each instance to write.

    Raises:
        ConfigError: If the instances differ in size or share a ring, so that none is a system of its own, or if
            ASTRA-sim has no words for the network.
    """

    def __init__(self, directory: Path, system: System, iterations: range) -> None:
        self._directory = directory
        self._dialect = CHAKRA_DIALECTS[system.system.dialect]
        self._iterations = iterations
        self._submitted_ns: dict[tuple[int, int], int] = {}
        self._last_end_ns: dict[int, int] = {}
        self._rows: list[tuple[int, int, int, int, str]] = []
        if any(len(i.builder.member_ranks) > 1 for i in system.instances):
            raise ConfigError("--emit-traces: instances that run in lock step are no systems of their own")
        if any(i.builder.layout.pp > 1 for i in system.instances):
            raise ConfigError("--emit-traces: an iteration of an instance with pipeline stages is several graphs")
        sizes = {len(i.ranks) for i in system.instances}
        if len(sizes) > 1:
            raise ConfigError("--emit-traces: the instances have different numbers of devices; export one at a time")
        ranks = sizes.pop()
        if "Ring" in system.network.topology and len(system.instances) > 1:
            raise ConfigError(
                "--emit-traces: instances that share a ring are no systems of their own; use one instance"
            )
        network = _network_of(system.network, ranks)
        directory.mkdir(parents=True, exist_ok=True)
        write_network(directory / "network.yml", network)
        write_system(directory / "system.json", system.system)
        write_memory(directory / "memory.json", system.memories.model, ranks, system.system.dialect)
        for instance in system.instances:
            instance.listener = self

    def submitted(self, instance: Instance, batch: Batch, now_ns: int) -> None:
        """Write the batch's graph if it is one of those asked for."""
        if batch.index not in self._iterations:
            return
        self._submitted_ns[instance.index, batch.index] = now_ns
        write_traces(instance.builder.export((batch.shape,)), self._prefix(instance, batch), dialect=self._dialect)

    def ended(self, instance: Instance, batch: Batch, now_ns: int) -> None:
        """Note what the batch took: it ran from its submission, or from the end of the one before."""
        submitted_ns = self._submitted_ns.pop((instance.index, batch.index), None)
        if submitted_ns is not None:
            start_ns = max(submitted_ns, self._last_end_ns.get(instance.index, 0))
            prefix = self._prefix(instance, batch).relative_to(self._directory)
            self._rows.append((instance.index, batch.index, start_ns, now_ns - start_ns, str(prefix)))
        self._last_end_ns[instance.index] = now_ns

    def close(self) -> Path:
        """Write iterations.csv; return its path."""
        path = self._directory / "iterations.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(self._rows)
        return path

    def _prefix(self, instance: Instance, batch: Batch) -> Path:
        return self._directory / f"instance{instance.index}" / f"iteration_{batch.index:05d}"


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
