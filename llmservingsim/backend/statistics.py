"""What ASTRA-sim says of a rank when it has finished: where its time went."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.backend.astra import Execution
from llmservingsim.backend.config import MEMORY_GB, SystemModel
from llmservingsim.graph import Graph, NodeType

CPU, GPU, COMM, MEMORY, INVALID = "CPU", "GPU", "Comm", "Remote mem", "Invalid"
"""ASTRA-sim's classes of nodes."""

_CLASSES = {
    GPU: (NodeType.COMP,),
    COMM: (NodeType.COMM_COLL, NodeType.COMM_SEND, NodeType.COMM_RECV),
    MEMORY: (NodeType.MEM_LOAD, NodeType.MEM_STORE, NodeType.PIM_COMP),
    INVALID: (NodeType.INVALID, NodeType.METADATA),
}
_TFLOPS = 10**12


class RooflineAverages(NamedTuple):
    """Averages over a rank's COMP nodes, weighted by duration over the sum of durations + 1, as in ASTRA-sim.

    Attributes:
        compute_bound_pct: Time in nodes that the peak limits, not the memory.
        compute_utilization_pct: Reached performance over the peak.
        memory_utilization_pct: Used bandwidth over the memory's.
        operation_intensity: Operations per byte.
    """

    compute_bound_pct: float
    compute_utilization_pct: float
    memory_utilization_pct: float
    operation_intensity: float


class RankStatistics(NamedTuple):
    """Where a rank's time went.

    Attributes:
        rank: Which one.
        wall_ns: From the beginning of the workload to its finish.
        busy_ns: Class of nodes -> time in which at least one of them ran; classes without a node are absent.
        overlap_ns: Compute and communication at once: the sum of their busy times less the wall time, at least 0.
        roofline: Only where the roofline times COMP nodes and there is one.
    """

    rank: int
    wall_ns: int
    busy_ns: dict[str, int]
    overlap_ns: int
    roofline: RooflineAverages | None

    def lines(self) -> list[str]:
        """The lines that ASTRA-sim prints."""
        who = f"sys[{self.rank}]"
        lines = [f"{who}. Post statistics processing start.", f"{who}, Wall time: {self.wall_ns}"]
        lines += [f"{who}, {name} time: {busy_ns}" for name, busy_ns in self.busy_ns.items()]
        if self.overlap_ns > 0:
            lines.append(f"{who}, Total compute-communication overlap: {self.overlap_ns}")
        if averages := self.roofline:
            lines += [
                f"{who}, Compute bound percentage: {averages.compute_bound_pct:.3f}%",
                f"{who}, Average compute utilization: {averages.compute_utilization_pct:.3f}%",
                f"{who}, Average memory utilization: {averages.memory_utilization_pct:.3f}%",
                f"{who}, Average operation intensity: {averages.operation_intensity:.3f}",
            ]
        return [*lines, f"{who}. Post statistics processing end."]


def rank_statistics(execution: Execution, system: SystemModel) -> list[RankStatistics]:
    """Return a rank's statistics, for each rank of a workload whose nodes were recorded."""
    graph = execution.graph
    classes = node_classes(graph)
    found = []
    for result in execution.ranks:
        mine = np.flatnonzero(graph.rank_class == result.rank)
        busy_ns = {}
        for name in (CPU, GPU, COMM, MEMORY, INVALID):
            if len(nodes := mine[classes[mine] == name]):
                busy_ns[name] = union_ns(execution.start_ns[nodes], execution.end_ns[nodes])
        wall_ns = result.finish_ns - execution.begin_ns
        overlap_ns = max(0, busy_ns.get(GPU, 0) + busy_ns.get(COMM, 0) - wall_ns)
        computing = mine[classes[mine] == GPU]
        roofline = None
        if system.roofline_enabled and len(computing):
            roofline = _averages(graph, computing, (execution.end_ns - execution.start_ns)[computing], system)
        found.append(RankStatistics(result.rank, wall_ns, busy_ns, overlap_ns, roofline))
    return found


def node_classes(graph: Graph) -> NDArray[np.str_]:
    """Return ASTRA-sim's class of every node, shape ``[nodes]``."""
    classes = np.full(len(graph), GPU, dtype="<U10")
    for name, types in _CLASSES.items():
        classes[np.isin(graph.type, types)] = name
    classes[graph.is_cpu_op] = CPU
    return classes


def union_ns(start_ns: NDArray[np.int64], end_ns: NDArray[np.int64]) -> int:
    """Return the time that intervals cover together; shapes ``[n]``."""
    order = np.argsort(start_ns, kind="stable")
    starts, ends = start_ns[order], np.maximum.accumulate(end_ns[order])
    covered_until = np.concatenate([starts[:1], ends[:-1]])
    return int(np.maximum(0, ends - np.maximum(starts, covered_until)).sum())


def _averages(
    graph: Graph, nodes: NDArray[np.intp], duration_ns: NDArray[np.int64], system: SystemModel
) -> RooflineAverages:
    """Average over nodes; one without bytes takes no time and weighs nothing."""
    weights = duration_ns / (duration_ns.sum() + 1)
    intensity = graph.num_ops[nodes] / np.maximum(graph.size_bytes[nodes], 1)
    memory_bound = intensity * system.local_mem_bw_gbps * MEMORY_GB
    peak = system.peak_perf_tflops * _TFLOPS
    reached = np.minimum(memory_bound, peak)
    used = np.divide(reached, memory_bound, out=np.ones_like(reached), where=memory_bound > 0)
    return RooflineAverages(
        compute_bound_pct=100 * float(weights @ (memory_bound >= peak)),
        compute_utilization_pct=100 * float(weights @ (reached / peak)),
        memory_utilization_pct=100 * float(weights @ used),
        operation_intensity=float(weights @ intensity),
    )
