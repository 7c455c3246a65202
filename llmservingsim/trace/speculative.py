"""Iterations with speculative decoding: the model's chain of nodes, and behind its sampler the drafter's.

As in vLLM (0.19.0, v1/spec_decode/eagle.py): the drafter's first forward step computes all tokens of the batch, prompt
chunks and refused drafts included, because it needs keys and values of its own; each further one computes one token
per sequence. They run on the model's ranks, one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.latency import LatencySource
from llmservingsim.model import ParallelLayout
from llmservingsim.shapes import BatchShape
from llmservingsim.trace.builder import IterationBuilder, Values
from llmservingsim.trace.fetches import Site
from llmservingsim.trace.segments import Segment, cut_drafter


class GraphBuilder(Protocol):
    """What an instance needs of its builder; `IterationBuilder` explains the members."""

    template: Graph
    ranks: tuple[int, ...]
    member_ranks: Sequence[Sequence[int]]
    layout: ParallelLayout
    model: ModelSpec
    source: LatencySource
    stage: int

    def durations_ns(self, shapes: Sequence[BatchShape]) -> Values:
        """Return the duration of every node of `template`."""
        ...

    def sizes_bytes(self, shapes: Sequence[BatchShape]) -> Values | None:
        """Return the message size of every node of `template`, or None if there is no communication."""
        ...

    def count_moved(self, sizes: Values) -> int:
        """Note the sizes of an iteration that is submitted; return what its collectives send."""
        ...

    def moved_bytes(self) -> Iterable[tuple[Site, bool, int]]:
        """Tell what all ranks loaded or stored where: site, whether it was stored, bytes."""
        ...

    def export(self, shapes: Sequence[BatchShape]) -> Graph:
        """Return the iteration with one COMP node per operator that takes time, for writing to disk."""
        ...


@dataclass(eq=False)
class DrafterBuilder(IterationBuilder):
    """Builds one forward step of a drafter.

    Attributes:
        joins_hidden_states: It begins with the model's hidden states (EAGLE, MTP).
        num_passes: Forward steps per iteration, one per draft.
        num_extra_tokens: That the first one computes per sequence beside the batch's: 1 for a model of its own, which
            has not seen the newest token.
    """

    joins_hidden_states: bool = False
    num_passes: int = 1
    num_extra_tokens: int = 0

    def _cut(self, all2all_backend: str) -> list[Segment]:
        return cut_drafter(self.model, self.layout, all2all_backend, joins_hidden_states=self.joins_hidden_states)

    def passes(self, shape: BatchShape) -> list[BatchShape]:
        """Return what each forward step computes behind a batch.

        A head is needed for the last token of a sequence alone. Contexts count as if all drafts had been accepted.
        """
        sequences = shape.num_decodes + len(shape.prefills)
        first = shape._replace(num_tokens=shape.num_tokens + self.num_extra_tokens * sequences, num_drafts=0)
        lengths = [chunk.context_len + chunk.query_len for chunk in shape.prefills]
        kv, longest = shape.decode_kv_tokens + sum(lengths), max([shape.max_decode_kv_tokens, *lengths])
        return [
            first,
            *(BatchShape((), sequences, kv + i * sequences, longest + i, sequences) for i in range(1, self.num_passes)),
        ]


class SpeculativeBuilder:
    """Builds the graphs of an instance with speculative decoding; a `GraphBuilder`.

    Args:
        target: Builds those of the model.
        drafter: Builds those of the drafter; None where drafts are searched, not computed.
        search_ns: Time of the search.
    """

    def __init__(self, target: IterationBuilder, drafter: DrafterBuilder | None, search_ns: int = 0) -> None:
        self.ranks = target.ranks
        self.member_ranks = target.member_ranks
        self.layout = target.layout
        self.model = target.model
        self.source = target.source
        self.stage = target.stage
        self.drafter = drafter
        self.target = target
        self._search_ns = search_ns
        tails = [drafter.template] * drafter.num_passes if drafter is not None else self._search(self.ranks)
        self.template = _join(target.template, tails)
        self._communicates = bool((self.template.type == NodeType.COMM_COLL).any())
        self._search_durations = np.full(len(tails) if drafter is None else 0, search_ns, dtype=np.int64)

    def durations_ns(self, shapes: Sequence[BatchShape]) -> Values:
        """Return the duration of every node of `template`, shape ``[nodes]``."""
        parts = [self.target.durations_ns(shapes)]
        if self.drafter is not None:
            parts += [self.drafter.durations_ns((shape,)) for shape in self.drafter.passes(shapes[0])]
        return self._merge([*parts, self._search_durations])

    def sizes_bytes(self, shapes: Sequence[BatchShape]) -> Values | None:
        """Return the message size of every node of `template`, or None if there is no communication."""
        if not self._communicates:
            return None
        parts = [self.target.all_sizes_bytes(shapes)]
        if self.drafter is not None:
            parts += [self.drafter.all_sizes_bytes((shape,)) for shape in self.drafter.passes(shapes[0])]
        return self._merge([*parts, np.zeros_like(self._search_durations)])

    def count_moved(self, sizes: Values) -> int:
        """Return what an iteration's collectives send."""
        return int(sizes.sum())

    def moved_bytes(self) -> Iterable[tuple[Site, bool, int]]:
        """Nothing: all weights are on the devices."""
        return ()

    def export(self, shapes: Sequence[BatchShape]) -> Graph:
        """Return the iteration with one COMP node per operator that takes time, for writing to disk."""
        if self.drafter is None:
            return _join(self.target.export(shapes), self._search(range(len(self.ranks))))
        tails = [self.drafter.export((shape,)) for shape in self.drafter.passes(shapes[0])]
        return _join(self.target.export(shapes), tails)

    def _search(self, ranks: Sequence[int]) -> list[Graph]:
        """The search as a graph, none if it takes no time."""
        node = Node("search", NodeType.COMP, duration_ns=self._search_ns)
        return [Graph.from_nodes([node], [ranks])] if self._search_ns else []

    def _merge(self, parts: Sequence[Values]) -> Values:
        """Put values of the parts' nodes into the order of `template`; a part with one class is that of every class."""
        classes = len(self.template.rank_classes)
        if classes == 1:
            return np.concatenate(parts)
        sizes = [len(self.target.template) // classes, *(len(part) for part in parts[1:])]
        if self.drafter is not None and len(self.drafter.template.rank_classes) == classes:
            sizes[1:] = [size // classes for size in sizes[1:]]
        rows = [
            np.broadcast_to(p.reshape(-1, size), (classes, size)) for p, size in zip(parts, sizes, strict=True) if size
        ]
        return np.concatenate(rows, axis=1).ravel()


def _join(target: Graph, tails: Sequence[Graph]) -> Graph:
    """Chain the nodes of the tails behind those of the target, class by class; a tail may have one class for all."""
    nodes: list[Node] = []
    columns = [("", target), *((f"draft{i}.", tail) for i, tail in enumerate(tails))]
    listed = [(prefix, graph.nodes(), len(graph.rank_classes)) for prefix, graph in columns]
    for index in range(len(target.rank_classes)):
        first = len(nodes)
        for prefix, part, classes in listed:
            for node in part:
                if node.rank_class == (index if classes > 1 else 0):
                    before = (len(nodes) - 1,) if len(nodes) > first else ()
                    nodes.append(replace(node, name=prefix + node.name, rank_class=index, data_deps=before))
    return Graph.from_nodes(nodes, target.rank_classes, target.groups)
