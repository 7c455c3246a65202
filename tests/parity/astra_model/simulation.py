"""Workloads one after another over the same network, memories and queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from astra_model.engine import EndlessError, Engine
from astra_model.memory import Memories
from astra_model.network import Messages
from astra_model.rank import Machine, Rank
from astra_model.system import SystemLayer
from llmservingsim.backend.config import MemoryModel, NetworkModel, SystemModel
from llmservingsim.graph import Graph


class Result(NamedTuple):
    """A rank's end; as `llmservingsim.backend.astra.RankResult`."""

    rank: int
    finish_ns: int
    exposed_comm_ns: int


def simulate(
    graphs: Sequence[Graph], network: NetworkModel, system: SystemModel, memory: MemoryModel
) -> list[list[Result]]:
    """Return the results of every rank, per workload.

    Raises:
        AbortError: The real program dies.
        EndlessError: It does not end, or ranks never finish; the message names those.
    """
    is_fork = system.dialect == "llmservingsim"
    engine = Engine(refuses_time_zero=not is_fork)
    messages = Messages(network, engine, system.rendezvous)
    machine = Machine(engine, messages, Memories(memory, engine, is_fork), system)
    layers = [SystemLayer(r, network, system, engine, messages) for r in range(network.npus)]
    compute_ns = [0] * network.npus
    results = []
    for graph in graphs:
        nodes = list(enumerate(graph.nodes()))
        ranks = []
        for r, layer in enumerate(layers):
            own = {i: n for i, n in nodes if graph.rank_classes[n.rank_class] == (r,)}
            ranks.append(Rank(r, own, graph, machine, layer))
        for rank in ranks:
            rank.begin()
        idle = [rank for rank in ranks if rank.finish_ns is not None]
        if is_fork and idle:  # it asks who has finished after a batch only, and reports the time of asking
            engine.step()
            for rank in idle:
                rank.finish_ns = engine.now
        engine.run(lambda ranks=ranks: all(r.finish_ns is not None for r in ranks))
        results.append([])
        for r, rank in enumerate(ranks):
            if rank.finish_ns is None:
                raise EndlessError(f"ranks {[r for r, one in enumerate(ranks) if one.finish_ns is None]} never finish")
            compute_ns[r] += rank.compute_ns
            results[-1].append(Result(r, rank.finish_ns, rank.finish_ns - compute_ns[r]))
    return results
