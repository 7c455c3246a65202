"""A stock ASTRA-sim as the backend of a run: every iteration is written as Chakra traces and run by a binary.

What this checks and what may differ stands in ``docs/cross-check.md``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from llmservingsim.backend import MemoryModel, NativeBackend, NetworkModel, SystemModel
from llmservingsim.backend.astra import RankResult
from llmservingsim.backend.astra_binary import AstraSimBinary, require_ranks
from llmservingsim.backend.astra_files import (
    read_groups,
    read_memory,
    read_network,
    read_system,
    write_memory,
    write_network,
    write_system,
)
from llmservingsim.backend.replay import ReplayBackend, StepTimes, Values
from llmservingsim.errors import ConfigError, TraceError
from llmservingsim.graph import Graph, MemoryLocation, Node, NodeType
from llmservingsim.trace.chakra import expand, read_traces, write_comm_groups, write_traces

_RANKS_MIN = 2
"""A dimension of fewer ranks is an error in ASTRA-sim."""

_IDLE_NS = 1000
"""A rank of ASTRA-sim must have something to do."""

_UNSAID = {"parity": False, "zero_duration_ns": 0, "record_nodes": False}
"""What ASTRA-sim's system file has no key for and what changes nothing that it could be told."""


class AstraSimBackend(ReplayBackend):
    """Times graphs by running a stock ASTRA-sim; implements `llmservingsim.backend.Backend`.

    Each execution of a graph is a run of the binary by itself, so submissions share no links and memories. Equal ones
    (same graph, durations and sizes) are run once. Durations become whole microseconds, as Chakra's field has no finer
    unit, and a COMP node of duration 0 takes the 1 ns that ASTRA-sim charges; `notes` says how much that changed.

    The ranks of a graph that does not use the whole network become a system of their own, unless they lie on a ring
    with others or in several dimensions; there the other ranks idle.

    Args:
        network: Of the whole run. Whether messages queue (`NetworkModel.model`) is the binary's choice.
        system: The system layer.
        memory: The memories.
        binary: What is run.
        directory: Where the files and logs of each run are kept; None keeps them only while they are needed.

    Raises:
        ConfigError: If ASTRA-sim's files cannot say what the models say.
        ValueError: If a value is out of range, as in `NativeBackend`.
    """

    def __init__(
        self,
        network: NetworkModel,
        system: SystemModel,
        memory: MemoryModel,
        binary: AstraSimBinary,
        directory: Path | None = None,
    ) -> None:
        super().__init__()
        _check_files_say_it(network, system, memory)
        self._checker = NativeBackend(network, system, memory)
        self._network, self._system, self._memory = network, system, memory
        self._binary = binary
        self._directory = directory
        self._placed: list[_Placed] = []
        self._results: dict[tuple[object, ...], list[RankResult]] = {}
        self._rounding = _Rounding()

    def notes(self) -> list[str]:
        """Say what was run and what the whole microseconds changed."""
        said = [
            f"timed by {self._binary.path}, run {len(self._results)} times for {self._rounding.steps} iterations; "
            "iterations of different instances share no links there"
        ]
        return said + self._rounding.notes()

    def prepare(self, graph: Graph) -> None:
        """Check a graph and turn it into one that fills a system.

        Raises:
            ValueError: If it is inconsistent.
            TraceError: If it holds what a stock ASTRA-sim does not know.
        """
        self._checker.register(graph)
        for i in np.flatnonzero(graph.type == NodeType.PIM_COMP).tolist():
            raise TraceError(f"node {i} {graph.names[i]!r}: a stock ASTRA-sim has no PIM_COMP nodes")
        is_memory = np.isin(graph.type, (NodeType.MEM_LOAD, NodeType.MEM_STORE))
        for i in np.flatnonzero(is_memory & (graph.location != MemoryLocation.REMOTE)).tolist():
            location = MemoryLocation(int(graph.location[i])).name
            raise TraceError(f"node {i} {graph.names[i]!r}: a stock ASTRA-sim has remote memory only, not {location}")
        placed = _place(graph, self._network)
        _check_traces_say_it(placed, self._system)
        self._placed.append(placed)

    def time_step(self, graph: int, durations_ns: Values, sizes_bytes: Values) -> StepTimes:
        """Run the binary, or recall what it said of the same work.

        Raises:
            AstraSimError: If it fails, takes too long, or a rank never finishes.
        """
        placed = self._placed[graph]
        rounded = whole_microseconds(durations_ns)
        self._rounding.add(durations_ns[placed.is_compute], rounded[placed.is_compute])
        key = (placed.identity, rounded.tobytes(), sizes_bytes.tobytes())
        results = self._results.get(key)
        if results is None:
            results = self._results[key] = self._run(placed, rounded, sizes_bytes)
        own = [results[rank] for rank in placed.seats]
        return StepTimes(
            placed.ranks, tuple(r.finish_ns for r in own), tuple(r.finish_ns - r.exposed_comm_ns for r in own)
        )

    def _run(self, placed: _Placed, durations_ns: Values, sizes_bytes: Values) -> list[RankResult]:
        """Write one execution with its system, run it, and return a result per rank of the system."""
        idle = np.full(len(placed.graph) - len(durations_ns), _IDLE_NS, dtype=np.int64)
        graph = replace(
            placed.graph,
            duration_ns=np.concatenate([durations_ns, idle]),
            size_bytes=np.concatenate([sizes_bytes, np.zeros_like(idle)]),
        )
        folder = self._folder()
        try:
            write_network(folder / "network.yml", placed.network)
            write_system(folder / "system.json", self._system)
            write_memory(folder / "memory.json", self._memory, placed.network.npus)
            write_comm_groups(graph, folder / "groups.json")
            write_traces(graph, folder / "trace")
            results = self._binary.run(
                {
                    "workload-configuration": folder / "trace",
                    "system-configuration": folder / "system.json",
                    "network-configuration": folder / "network.yml",
                    "remote-memory-configuration": folder / "memory.json",
                    "comm-group-configuration": folder / "groups.json",
                    "logging-folder": folder / "log",
                }
            )
        finally:
            if self._directory is None:
                shutil.rmtree(folder)
        require_ranks(results, range(placed.network.npus), self._binary.path)
        return results

    def _folder(self) -> Path:
        if self._directory is None:
            return Path(tempfile.mkdtemp(prefix="llmservingsim-"))
        folder = self._directory.absolute() / f"run{len(self._results):05d}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def whole_microseconds(durations_ns: Values) -> Values:
    """Round to the nearest microsecond, and what takes time at all to at least one."""
    rounded = (durations_ns + 500) // 1000 * 1000
    return np.where(durations_ns > 0, np.maximum(rounded, 1000), 0)


