"""Runs Chakra traces the way an ASTRA-sim binary does."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from llmservingsim.backend.config import MemoryModel, NetworkModel, SystemModel
from llmservingsim.backend.native import NativeBackend
from llmservingsim.errors import TraceError
from llmservingsim.graph import Graph

_FOREVER_NS = 2**62


class RankResult(NamedTuple):
    """What ASTRA-sim prints when a rank finishes.

    Attributes:
        rank: Which one.
        finish_ns: When its last node completed.
        exposed_comm_ns: The finish time less the accelerator's COMP time.
    """

    rank: int
    finish_ns: int
    exposed_comm_ns: int


def run_traces(graph: Graph, network: NetworkModel, system: SystemModel, memory: MemoryModel) -> list[RankResult]:
    """Run an expanded graph from time 0 with ASTRA-sim's rules, its oddities included; return a result per rank.

    Args:
        graph: One rank class per rank of the network, as `llmservingsim.trace.chakra.read_traces` returns it; its
            groups are the communicator groups.
        network: As in ASTRA-sim's network file.
        system: As in its system file; ``parity`` and ``zero_duration_ns`` are set to what ASTRA-sim does.
        memory: As in its remote-memory file.

    Raises:
        TraceError: If the traces do not fit the system or hold what is not supported.
        DeadlockError: If some rank never finishes, where ASTRA-sim ends silently.
    """
    if len(graph.rank_classes) != network.npus or any(len(c) != 1 for c in graph.rank_classes):
        raise TraceError(f"the network has {network.npus} ranks, but there are traces of {len(graph.rank_classes)}")
    try:
        backend = NativeBackend(network, msgspec.structs.replace(system, parity=True, zero_duration_ns=1), memory)
        ticket = backend.submit(backend.register(graph))
        backend.advance(_FOREVER_NS)
    except ValueError as error:
        raise TraceError(str(error)) from error
    finish = backend.rank_finish_ns(ticket).tolist()
    compute = backend.rank_compute_ns(ticket).tolist()
    ranks = backend.ranks(ticket).tolist()
    return [RankResult(r, f, f - c) for r, f, c in zip(ranks, finish, compute, strict=True)]
