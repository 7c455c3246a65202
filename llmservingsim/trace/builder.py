"""A batch becomes a graph: one iteration of one pipeline stage, as its ranks execute it.

All tensor-parallel ranks of an instance do the same work, so they form one rank class; where they hold experts that are
loaded differently, a class for each part of the experts. Instances that run in lock step because they share experts are
the *members* of one graph. A rank runs its operators one after another (`llmservingsim.trace.segments`).

For timing, operators between two collectives are fused into one COMP node, which changes no time: a chain takes the
sum of its parts. The topology is therefore the same for every batch, and a batch only refills the durations and message
sizes. `IterationBuilder.export` writes the same iteration with one node per operator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import InvariantError, PluginError
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.latency import ExpertLatencySource, LatencySource, PartialLatencySource
from llmservingsim.model import HOST_GAP, IndexedBy, OperatorKind, ParallelLayout, Placement, stage_range
from llmservingsim.shapes import BatchShape
from llmservingsim.trace.bounded import remember
from llmservingsim.trace.cuda_graphs import padded_tokens
from llmservingsim.trace.expert_costs import ExpertCosts, RankClass, rank_classes
from llmservingsim.trace.experts import ExpertRouting
from llmservingsim.trace.fetches import Access, AccessSizes, FetchPlan, Floats, Issuer, Site, plan_accesses
from llmservingsim.trace.segments import Collective, Segment, Step, cut_stage, row_counts

Values = NDArray[np.int64]
_MEMORY = (NodeType.MEM_LOAD, NodeType.MEM_STORE)


class _Line(NamedTuple):
    """A node of the chain of a rank.

    Attributes:
        name: Its name.
        segment: Which segment it belongs to.
        is_first: Whether the segment begins with it.
        collective: What it is if it is no COMP node.
    """

    name: str
    segment: int
    is_first: bool = False
    collective: Collective | None = None


@dataclass(eq=False)
class IterationBuilder:
    """Builds the graphs of one pipeline stage of one instance, or of several that run in lock step.

    Attributes:
        model: What is computed.
        layout: How it is cut over ranks; ``layout.dp`` counts the members.
        member_ranks: Each member's devices of this stage in the network.
        source: Where operator latencies come from; an `ExpertLatencySource` if the stage routes tokens to experts.
        capture_sizes: Token counts to which batches are padded; empty for eager execution.
        stage: Which pipeline stage.
        experts: Where tokens go; None for a dense model.
        fetches: What lies off the devices; None if nothing does.
        recalled_tokens: Memory -> tokens that come up from it in the next iteration, of those in ``fetches.recalls``.
        segment_of: Of every node of the graph that was built last, `template` or an exported one, the segment before
            which it was issued or which it computes.

    Raises:
        InvariantError: If a mixture of experts has no `experts`, or another number of members than its layout.
        PluginError: If the latency source times no experts, but the stage has some.
    """

    model: ModelSpec
    layout: ParallelLayout
    member_ranks: Sequence[Sequence[int]]
    source: LatencySource
    capture_sizes: Sequence[int]
    stage: int = 0
    experts: ExpertRouting | None = None
    fetches: FetchPlan | None = None

    def __post_init__(self) -> None:
        if self.model.num_experts and (self.experts is None or len(self.member_ranks) != self.layout.dp):
            raise InvariantError(
                f"{self.model.name}: a mixture of experts needs experts and layout.dp = {self.layout.dp} members, "
                f"got {len(self.member_ranks)}"
            )
        self.capture_sizes = tuple(sorted(self.capture_sizes))
        self.ranks = tuple(rank for ranks in self.member_ranks for rank in ranks)
        backend = self.experts.all2all_backend if self.experts else "allgather_reducescatter"
        segments = self._cut(backend)
        if isinstance(self.source, PartialLatencySource) and self.source.holds(HOST_GAP.name):
            segments[0] = replace(segments[0], steps=(Step("start", HOST_GAP), *segments[0].steps))
        self._segments, self._accesses = self._plan(segments)
        self._classes = rank_classes(self.layout, self.member_ranks, self.experts if self._expert_rows() else None)
        lines = [line for index, segment in enumerate(self._segments) for line in _fuse(segment, index)]
        self.template = self._graph([lines] * len(self._classes), self.member_ranks)
        self._costs = self._expert_costs()
        self._by_tokens: dict[int, Values] = {}
        self._by_sequences: dict[int, Values] = {}
        self._fixed: dict[tuple[int, int], Values] = {}
        self._sizes: dict[tuple[int, ...], Values] = {}
        self._index_operators()
        self._index_collectives()
        self._index_accesses()
        self.recalled_tokens: Mapping[str, int] = {}

    def durations_ns(self, shapes: Sequence[BatchShape]) -> Values:
        """Return the duration of every node of `template`, shape ``[nodes]``.

        Args:
            shapes: A batch per member.
        """
        padded = self._padded(shapes)
        if self._costs is None and len(padded) == 1:
            return self._member_ns(padded[0])
        members = [self._member_ns(shape) for shape in padded]
        if self._costs is None:
            return np.concatenate(members)
        blocks = self._costs.draw_ns(tuple(shape.num_tokens for shape in padded))
        found = np.stack([members[c.member] for c in self._classes])
        for durations, experts in zip(found, blocks, strict=True):
            np.add.at(durations, self._expert_nodes, experts)
        return found.ravel()

    def sizes_bytes(self, shapes: Sequence[BatchShape]) -> Values | None:
        """Return the size of every node of `template` that moves something, or None if none does.

        The experts that are fetched are those of the last call of `durations_ns`.
        """
        if not len(self._collectives) and self._fetched is None:
            return None
        tokens = tuple(shape.num_tokens for shape in self._padded(shapes))
        known = self._sizes.get(tokens)
        if known is None:
            known = np.zeros(len(self.template), dtype=np.int64)
            rows = np.array(row_counts(tokens, self.layout.tp))[self._collective_member, self._collective_rows]
            known[self._collectives] = np.ceil(np.round(rows * self._bytes_per_row, 6))
            if self._fetched is not None:
                known[self._memory_nodes] = self._fetched.of_tokens(tokens)
            remember(self._sizes, tokens, known)
        found = known.copy()
        if self._fetched is not None:
            accesses = found[self._memory_nodes]
            self._fetched.add_drawn(accesses, shapes, lambda: self._experts_fetched(tokens))
            if self.recalled_tokens:
                self._fetched.add_recalled(accesses, self.recalled_tokens)
            found[self._memory_nodes] = accesses
        return found

    def all_sizes_bytes(self, shapes: Sequence[BatchShape]) -> Values:
        """Return what `sizes_bytes` does, zeros where nothing moves."""
        sizes = self.sizes_bytes(shapes)
        return np.zeros(len(self.template), dtype=np.int64) if sizes is None else sizes

    def recalling(self, sites: Mapping[str, Site], kv_token_bytes: int) -> IterationBuilder:
        """Return a builder of the same iterations, in which keys and values come up from some memories as well."""
        plan = self.fetches or FetchPlan(Placement(self.model, self.layout), [{}])
        merged = [{**own, **sites} for own in plan.sites]
        return replace(self, fetches=replace(plan, sites=merged, kv_token_bytes=kv_token_bytes, recalls=tuple(sites)))

    def count_moved(self, sizes: Values) -> int:
        """Note the sizes of an iteration that is submitted; return what its collectives send."""
        if self._fetched is None:
            return int(sizes.sum())
        self._moved += sizes[self._memory_nodes]
        return int(sizes[self._collectives].sum())

    def moved_bytes(self) -> Iterator[tuple[Site, bool, int]]:
        """Yield what all ranks loaded or stored where: site, whether it was stored, bytes."""
        nodes = self.template.nodes()
        for rank_class, numbers, moved in zip(self._classes, self._memory_nodes, self._moved, strict=True):
            for number, num_bytes in zip(numbers.tolist(), moved.tolist(), strict=True):
                node = nodes[number]
                site = Site(node.location, node.device)
                yield site, node.type is NodeType.MEM_STORE, num_bytes * len(rank_class.ranks)

    def steps_ns(self, shapes: Sequence[BatchShape]) -> list[list[int]]:
        """Return the time of every step of `segments`, in order, for each of `classes`.

        Experts are those of the last call of `durations_ns`.
        """
        return [list(steps) for steps in self._step_durations(self._padded(shapes))]

    @property
    def segments(self) -> Sequence[Segment]:
        """What every rank runs, cut at its collectives."""
        return self._segments

    @property
    def classes(self) -> Sequence[RankClass]:
        """Who runs it: ranks that do the same work, in the order of `template`."""
        return self._classes

    def export(self, shapes: Sequence[BatchShape]) -> Graph:
        """Return the iteration with one COMP node per operator that takes time, for writing to disk.

        The stage is a system of its own there: its ranks count from 0. Where nothing between two collectives takes
        time, the last operator stands for all, as in `template`. Experts are those of the last call of `durations_ns`.
        """
        padded = self._padded(shapes)
        lines: list[list[_Line]] = [[] for _ in self._classes]
        durations: list[int] = []
        for index, step_ns in enumerate(self._step_durations(padded)):
            for number, segment in enumerate(self._segments):
                unfolded, taken = _unfold(segment, number, [next(step_ns) for _ in segment.steps])
                lines[index] += unfolded
                durations += taken
        size = len(self.ranks) // len(self.member_ranks)
        graph = self._graph(lines, [range(m * size, (m + 1) * size) for m in range(len(self.member_ranks))])
        graph.duration_ns[graph.type == NodeType.COMP] = durations
        sizes = self.sizes_bytes(shapes)
        if sizes is not None:
            graph.size_bytes[graph.type == NodeType.COMM_COLL] = sizes[self._collectives]
            graph.size_bytes[np.isin(graph.type, _MEMORY)] = sizes[self._memory_nodes].ravel()
        return graph

    def _cut(self, all2all_backend: str) -> list[Segment]:
        """Cut what a rank runs before and behind collectives."""
        return cut_stage(self.model, self.layout, self.stage, all2all_backend)

    def _plan(self, segments: list[Segment]) -> tuple[list[Segment], list[Access]]:
        """Return the segments cut further where something waits, and what is loaded and stored."""
        return plan_accesses(segments, self.fetches) if self.fetches is not None else (segments, [])

    def _issuer(self, sites: Mapping[str, Site], rank_class: int) -> Issuer:
        """Return what puts accesses among the nodes of a rank class."""
        return Issuer(self._accesses, sites, rank_class)

    def _padded(self, shapes: Sequence[BatchShape]) -> tuple[BatchShape, ...]:
        """Pad to captured sizes; members that all replay a graph pad to the largest (vLLM's coordination of DP)."""
        sizes = self.capture_sizes
        if len(shapes) == 1:
            return (_with_tokens(shapes[0], padded_tokens(shapes[0].num_tokens, sizes)),)
        tokens = [padded_tokens(shape.num_tokens, sizes) for shape in shapes]
        if sizes and max(tokens) <= sizes[-1]:
            tokens = [max(tokens)] * len(tokens)
        return tuple(map(_with_tokens, shapes, tokens))

    def _member_ns(self, padded: BatchShape) -> Values:
        """Time of all but the experts, per node of a rank."""
        tokens, sequences = padded.num_tokens, padded.num_sequences
        fixed = self._fixed.get((tokens, sequences))
        if fixed is None:
            if tokens not in self._by_tokens:
                self._by_tokens[tokens] = self._sums(self._token_operators, padded)
            if sequences not in self._by_sequences:
                self._by_sequences[sequences] = self._sums(self._sequence_operators, padded)
            fixed = self._by_tokens[tokens] + self._by_sequences[sequences]
            remember(self._fixed, (tokens, sequences), fixed)
        for name, occurrences in self._attentions:
            fixed = fixed + self.source.latency_ns(name, padded) * occurrences
        return fixed

    def _step_durations(self, padded: Sequence[BatchShape]) -> Iterator[Iterator[int]]:
        """For every class, the times of its steps in order."""
        attentions = [name for name, _ in self._attentions]
        names = (*self._token_operators, *self._sequence_operators, *attentions)
        latencies = [{name: self.source.latency_ns(name, shape) for name in names} for shape in padded]
        blocks: list[list[int]] = [[]] * len(self._classes)
        if self._costs is not None:
            blocks = self._costs.last_ns(tuple(shape.num_tokens for shape in padded)).tolist()
        steps = [step for segment in self._segments for step in segment.steps]
        for rank_class, experts in zip(self._classes, blocks, strict=True):
            latency = latencies[rank_class.member]
            yield iter(
                [latency.get(s.operator.name, 0) if s.expert_layer < 0 else experts[s.expert_layer] for s in steps]
            )

    def _sums(self, operators: Sequence[str], shape: BatchShape) -> Values:
        """Sum the named operators' latencies into the nodes that run them."""
        zero = np.zeros(self._nodes_per_rank, dtype=np.int64)
        return sum((self.source.latency_ns(op, shape) * self._occurrences[op] for op in operators), start=zero)

    def _index_operators(self) -> None:
        """Find out how often each node of a rank runs each operator, and which node runs which block's experts."""
        per_rank = self.template.type[: len(self.template) // len(self._classes)] == NodeType.COMP
        node_of = np.flatnonzero(per_rank)
        distinct = {step.operator.name: step.operator for segment in self._segments for step in segment.steps}
        self._occurrences: dict[str, Values] = {}
        for name in distinct:
            counts = np.zeros(len(per_rank), dtype=np.int64)
            counts[per_rank] = [segment.count(name) for segment in self._segments]
            self._occurrences[name] = counts
        self._nodes_per_rank = len(per_rank)
        timed = [op for op in distinct.values() if op.kind is not OperatorKind.MOE]
        self._token_operators = [op.name for op in timed if op.indexed_by is IndexedBy.TOKENS]
        attentions = [op.name for op in timed if op.indexed_by is IndexedBy.ATTENTION]
        self._attentions = [(name, self._occurrences[name]) for name in attentions]
        self._sequence_operators = [op.name for op in timed if op.indexed_by is IndexedBy.SEQUENCES]
        holders = np.repeat(node_of, [segment.count("moe") for segment in self._segments])
        self._expert_nodes: Values = holders.astype(np.int64)

    def _experts_fetched(self, tokens: tuple[int, ...]) -> Floats:
        assert self._costs is not None, "only the experts of a mixture are fetched"
        return self._costs.last_fetched(tokens)

    def _index_accesses(self) -> None:
        """Note the loads and stores of the template, shape ``[classes, accesses]``, and what gives them a size."""
        nodes = np.flatnonzero(np.isin(self.template.type, _MEMORY))
        self._memory_nodes = nodes.reshape(len(self._classes), len(self._accesses))
        self._moved = np.zeros_like(self._memory_nodes)
        self._fetched: AccessSizes | None = None
        if self.fetches is not None and self._accesses:
            members = [c.member for c in self._classes]
            self._fetched = AccessSizes(self._issued, members, self.fetches.placement)

    def _index_collectives(self) -> None:
        """Note member, rows and bytes per row of every collective of the template."""
        self._collectives = np.flatnonzero(self.template.type == NodeType.COMM_COLL)
        chain = [collective for segment in self._segments for collective in segment.collectives]
        self._collective_member = np.repeat([c.member for c in self._classes], len(chain))
        self._collective_rows = np.array([c.rows for c in chain] * len(self._classes), dtype=np.int64)
        self._bytes_per_row = np.array([c.bytes_per_row for c in chain] * len(self._classes))

    def _expert_costs(self) -> ExpertCosts | None:
        """What prices the stage's experts; None if it has none.

        Raises:
            PluginError: If the latency source does not time experts.
        """
        rows = self._expert_rows()
        if self.experts is None or not rows:
            return None
        if not isinstance(self.source, ExpertLatencySource):
            raise PluginError(
                f"latency: {type(self.source).__name__!r} has no method 'moe_latency_ns', which {self.model.name}, "
                "a mixture of experts, needs"
            )
        return ExpertCosts(self.experts, self.source, self.layout, self._classes, slice(rows[0], rows[-1] + 1))

    def _expert_rows(self) -> list[int]:
        """Which of the model's mixture-of-experts blocks, counted from 0, are the stage's."""
        layers = self.experts.geometry.layers if self.experts is not None else ()
        blocks = stage_range(self.model.num_layers, self.layout.pp, self.stage)
        return [row for row, layer in enumerate(layers) if layer in blocks]

    def _graph(self, lines: Sequence[Sequence[_Line]], member_ranks: Sequence[Sequence[int]]) -> Graph:
        """Chain the nodes of every class; group m is member m, the last one all of them if there are several."""
        union = tuple(rank for ranks in member_ranks for rank in ranks)
        place = dict(zip(self.ranks, union, strict=True))
        nodes: list[Node] = []
        self.segment_of: list[int] = []
        for index, rank_class in enumerate(self._classes):
            sites = self.fetches.sites[rank_class.member] if self.fetches is not None else {}
            issuer = self._issuer(sites, index)
            reached = -1
            for name, segment, is_first, collective in lines[index]:
                waits = issuer.begin(segment, nodes, reached) if is_first else ()
                before = waits if reached < 0 else (*waits, reached)
                node = Node(name, NodeType.COMP, index, data_deps=before)
                if collective is not None:
                    group = len(member_ranks) if collective.is_shared else rank_class.member
                    node = replace(node, type=NodeType.COMM_COLL, collective=collective.type, group=group)
                else:
                    issuer.computed(segment, len(nodes))
                reached = len(nodes)
                nodes.append(node)
                self.segment_of += [segment] * (len(nodes) - len(self.segment_of))
            issuer.end(nodes)
            self.segment_of += [len(self._segments) - 1] * (len(nodes) - len(self.segment_of))
            self._issued = issuer.issued
        groups = [*member_ranks, union] if len(member_ranks) > 1 else member_ranks
        classes = [[place[rank] for rank in c.ranks] for c in self._classes]
        return Graph.from_nodes(nodes, rank_classes=classes, groups=groups)


def _with_tokens(shape: BatchShape, tokens: int) -> BatchShape:
    return shape if tokens == shape.num_tokens else shape._replace(num_tokens=tokens)


def _fuse(segment: Segment, index: int) -> list[_Line]:
    """One COMP node for the whole segment, then its collectives."""
    name = segment.steps[-1].place
    behind = [_Line(f"{name}.{c.label}", index, collective=c) for c in segment.collectives]
    return [_Line(name, index, is_first=True), *behind]


def _unfold(segment: Segment, index: int, durations: Sequence[int]) -> tuple[list[_Line], list[int]]:
    """One COMP node per step that takes time, at least one, then the segment's collectives; and their durations."""
    timed = [(s, d) for s, d in zip(segment.steps, durations, strict=True) if d] or [(segment.steps[-1], durations[-1])]
    names = [f"{step.place}.{step.operator.name}" for step, _ in timed]
    lines = [_Line(name, index, is_first=k == 0) for k, name in enumerate(names)]
    lines += [_Line(f"{names[-1]}.{c.label}", index, collective=c) for c in segment.collectives]
    return lines, [duration for _, duration in timed]
