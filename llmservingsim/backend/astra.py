"""Runs Chakra traces the way an ASTRA-sim binary does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmservingsim.backend.config import MemoryModel, NetworkModel, SystemModel
from llmservingsim.backend.native import NativeBackend
from llmservingsim.errors import TraceError, cut
from llmservingsim.graph import Graph

Watch = Callable[[int], None]
"""Is told the simulated time in nanoseconds, now and then."""

_FOREVER_NS = 2**62
_FIRST_SLICE_NS = 1_000_000
_SLICE_S = 0.05


class RankResult(NamedTuple):
    """What ASTRA-sim prints when a rank finishes.

    Attributes:
        rank: Which one.
        finish_ns: When its last node completed.
        exposed_comm_ns: The finish time less the accelerator's COMP time, that of workloads before included.
    """

    rank: int
    finish_ns: int
    exposed_comm_ns: int


class Execution(NamedTuple):
    """One workload that ran.

    Attributes:
        graph: Its nodes.
        begin_ns: When it began.
        ranks: A result per rank, in ascending order.
        start_ns, end_ns: When each node began and ended, shape ``[nodes]``; empty unless the system records nodes.
    """

    graph: Graph
    begin_ns: int
    ranks: list[RankResult]
    start_ns: NDArray[np.int64]
    end_ns: NDArray[np.int64]


def run_traces(graph: Graph, network: NetworkModel, system: SystemModel, memory: MemoryModel) -> list[RankResult]:
    """Run an expanded graph from time 0 and return a result per rank; see `run_workloads`."""
    return run_workloads([graph], network, system, memory)[0].ranks


def run_workloads(
    graphs: Sequence[Graph],
    network: NetworkModel,
    system: SystemModel,
    memory: MemoryModel,
    watch: Watch | None = None,
) -> list[Execution]:
    """Run expanded graphs one after another from time 0 with ASTRA-sim's rules, its oddities included.

    Args:
        graphs: One rank class per rank of the network each, as `llmservingsim.trace.chakra.read_traces` returns them;
            their groups are the communicator groups. Each begins when every rank has finished the one before.
        network: As in ASTRA-sim's network file.
        system: As in its system file; ``parity`` and ``zero_duration_ns`` are set to what ASTRA-sim does, but the
            network ``flow``, which it does not have, is simulated without its oddities.
        memory: As in its remote-memory file.
        watch: Is told of progress about twenty times a second.

    Raises:
        TraceError: If the traces do not fit the system or hold what is not supported.
        DeadlockError: If some rank never finishes, where ASTRA-sim ends silently.
    """
    for graph in graphs:
        if len(graph.rank_classes) != network.npus or any(len(c) != 1 for c in graph.rank_classes):
            raise TraceError(f"the network has {network.npus} ranks, but there are traces of {len(graph.rank_classes)}")
    executions: list[Execution] = []
    try:
        backend = NativeBackend(network, _as_astra_sim(system, network), memory)
        compute_ns = np.zeros(network.npus, dtype=np.int64)
        for graph in graphs:
            begin_ns = backend.now_ns
            ticket = backend.submit(backend.register(graph))
            _advance(backend, watch)
            compute_ns += backend.rank_compute_ns(ticket)
            finish_ns = backend.rank_finish_ns(ticket)
            rows = zip(
                backend.ranks(ticket).tolist(), finish_ns.tolist(), (finish_ns - compute_ns).tolist(), strict=True
            )
            none = np.empty(0, dtype=np.int64)
            times = backend.node_times(ticket) if system.record_nodes else (none, none)
            executions.append(Execution(graph, begin_ns, [RankResult(*row) for row in rows], *times))
    except ValueError as error:
        raise TraceError(cut(str(error), 1000)) from error
    return executions


def _as_astra_sim(system: SystemModel, network: NetworkModel) -> SystemModel:
    """Keep ASTRA-sim's rules, and its oddities unless messages share links, of which it knows nothing."""
    return msgspec.structs.replace(system, parity=network.model != "flow", zero_duration_ns=1)


def _advance(backend: NativeBackend, watch: Watch | None) -> None:
    """Run until the one ticket completes, in slices of simulated time if somebody watches."""
    if watch is None:
        backend.advance(_FOREVER_NS)
        return
    slice_ns = _FIRST_SLICE_NS
    began_s = time.perf_counter()
    while not backend.advance(min(backend.now_ns + slice_ns, _FOREVER_NS)):
        watch(backend.now_ns)
        took_s, began_s = time.perf_counter() - began_s, time.perf_counter()
        slice_ns = 2 * slice_ns if took_s < _SLICE_S else max(1, slice_ns // 2)
