"""Messages per CPU-second, and what rank classes save: 400 COMP nodes and 64 ring all-reduces over 8 to 2,048 ranks.

ASTRA-sim's analytical simulator moves 0.7 to 1.0 million messages per CPU-second on the machine of the reference runs,
and needs 12 CPU-seconds for 256 ranks. Goals: every rank simulated, at least 5 million messages per CPU-second and no
more time per message when there are more of them; one rank for its class, at most 10 ms and no more for more ranks.

Run: ``python benchmarks/bench_collectives.py [RANKS]...``; exits with 1 if a goal is missed. 2,048 ranks expanded are
537 million messages and take about a minute.
"""

import sys
import time

from llmservingsim.backend import NativeBackend, NetworkModel, SystemModel
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType
from llmservingsim.trace.chakra import expand

RANKS = (8, 64, 256, 2048)
COMPUTE_NODES, COLLECTIVES, SIZE_BYTES = 400, 64, 64 << 20
MESSAGES_GOAL = 5e6
COLLAPSED_GOAL_MS = 10.0
GROWTH_GOAL = 1.5
"""Time per message, and time collapsed, of the most ranks over that of the fewest: 1 but for caches and noise."""
NOISE_MS = 0.5
"""Collapsed runs take some 0.1 ms, of which the scheduler of the machine may take more away."""


def iteration(ranks: int) -> Graph:
    """One rank class: COMP nodes one after another, an all-reduce behind every sixth or seventh."""
    nodes: list[Node] = []
    for i in range(COMPUTE_NODES):
        deps = (len(nodes) - 1,) if nodes else ()
        nodes.append(Node(f"op{i}", NodeType.COMP, duration_ns=1000 + i, data_deps=deps))
        if i * COLLECTIVES // COMPUTE_NODES < (i + 1) * COLLECTIVES // COMPUTE_NODES:
            last = (len(nodes) - 1,)
            nodes.append(
                Node(
                    f"all_reduce{i}",
                    NodeType.COMM_COLL,
                    size_bytes=SIZE_BYTES,
                    collective=CollectiveType.ALL_REDUCE,
                    data_deps=last,
                )
            )
    return Graph.from_nodes(nodes, [tuple(range(ranks))])


def simulate(graph: Graph, ranks: int) -> tuple[float, list[int]]:
    """Return CPU-seconds of one run, the graph registered before, and when every rank finished."""
    network = NetworkModel(["FullyConnected"], [ranks], [50.0], [500.0])
    backend = NativeBackend(network, SystemModel(local_mem_bw_gbps=1600))
    handle = backend.register(graph)
    start = time.process_time()
    ticket = backend.submit(handle)
    backend.advance(2**62)
    return time.process_time() - start, backend.rank_finish_ns(ticket).tolist()


def main(arguments: list[str]) -> int:
    """Print a line per number of ranks; return 1 if a goal is missed."""
    counts = [int(a) for a in arguments] or list(RANKS)
    per_message, collapsed_ms, missed = [], [], []
    for ranks in counts:
        graph = iteration(ranks)
        together, finish = min(simulate(graph, ranks) for _ in range(3))
        expanded, finish_expanded = simulate(expand(graph), ranks)
        if finish != finish_expanded:
            missed.append(f"{ranks} ranks: collapsed and expanded runs differ")
        messages = COLLECTIVES * ranks * 2 * (ranks - 1)
        per_message.append(expanded / messages)
        collapsed_ms.append(together * 1e3)
        print(
            f"{ranks:5d} ranks  expanded {expanded:8.3f} s  {messages / expanded / 1e6:6.1f} M messages/s  "
            f"(goal {MESSAGES_GOAL / 1e6:.0f})   collapsed {together * 1e3:6.3f} ms (goal {COLLAPSED_GOAL_MS:.0f})"
        )
        if messages / expanded < MESSAGES_GOAL and ranks > min(counts):  # the smallest is mostly its compute nodes
            missed.append(f"{ranks} ranks: fewer than {MESSAGES_GOAL:.0f} messages per CPU-second")
        if together * 1e3 > COLLAPSED_GOAL_MS:
            missed.append(f"{ranks} ranks: more than {COLLAPSED_GOAL_MS} ms collapsed")
    if per_message[-1] > GROWTH_GOAL * per_message[0]:
        missed.append("expanded time grows faster than messages")
    if collapsed_ms[-1] > GROWTH_GOAL * collapsed_ms[0] + NOISE_MS:
        missed.append("collapsed time grows with ranks")
    for line in missed:
        print(f"MISSED {line}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
