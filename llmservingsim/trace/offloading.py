"""Iterations of which another device computes a part: decode attention in a memory, say, prompts on the accelerator.

Operators that follow each other on the same device and place are a *run*::

    accelerator  layernorm qkv_proj rotary_emb | attention of prompt chunks | o_proj ...
    copies                              store q,k,v            load result ^
    device                                      | attention  |

What the run reads is stored to where it computes once the operator before has ended; each of its operators is a
PIM_COMP node, or one per group of channels; its result is loaded, and what follows waits for that. Stores of a rank run
one after another, and so do its loads, as on two streams.

Keys and values of prompt chunks are stored from the same moment on and only the end of the iteration waits for it;
those of the tokens before a chunk are loaded first, for the chunk's attention on the accelerator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.latency.offload import OffloadDevice
from llmservingsim.latency.source import ExpertLatencySource, ExpertWork, LatencySource
from llmservingsim.model import Work
from llmservingsim.shapes import BatchShape
from llmservingsim.trace.builder import IterationBuilder, Values
from llmservingsim.trace.fetches import Access, Amount, Issuer, Site, plan_accesses
from llmservingsim.trace.segments import Segment, Step

ATTENTION = "attention"
NOBODY: NDArray[np.int64] = np.zeros(1, dtype=np.int64)


class Form(NamedTuple):
    """What decides the topology of an iteration's graph.

    Attributes:
        has_decodes, has_prompts: Whether the batch has some.
        has_context: Whether a prompt chunk follows others.
    """

    has_decodes: bool
    has_prompts: bool = False
    has_context: bool = False

    @classmethod
    def of(cls, shape: BatchShape) -> Form:
        """Return that of a batch."""
        return cls(shape.num_decodes > 0, bool(shape.prefills), any(chunk.context_len for chunk in shape.prefills))


DECODES = Form(has_decodes=True)


class Link(NamedTuple):
    """The way to a memory: nanoseconds per access, bytes per nanosecond of loads and of stores."""

    latency_ns: int
    load: float
    store: float

    def load_ns(self, num_bytes: int) -> float:
        """Time of a load that is alone."""
        return self.latency_ns + num_bytes / self.load

    def store_ns(self, num_bytes: int) -> float:
        """Time of a store that is alone."""
        return self.latency_ns + num_bytes / self.store


@dataclass(frozen=True)
class Helper:
    """A device that computes operators.

    Attributes:
        where: Name of the memory that it belongs to.
        device: What times it. It computes the shares of all tensor-parallel ranks.
        link: To the memory.
        per_group: Whether each group of channels is a node of its own, because it may find others there: those of
            other instances, or of the other half of a batch. Else one node stands for the longest.
    """

    where: str
    device: OffloadDevice
    link: Link
    per_group: bool = False

    @property
    def num_channels(self) -> int:
        """Channels that graphs name."""
        return self.device.num_groups if self.per_group else 1


@dataclass(frozen=True)
class OffloadPlan:
    """Which operators of a model run elsewhere.

    Attributes:
        helpers: Operator -> who computes it.
        kv_token_bytes: Of keys and values of a token in one block, on one rank.
    """

    helpers: Mapping[str, Helper]
    kv_token_bytes: int

    def moved(self, form: Form) -> Mapping[str, Helper]:
        """Return what moves in iterations of a form.

        Decode attention always does; the other operators, which know no difference between decodes and prompts, only
        where there are no prompts.
        """
        if not form.has_decodes:
            return {}
        return {name: who for name, who in self.helpers.items() if name == ATTENTION or not form.has_prompts}


class Run(NamedTuple):
    """Operators that follow each other on one device.

    Attributes:
        first: Step.
        operators: Their names.
        helper: Who computes them.
        store: Of what they read.
        load: Of their result.
    """

    first: int
    operators: tuple[str, ...]
    helper: Helper
    store: Access
    load: Access


class AcceleratorPart:
    """What a latency source says of what stays on the accelerator.

    Args:
        source: Of all operators.
        moved: Operators that do not stay, attention as far as it is that of decodes.
    """

    def __init__(self, source: LatencySource, moved: Mapping[str, Helper]) -> None:
        self.source = source
        self._moved = frozenset(moved)

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the operator's time on the accelerator."""
        if operator not in self._moved:
            return self.source.latency_ns(operator, shape)
        if operator != ATTENTION or not shape.prefills:
            return 0
        return self.source.latency_ns(operator, shape.only_prefills())

    def provenance(self) -> dict[str, object]:
        """Say where the numbers of the accelerator come from."""
        return self.source.provenance()


class ExpertAcceleratorPart(AcceleratorPart):
    """The same of a source that times experts."""

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        """Return what the source says."""
        assert isinstance(self.source, ExpertLatencySource)
        return self.source.moe_latency_ns(work)


