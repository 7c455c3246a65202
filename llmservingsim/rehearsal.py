"""How long a collective takes when nothing else is on the network: tried out on a backend of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from llmservingsim.backend import NativeBackend
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType
from llmservingsim.trace.bounded import remember
from llmservingsim.units import TIME_MAX_NS

_Classes = tuple[tuple[int, ...], ...]
_Key = tuple[CollectiveType, _Classes, tuple[int, ...], int, tuple[int, ...]]


class Rehearsal:
    """Times collectives.

    Args:
        make_backend: Makes a backend with the network of the run; called when the first collective is timed.
    """

    def __init__(self, make_backend: Callable[[], NativeBackend]) -> None:
        self._make_backend = make_backend
        self._backend: NativeBackend | None = None
        self._graphs: dict[tuple[CollectiveType, _Classes, tuple[int, ...]], int] = {}
        self._known: dict[_Key, tuple[int, ...]] = {}

    def collective_ns(self, graph: Graph, node: int, size_bytes: int, arrivals_ns: Sequence[int]) -> tuple[int, ...]:
        """Return when each rank class has passed a collective.

        Args:
            graph: A graph of the run.
            node: The collective in it, of any of its rank classes.
            size_bytes: Of its message.
            arrivals_ns: When each rank class that takes part, in the graph's order, comes to it.
        """
        ranks = graph.groups[graph.group[node]]
        classes = tuple(c for c in graph.rank_classes if set(c) <= set(ranks))
        first = min(arrivals_ns)
        late = tuple(arrival - first for arrival in arrivals_ns)
        key = (CollectiveType(int(graph.collective[node])), classes, ranks, size_bytes, late)
        if key not in self._known:
            remember(self._known, key, self._run(*key))
        return tuple(first + end for end in self._known[key])

    def _run(
        self, kind: CollectiveType, classes: _Classes, ranks: tuple[int, ...], size_bytes: int, late: Sequence[int]
    ) -> tuple[int, ...]:
        if self._backend is None:
            self._backend = self._make_backend()
        backend = self._backend
        if (kind, classes, ranks) not in self._graphs:
            self._graphs[kind, classes, ranks] = backend.register(_graph(kind, classes, ranks))
        durations, sizes = np.zeros((2, 2 * len(classes)), dtype=np.int64)
        durations[::2], sizes[1::2] = late, size_bytes
        start_ns = backend.now_ns
        ticket = backend.submit(self._graphs[kind, classes, ranks], durations, sizes)
        backend.advance(TIME_MAX_NS)
        ends = dict(zip(backend.ranks(ticket).tolist(), backend.rank_finish_ns(ticket).tolist(), strict=True))
        return tuple(ends[c[0]] - start_ns for c in classes)


def _graph(kind: CollectiveType, classes: _Classes, ranks: tuple[int, ...]) -> Graph:
    """Every class comes late, then takes part."""
    nodes = []
    for c in range(len(classes)):
        late = Node("late", NodeType.COMP, c)
        nodes += [late, Node("collective", NodeType.COMM_COLL, c, 0, 1, kind, group=0, data_deps=(2 * c,))]
    return Graph.from_nodes(nodes, classes, [ranks])