@dataclass(slots=True)
class _Rounding:
    """What whole microseconds changed in the COMP nodes of all steps."""

    steps: int = 0
    nodes: int = 0
    changed: int = 0
    sum_ns: int = 0
    largest_ns: int = 0

    def add(self, exact_ns: Values, rounded_ns: Values) -> None:
        charged = np.where(exact_ns > 0, rounded_ns, 1)
        difference = charged - exact_ns
        self.steps += 1
        self.nodes += len(difference)
        self.changed += int(np.count_nonzero(difference))
        self.sum_ns += int(difference.sum())
        self.largest_ns = max(self.largest_ns, int(np.abs(difference).max(initial=0)))

    def notes(self) -> list[str]:
        if not self.changed:
            return []
        return [
            f"{self.changed:,} of {self.nodes:,} compute durations are no whole microseconds, which is all that "
            f"ASTRA-sim reads: rounding changed them by {self.sum_ns:+,} ns in all, by {self.largest_ns:,} ns at most"
        ]


class _Placed(NamedTuple):
    """A graph in the system on which it is run.

    Attributes:
        graph: With a rank class of idle ranks at the end, where there are some.
        network: Of that system.
        ranks: The original graph's ranks in the run's network, ascending.
        seats: The same ranks in that system.
        is_compute: Which nodes of the original graph are COMP nodes, shape ``[nodes]``.
        identity: Equal for graphs that take the same times.
    """

    graph: Graph
    network: NetworkModel
    ranks: tuple[int, ...]
    seats: tuple[int, ...]
    is_compute: np.ndarray[Any, np.dtype[np.bool_]]
    identity: tuple[object, ...]


