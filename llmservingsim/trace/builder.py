"""A batch becomes a graph: one iteration of one instance, as its ranks execute it.

All tensor-parallel ranks do the same work, so they form one rank class. A rank runs its operators one after another:

    embedding | block 0: layernorm .. o_proj (all-reduce) layernorm .. down_proj (all-reduce) | block 1 ... | final
    norm, lm_head, sampler

For timing, operators between two collectives are fused into one COMP node, which changes no time: a chain takes the
sum of its parts. The topology is therefore the same for every batch of an instance, and a batch only refills the
durations and message sizes. `IterationBuilder.export` writes the same iteration with one node per operator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType
from llmservingsim.latency import LatencySource
from llmservingsim.model import (
    IndexedBy,
    Operator,
    ParallelLayout,
    block_operators,
    end_operators,
    start_operators,
)
from llmservingsim.shapes import BatchShape
from llmservingsim.trace.cuda_graphs import padded_tokens

Values = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Segment:
    """Operators without communication between them, and whether an all-reduce follows.

    Attributes:
        operators: What runs, in order, each with the place where it stands (``block3``).
        all_reduce: Whether the ranks sum their results afterwards.
    """

    operators: tuple[tuple[str, Operator], ...]
    all_reduce: bool

    def count(self, operator: str) -> int:
        """How often an operator of this name runs in the segment."""
        return sum(op.name == operator for _, op in self.operators)


class IterationBuilder:
    """Builds the graphs of one instance.

    Args:
        model: What is computed.
        layout: How it is cut over ranks; one pipeline stage.
        ranks: The instance's devices in the network.
        source: Where operator latencies come from.
        capture_sizes: Token counts to which batches are padded; empty for eager execution.
    """

    def __init__(
        self,
        model: ModelSpec,
        layout: ParallelLayout,
        ranks: Sequence[int],
        source: LatencySource,
        capture_sizes: Sequence[int],
    ) -> None:
        self.ranks = tuple(ranks)
        self.source = source
        self._bytes_per_token = model.hidden_size * model.dtype_bytes
        self._capture_sizes = tuple(sorted(capture_sizes))
        self._segments = _segments(model, layout)
        self._by_tokens: dict[int, Values] = {}
        self._by_sequences: dict[int, Values] = {}
        distinct = {op.name: op for segment in self._segments for _, op in segment.operators}
        self._token_operators = [op.name for op in distinct.values() if op.indexed_by is IndexedBy.TOKENS]
        self._sequence_operators = [op.name for op in distinct.values() if op.indexed_by is IndexedBy.SEQUENCES]
        self.template = self._graph([(s.operators[-1][0], s.all_reduce) for s in self._segments], self.ranks)
        self._collectives = np.flatnonzero(self.template.type == NodeType.COMM_COLL)
        self._occurrences = {name: self._occurrences_of(name) for name in distinct}

    def durations_ns(self, shape: BatchShape) -> Values:
        """Return the duration of every node of `template` for a batch, shape ``[nodes]``."""
        padded = self._padded(shape)
        dense = self._by_tokens.get(padded.num_tokens)
        if dense is None:
            dense = self._by_tokens[padded.num_tokens] = self._sums(self._token_operators, padded)
        sequences = self._by_sequences.get(shape.num_sequences)
        if sequences is None:
            sequences = self._by_sequences[shape.num_sequences] = self._sums(self._sequence_operators, padded)
        attention = self.source.latency_ns("attention", padded) * self._occurrences["attention"]
        return dense + sequences + attention

    def sizes_bytes(self, shape: BatchShape) -> Values | None:
        """Return the message size of every node of `template`, or None if there is no communication."""
        if not len(self._collectives):
            return None
        sizes = np.zeros(len(self.template), dtype=np.int64)
        sizes[self._collectives] = self._padded(shape).num_tokens * self._bytes_per_token
        return sizes

    def export(self, shape: BatchShape) -> Graph:
        """Return the iteration with one COMP node per operator that takes time, for writing to disk.

        The instance is a system of its own there: its ranks count from 0. Where nothing between two collectives takes
        time, the last operator stands for all, as in `template`.
        """
        padded = self._padded(shape)
        latency = {op: self.source.latency_ns(op, padded) for op in (*self._token_operators, *self._sequence_operators)}
        latency["attention"] = self.source.latency_ns("attention", padded)
        steps: list[tuple[str, bool]] = []
        durations: list[int] = []
        for segment in self._segments:
            timed = [step for step in segment.operators if latency[step[1].name]] or [segment.operators[-1]]
            for place, operator in timed:
                steps.append((f"{place}.{operator.name}", False))
                durations.append(latency[operator.name])
            steps[-1] = (steps[-1][0], segment.all_reduce)
        graph = self._graph(steps, range(len(self.ranks)))
        graph.duration_ns[graph.type == NodeType.COMP] = durations
        graph.size_bytes[graph.type == NodeType.COMM_COLL] = padded.num_tokens * self._bytes_per_token
        return graph

    def _padded(self, shape: BatchShape) -> BatchShape:
        tokens = padded_tokens(shape.num_tokens, self._capture_sizes)
        return shape if tokens == shape.num_tokens else shape._replace(num_tokens=tokens)

    @staticmethod
    def _graph(steps: Sequence[tuple[str, bool]], ranks: Sequence[int]) -> Graph:
        """Chain one COMP node per step, followed by an all-reduce where the step says so."""
        nodes: list[Node] = []
        for name, all_reduce in steps:
            before = (len(nodes) - 1,) if nodes else ()
            nodes.append(Node(name, NodeType.COMP, data_deps=before))
            if all_reduce:
                nodes.append(
                    Node(
                        f"{name}.all_reduce",
                        NodeType.COMM_COLL,
                        collective=CollectiveType.ALL_REDUCE,
                        group=0,
                        data_deps=(len(nodes) - 1,),
                    )
                )
        return Graph.from_nodes(nodes, rank_classes=(ranks,), groups=(ranks,))

    def _sums(self, operators: Sequence[str], shape: BatchShape) -> Values:
        """Sum the named operators' latencies into the nodes that run them."""
        zero = np.zeros(len(self.template), dtype=np.int64)
        return sum((self.source.latency_ns(op, shape) * self._occurrences[op] for op in operators), start=zero)

    def _occurrences_of(self, operator: str) -> Values:
        """How often each node of the template runs an operator, shape ``[nodes]``."""
        counts = np.zeros(len(self.template), dtype=np.int64)
        counts[self.template.type == NodeType.COMP] = [segment.count(operator) for segment in self._segments]
        return counts


def _segments(model: ModelSpec, layout: ParallelLayout) -> list[Segment]:
    """Cut the model's operators behind every collective."""
    steps = [("start", op) for op in start_operators()]
    for block in range(model.num_layers):
        steps += [(f"block{block}", op) for op in block_operators(model, block)]
    steps += [("end", op) for op in end_operators()]
    segments: list[Segment] = []
    current: list[tuple[str, Operator]] = []
    for place, operator in steps:
        current.append((place, operator))
        if operator.all_reduce and layout.tp > 1:
            segments.append(Segment(tuple(current), all_reduce=True))
            current = []
    segments.append(Segment(tuple(current), all_reduce=False))
    return segments