def accelerator_part(source: LatencySource, moved: Mapping[str, Helper]) -> AcceleratorPart:
    """Return what a source says of what stays; it times experts if the source does."""
    kind = ExpertAcceleratorPart if isinstance(source, ExpertLatencySource) else AcceleratorPart
    return kind(source, moved)


@dataclass(eq=False)
class OffloadBuilder(IterationBuilder):
    """Builds the graphs of iterations of one form.

    Attributes:
        offload: Who computes what.
        form: Of the batches.
        attention_ns: What the decode attention of one block takes in each group of channels, of the next iteration,
            shape ``[groups]``.
        template_steps: Of every node of `template`, as `steps_of` tells.
        others: Builders of the same instance whose bytes this one tells with its own.
    """

    offload: OffloadPlan | None = None
    form: Form = DECODES

    def __post_init__(self) -> None:
        assert self.offload is not None
        if isinstance(self.source, AcceleratorPart):
            self.source = self.source.source
        self._away = self.offload.moved(self.form)
        self.source = accelerator_part(self.source, self._away)
        self.attention_ns = NOBODY
        self.others: list[OffloadBuilder] = []
        super().__post_init__()
        self.template_steps = self.steps_of(self.segment_of)
        self._computing, self._job_starts = self._find_jobs()

    def of(self, form: Form) -> OffloadBuilder:
        """Return a builder of iterations of another form."""
        return replace(self, form=form)

    def durations_ns(self, shapes: Sequence[BatchShape]) -> Values:
        """Return the duration of every node of `template`, shape ``[nodes]``; decodes are those of `expect`."""
        durations = super().durations_ns(shapes)
        durations[self.template.type == NodeType.PIM_COMP] = self._computed_ns(shapes)
        return durations

    def export(self, shapes: Sequence[BatchShape]) -> Graph:
        """Return the iteration with one COMP node per operator that takes time, for writing to disk."""
        graph = super().export(shapes)
        graph.duration_ns[graph.type == NodeType.PIM_COMP] = self._computed_ns(shapes)
        return graph

    def moved_bytes(self) -> Iterator[tuple[Site, bool, int]]:
        """Yield what all ranks loaded or stored where: site, whether it was stored, bytes."""
        yield from super().moved_bytes()
        for other in self.others:
            yield from other.moved_bytes()

    def expect(self, requests: Values, context_tokens: Values) -> None:
        """Take the decodes of the next iteration, by groups of channels, shapes ``[groups]``."""
        if ATTENTION in self._away:
            self.attention_ns = self._away[ATTENTION].device.attention_ns(requests, context_tokens)

    @property
    def attention_run(self) -> Run | None:
        """How the decode attention of a block runs elsewhere, if it does."""
        return next((run for run in self._runs if ATTENTION in run.operators), None)

    def steps_of(self, segments: Sequence[int]) -> list[int]:
        """Return the first step of each of some segments."""
        starts = [0]
        for segment in self.segments:
            starts.append(starts[-1] + len(segment.steps))
        return [starts[segment] for segment in segments]

    def jobs_ns(self, shape: BatchShape) -> list[float]:
        """Return what a rank computes before the first attention, between two, and behind the last one."""
        durations = super().durations_ns((shape,))[self._computing]
        found: list[float] = np.add.reduceat(durations, self._job_starts).tolist()
        return found

    def _find_jobs(self) -> tuple[Values, Values]:
        """Nodes of the first rank class that compute something else than attention, and which begin a job."""
        nodes: list[int] = []
        starts = [0]
        own = (self.template.type == NodeType.COMP) & (self.template.rank_class == 0)
        for node in np.flatnonzero(own).tolist():
            if self.segments[self.segment_of[node]].steps[0].operator.name != ATTENTION:
                nodes.append(node)
            elif starts[-1] != len(nodes):
                starts.append(len(nodes))
        return np.array(nodes, dtype=np.int64), np.array(starts, dtype=np.int64)

    def _computed_ns(self, shapes: Sequence[BatchShape]) -> Values:
        """Time of every PIM_COMP node; a rank takes its share of the channels' time, one after another."""
        (shape,) = shapes
        times: dict[str, Values] = {}
        for name, helper in self._away.items():
            taken = self.attention_ns if name == ATTENTION else np.array([helper.device.latency_ns(name, shape)])
            parts = -(-taken // self.layout.tp)
            times[name] = np.broadcast_to(parts if helper.per_group else parts.max(), helper.num_channels)
        found = [times[name] for run in self._runs for name in run.operators]
        return np.tile(np.concatenate(found), len(self.classes)) if found else np.zeros(0, dtype=np.int64)

    def _plan(self, segments: list[Segment]) -> tuple[list[Segment], list[Access]]:
        assert self.fetches is not None
        self._runs = list(self._find_runs(segments))
        steps = [step for segment in segments for step in segment.steps]
        prompts = list(self._prompt_accesses(steps)) if self.form.has_prompts else []
        ends = [run.first + len(run.operators) for run in self._runs]
        attention = [index for index, step in enumerate(steps) if step.operator.name == ATTENTION]
        cuts = [*(run.first for run in self._runs), *ends, *attention, *(index + 1 for index in attention)]
        finer, accesses = plan_accesses(segments, self.fetches, prompts, cuts)
        numbers = [index for index, segment in enumerate(finer) for _ in segment.steps]
        self._runs_of = {
            numbers[run.first]: run._replace(load=replace(run.load, needed_by=numbers[run.load.needed_by]))
            for run in self._runs
        }
        self._queued = accesses
        return finer, [*accesses, *(access for run in self._runs for access in (run.store, run.load))]

    def _issuer(self, sites: Mapping[str, Site], rank_class: int) -> Issuer:
        return _RunIssuer(self._queued, sites, rank_class, self._runs_of)

    def _find_runs(self, segments: Sequence[Segment]) -> Iterator[Run]:
        """Find what follows each other on one device, within what is computed between two collectives."""
        index = 0
        for segment in segments:
            names = [step.operator.name for step in segment.steps]
            helpers = [self._away.get(name) for name in names]
            first = 0
            while first < len(names):
                helper, end = helpers[first], first + 1
                while helper is not None and end < len(names) and helpers[end] is helper:
                    end += 1
                if helper is not None:
                    yield self._run(segment.steps[first:end], index + first, helper, is_last=end == len(names))
                first = end
            index += len(names)

    def _run(self, steps: Sequence[Step], first: int, helper: Helper, *, is_last: bool) -> Run:
        """Describe a run; where a collective follows, its own segment waits for the result."""
        place, names = steps[0].place, tuple(step.operator.name for step in steps)
        read, written = self._bytes(steps[0])[0], self._bytes(steps[-1])[1]
        behind = first if is_last else first + len(steps)
        store = Access(f"{place}.{names[0]}.inputs", helper.where, Amount.DECODES, read, first, is_store=True)
        load = Access(f"{place}.{names[-1]}.outputs", helper.where, Amount.DECODES, written, behind)
        return Run(first, names, helper, store, load)

    def _bytes(self, step: Step) -> tuple[int, int]:
        """What an operator reads and writes for one decode, on one rank; of attention its query, new key and value."""
        assert self.offload is not None
        cost = step.operator.cost(self.model, Work(tokens=1), self.layout)
        own = self.offload.kv_token_bytes if step.operator.name == ATTENTION else 0
        return cost.input_bytes + own, cost.output_bytes

    def _prompt_accesses(self, steps: Sequence[Step]) -> Iterator[Access]:
        """Keys and values of prompts, where attention has moved."""
        assert self.offload is not None
        if ATTENTION not in self.offload.helpers:
            return
        where, size = self.offload.helpers[ATTENTION].where, self.offload.kv_token_bytes
        for index, step in enumerate(steps):
            if step.operator.name != ATTENTION:
                continue
            if self.form.has_context:
                yield Access(f"{step.place}.kv_load", where, Amount.PROMPT_CONTEXT, size, index, is_on_demand=True)
            name = f"{step.place}.kv_store"
            yield Access(name, where, Amount.PROMPT_TOKENS, size, index, is_on_demand=True, is_store=True)


class _RunIssuer(Issuer):
    """Puts runs among the nodes as well, before what else is due there: decodes go first."""

    def __init__(
        self, accesses: Sequence[Access], sites: Mapping[str, Site], rank_class: int, runs: Mapping[int, Run]
    ) -> None:
        super().__init__(accesses, sites, rank_class)
        self._runs = runs

    def begin(self, segment: int, nodes: list[Node], reached: int) -> tuple[int, ...]:
        """Append what may be issued before a segment; return the loads that the segment waits for."""
        run = self._runs.get(segment)
        if run is not None:
            self._issue(run.store, nodes, (reached,))
            behind = [len(nodes) - 1]
            for name in run.operators:
                computing = list(range(len(nodes), len(nodes) + run.helper.num_channels))
                nodes += [self._computing(run, name, channel, behind) for channel in range(len(computing))]
                behind = computing
            self._issue(run.load, nodes, behind)
        return super().begin(segment, nodes, reached)

    def _computing(self, run: Run, name: str, channel: int, behind: Sequence[int]) -> Node:
        site = self._sites[run.helper.where]
        place = run.store.name.partition(".")[0]
        return Node(
            f"{place}.{name}.{run.helper.where}" + (f".{channel}" if run.helper.per_group else ""),
            NodeType.PIM_COMP,
            self._rank_class,
            location=site.location,
            device=site.device,
            channel=channel,
            data_deps=tuple(behind),
        )