def _place(graph: Graph, network: NetworkModel) -> _Placed:
    """Give a graph a system that ASTRA-sim accepts: of its own where that has the same distances, else the whole."""
    ranks = tuple(sorted(rank for members in graph.rank_classes for rank in members))
    is_own = len(network.npus_count) == 1 and (network.topology != ["Ring"] or network.npus == 1)
    if is_own:
        seat = {rank: position for position, rank in enumerate(ranks)}
        network = msgspec.structs.replace(network, npus_count=[max(len(ranks), _RANKS_MIN)])
    else:
        seat = {rank: rank for rank in ranks}
    seats = tuple(seat[rank] for rank in ranks)
    nodes = [replace(n, peer=seat.get(n.peer, n.peer)) for n in graph.nodes()]
    classes = [tuple(seat[rank] for rank in members) for members in graph.rank_classes]
    groups = [tuple(seat[rank] for rank in members if rank in seat) for members in graph.groups]
    if idle := tuple(sorted(set(range(network.npus)) - set(seats))):
        nodes.append(Node("idle", NodeType.COMP, rank_class=len(classes)))
        classes.append(idle)
    placed = Graph.from_nodes(nodes, classes, groups)
    unnamed = tuple(replace(n, name="", duration_ns=0, size_bytes=0) for n in nodes)
    identity = (unnamed, placed.rank_classes, placed.groups, network.npus)
    return _Placed(placed, network, ranks, seats, graph.type == NodeType.COMP, identity)


def _check_files_say_it(network: NetworkModel, system: SystemModel, memory: MemoryModel) -> None:
    """Raise ConfigError if ASTRA-sim's files, written and read again, do not say what the models say."""
    if network.fabric is not None or network.model == "flow":
        what = "a fabric of links of its own" if network.fabric is not None else "links that share their bandwidth"
        raise ConfigError(f"--backend astra-sim: network: ASTRA-sim's network file cannot say {what}")
    with tempfile.TemporaryDirectory(prefix="llmservingsim-") as folder:
        path = Path(folder) / "file"
        written = _reread(path, lambda: write_network(path, network), read_network)
        _require_equal("network", msgspec.structs.replace(network, model="unaware"), written)
        written = _reread(path, lambda: write_memory(path, memory, network.npus), read_memory)
        _require_equal("memory", memory, written)
        written = _reread(path, lambda: write_system(path, system), read_system)
        _require_equal("system layer", msgspec.structs.replace(system, **_UNSAID), written)


def _check_traces_say_it(placed: _Placed, system: SystemModel) -> None:
    """Raise TraceError if the graph's traces, written and read again, are not the same graph."""
    expanded, npus = expand(placed.graph), placed.network.npus
    with tempfile.TemporaryDirectory(prefix="llmservingsim-") as folder:
        prefix, groups = Path(folder) / "trace", Path(folder) / "groups.json"
        write_comm_groups(placed.graph, groups)
        write_traces(placed.graph, prefix)
        written = read_traces(prefix, ranks=npus, groups=read_groups(groups))
    used_dims = np.uint32(2 ** len(placed.network.npus_count) - 1)
    pairs = {
        "involved_dims": (expanded.involved_dims & used_dims, written.involved_dims & used_dims),
        "priority": (expanded.priority, written.priority),
    }
    if system.roofline_enabled:
        pairs["num_ops"] = (expanded.num_ops, written.num_ops)
    for key, (stated, said) in pairs.items():
        for i in np.flatnonzero(stated != said).tolist():
            raise TraceError(
                f"--backend astra-sim: node {expanded.names[i]!r}: its trace cannot say {key} = {int(stated[i])}"
            )


def _reread(path: Path, write: Callable[[], None], read: Callable[[Path], msgspec.Struct]) -> msgspec.Struct:
    try:
        write()
        return read(path)
    except TraceError as error:
        raise ConfigError(f"--backend astra-sim: {str(error).removeprefix(f'{path}: ')}") from error


def _require_equal(what: str, stated: msgspec.Struct, written: msgspec.Struct) -> None:
    for key in stated.__struct_fields__:
        if getattr(stated, key) != getattr(written, key):
            raise ConfigError(
                f"--backend astra-sim: {what}: ASTRA-sim's files cannot say {key} = {getattr(stated, key)!r}"
            )
