"""Time per submission through Python. Goals, in microseconds on one core of 2020 or later, stand beside each case.

Run: ``python benchmarks/bench_backend.py``; exits with 1 if a goal is missed.
"""

import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from llmservingsim.backend import NativeBackend, NetworkModel
from llmservingsim.graph import Graph, Node, NodeType

FOREVER = 2**62


def chain(nodes: int) -> Graph:
    """COMP nodes one after another."""
    deps = [(i - 1,) if i else () for i in range(nodes)]
    return Graph.from_nodes(
        [Node(f"n{i}", NodeType.COMP, duration_ns=100 + i, data_deps=d) for i, d in enumerate(deps)]
    )


def decoder(classes: Sequence[Sequence[int]], blocks: int = 64) -> Graph:
    """Blocks of two COMP and two all-reduce nodes, for every class."""
    nodes: list[Node] = []
    for c in range(len(classes)):
        deps: tuple[int, ...] = ()
        for i in range(2 * blocks):
            nodes.append(Node(f"op{i}", NodeType.COMP, rank_class=c, duration_ns=1000 + i, data_deps=deps))
            deps = (len(nodes) - 1,)
            nodes.append(Node(f"ar{i}", NodeType.COMM_COLL, rank_class=c, size_bytes=1 << 16, group=0, data_deps=deps))
            deps = (len(nodes) - 1,)
    return Graph.from_nodes(nodes, classes, [tuple(r for ranks in classes for r in ranks)])


def single(graph: Graph) -> Callable[[int], None]:
    """Submit and advance, one at a time."""
    backend = NativeBackend(NetworkModel(["FullyConnected"], [4], [50.0], [500.0]))
    handle = backend.register(graph)
    durations = graph.duration_ns.copy()

    def run(repeats: int) -> None:
        for _ in range(repeats):
            backend.submit(handle, durations)
            backend.advance(FOREVER)

    return run


def steady(graph: Graph, steps: int) -> Callable[[int], None]:
    """Submit many steps at once; the time is per submission."""
    backend = NativeBackend(NetworkModel(["FullyConnected"], [4], [50.0], [500.0]))
    handle = backend.register(graph)
    durations = np.repeat(graph.duration_ns[None, :], steps, axis=0)

    def run(repeats: int) -> None:
        for _ in range(repeats):
            ticket = backend.submit(handle, durations)
            backend.advance(FOREVER)
            backend.step_ends_ns(ticket)

    return run


CASES: list[tuple[str, float, Callable[[int], None]]] = [
    ("one COMP node", 3.0, single(chain(1))),
    ("chain of 300 COMP nodes", 10.0, single(chain(300))),
    ("1000 steps of one COMP node", 100.0, steady(chain(1), 1000)),
    ("TP=2, 64 blocks, one rank class", 150.0, single(decoder([(0, 1)]))),
    ("TP=2, 64 blocks, expanded", 500.0, single(decoder([(0,), (1,)]))),
    ("TP=4, 64 blocks, expanded", 2000.0, single(decoder([(0,), (1,), (2,), (3,)]))),
]


def measure(run: Callable[[int], None], seconds: float = 0.3) -> float:
    """Return the best of three averages, in microseconds."""
    run(10)
    repeats, spent = 10, 0.0
    while spent < seconds / 10:
        repeats *= 2
        start = time.perf_counter()
        run(repeats)
        spent = time.perf_counter() - start
    repeats = max(1, int(repeats * seconds / 3 / spent))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        run(repeats)
        best = min(best, (time.perf_counter() - start) / repeats)
    return best * 1e6


def main() -> int:
    """Print a line per case; return how many goals were missed, at most 1."""
    is_missed = False
    for name, goal, run in CASES:
        took = measure(run)
        is_missed |= took > goal
        print(f"{name:34s} {took:9.2f} us   goal {goal:7.1f} us   {'ok' if took <= goal else 'MISSED'}")
    return int(is_missed)


if __name__ == "__main__":
    sys.exit(main())
