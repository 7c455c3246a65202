"""Two halves of a batch as two chains of one graph on the same ranks, and how long that takes.

As in NeuPIMs (Heo et al., ASPLOS 2024, "sub-batch interleaving"): while the memory computes the attention of one half,
the accelerator computes the layers of the other. The halves take turns on the accelerator, as launched on one stream:
what one computes up to its next attention or collective, then the same of the other; and their collectives take turns
on another. Each half is priced as a batch of its own, so weights are read twice, which is what splitting costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.shapes import BatchShape
from llmservingsim.trace.builder import Values
from llmservingsim.trace.fetches import Site
from llmservingsim.trace.offloading import ATTENTION, OffloadBuilder

Piece = tuple[OffloadBuilder, BatchShape]
"""Who builds it, with its decodes set, and its batch."""


class InterleavedBuilder:
    """Builds the graphs of batches that are cut in two; a `llmservingsim.trace.GraphBuilder`.

    Args:
        first, second: Build those of the halves; they differ in form at most.

    Attributes:
        shapes: Of the halves of the next iteration.
    """

    def __init__(self, first: OffloadBuilder, second: OffloadBuilder) -> None:
        self._halves = (first, second)
        self.ranks = first.ranks
        self.member_ranks = first.member_ranks
        self.layout = first.layout
        self.model = first.model
        self.source = first.source
        self.stage = first.stage
        self.shapes: tuple[BatchShape, BatchShape]
        self.template, self._order = _interleave([(half.template, half.template_steps) for half in self._halves])

    def durations_ns(self, shapes: Sequence[BatchShape]) -> Values:
        """Return the duration of every node of `template`, shape ``[nodes]``, for the halves in `shapes`."""
        del shapes
        return self._merge([half.durations_ns((shape,)) for half, shape in zip(self._halves, self.shapes, strict=True)])

    def sizes_bytes(self, shapes: Sequence[BatchShape]) -> Values | None:
        """Return the size of every node of `template`, or None if none has one."""
        del shapes
        return self._merge(
            [half.all_sizes_bytes((shape,)) for half, shape in zip(self._halves, self.shapes, strict=True)]
        )

    def count_moved(self, sizes: Values) -> int:
        """Note the sizes of an iteration that is submitted; return what its collectives send."""
        apart = np.empty_like(sizes)
        apart[self._order] = sizes
        cut = len(self._halves[0].template)
        return sum(half.count_moved(own) for half, own in zip(self._halves, (apart[:cut], apart[cut:]), strict=True))

    def moved_bytes(self) -> Iterable[tuple[Site, bool, int]]:
        """Nothing: the halves' builders tell."""
        return ()

    def export(self, shapes: Sequence[BatchShape]) -> Graph:
        """Return the iteration with one COMP node per operator that takes time, for writing to disk."""
        del shapes
        parts = []
        for half, shape in zip(self._halves, self.shapes, strict=True):
            graph = half.export((shape,))
            parts.append((graph, half.steps_of(half.segment_of)))
        return _interleave(parts)[0]

    def _merge(self, parts: Sequence[Values]) -> Values:
        merged: Values = np.concatenate(parts)[self._order]
        return merged


def _interleave(halves: Sequence[tuple[Graph, Sequence[int]]]) -> tuple[Graph, NDArray[np.int64]]:
    """Put the nodes of two graphs in the order of their steps, which are given for each node.

    Returns:
        The graph, and for each of its nodes which one it is if both graphs' nodes are counted one after the other.
    """
    listed = [
        (node.rank_class, steps[i], half, i, node)
        for half, (graph, steps) in enumerate(halves)
        for i, node in enumerate(graph.nodes())
    ]
    listed.sort(key=lambda entry: entry[:4])
    offsets = (0, len(halves[0][0]))
    place = {(half, i): new for new, (_, _, half, i, _) in enumerate(listed)}
    nodes: list[Node] = []
    last: dict[tuple[int, NodeType], int] = {}
    for rank_class, _, half, _, node in listed:
        behind = {place[half, dep] for dep in node.data_deps}
        stream = rank_class, node.type
        if node.type in (NodeType.COMP, NodeType.COMM_COLL):
            behind = behind.union([last[stream]] if stream in last else [])
            last[stream] = len(nodes)
        nodes.append(replace(node, name=f"half{half}.{node.name}", data_deps=tuple(sorted(behind))))
    graph = Graph.from_nodes(nodes, halves[0][0].rank_classes, halves[0][0].groups)
    return graph, np.array([offsets[half] + i for _, _, half, i, _ in listed], dtype=np.int64)


def predict_ns(pieces: Sequence[Piece]) -> float:
    """Return what an iteration takes whose batch is in one piece, or in two halves.

    The accelerator takes the layers of the pieces in turn, and each group of channels their attention; collectives,
    and waiting for others on the way to the memory, are left out.
    """
    costs = [_Costs(builder, shape) for builder, shape in pieces]
    accelerator = 0.0
    free_at = np.zeros(1)
    for turn in range(len(costs[0].jobs)):
        for cost in costs:
            accelerator = max(accelerator, cost.ready) + cost.jobs[turn]
            cost.ready = accelerator
        if turn == len(costs[0].jobs) - 1:
            break
        for cost in costs:
            begin = cost.ready
            if cost.prompts_ns:
                accelerator += cost.prompts_ns
                cost.ready = accelerator
            if cost.memory_ns is not None:
                free_at = np.maximum(free_at, begin + cost.there_ns) + cost.memory_ns
                cost.ready = max(cost.ready, float(free_at.max(where=cost.is_asked, initial=0)) + cost.back_ns)
    return accelerator


class _Costs:
    """What one piece of a batch takes: jobs of the accelerator, and attention between them.

    Attributes:
        jobs: Time of what is computed before the first attention, between two, and behind the last one.
        prompts_ns: Of the attention of prompt chunks in a block.
        there_ns, memory_ns, back_ns: Of that of decodes: bringing what it reads, computing by groups, and its result.
        is_asked: Which groups compute.
        ready: When the next job can begin.
    """

    def __init__(self, builder: OffloadBuilder, shape: BatchShape) -> None:
        self.jobs = builder.jobs_ns(shape)
        self.prompts_ns = builder.source.latency_ns(ATTENTION, shape)
        self.ready = self.there_ns = self.back_ns = 0.0
        self.memory_ns: NDArray[np.float64] | None = None
        run = builder.attention_run
        if run is not None:
            link = run.helper.link
            taken = builder.attention_ns
            self.is_asked = taken > 0
            self.memory_ns = np.asarray((taken + link.latency_ns) * self.is_asked, dtype=np.float64)
            self.there_ns = link.store_ns(shape.num_decodes * run.store.num_bytes)
            self.back_ns = link.load_ns(shape.num_decodes * run.load.num_bytes)
