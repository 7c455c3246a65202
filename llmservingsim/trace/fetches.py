"""Weights, experts and caches that lie off the device: what an iteration loads and stores, and when.

Each unit (a block, or what stands before or behind the blocks) of which something lies elsewhere has a load per memory,
for which the first operator that needs it waits. Loads of a rank run one after another, in the order in which they are
needed, as copies on one stream do. With a depth of d, the device has d + 1 buffers: the load of the k-th such unit also
waits until unit k - 1 - d has been computed. Rows of the embedding need no buffer, since they are the hidden states.

Across iterations this goes on in a circle: behind the last unit come the first d + 1 of the next iteration, whose loads
begin in this one and do not keep it from ending. The next one finds them under way, or done. Before the first iteration
they were loaded with the weights of the device.

On demand means that a load begins when the iteration has come to the operator that needs it: experts that the router
has chosen, and keys and values, which attention reads from where they lie. New keys and values are stored from that
moment on; nothing but the end of the iteration waits for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.graph import MemoryLocation, Node, NodeType
from llmservingsim.model import NPU, OperatorKind, PieceKind, Placement
from llmservingsim.shapes import BatchShape
from llmservingsim.trace.segments import Segment, Step

Values = NDArray[np.int64]
Floats = NDArray[np.float64]

_NEXT_ITERATION = 1 << 30
"""The step that needs what is loaded for the next iteration."""


class Site(NamedTuple):
    """Where a memory of a name is.

    Attributes:
        location: Of a node.
        device: There, -1 for a stripe over all.
    """

    location: MemoryLocation
    device: int


@dataclass(frozen=True)
class FetchPlan:
    """What lies off the devices of the members of a graph.

    Attributes:
        placement: What lies where, by names.
        sites: Of every member, what its names mean.
        kv_token_bytes: Of keys and values of a token in one block, on one rank.
        recalls: Names of memories from which keys and values come up, block by block.
    """

    placement: Placement
    sites: Sequence[Mapping[str, Site]]
    kv_token_bytes: int = 0
    recalls: tuple[str, ...] = ()


class Amount(Enum):
    """What the size of an access is counted in."""

    FIXED = auto()
    ROWS = auto()
    """A tensor-parallel rank's share of the tokens, padding included."""
    EXPERTS = auto()
    """Distinct experts that get a token and are not on the device."""
    CONTEXT = auto()
    """Tokens whose keys and values are there before the iteration, as far as attention sees them."""
    NEW_TOKENS = auto()
    """Tokens of the batch."""
    DECODES = auto()
    """Sequences that compute one token."""
    PROMPT_TOKENS = auto()
    """Tokens of prompt chunks."""
    PROMPT_CONTEXT = auto()
    """Tokens before the prompt chunks, as far as attention sees them."""
    RECALLED = auto()
    """Tokens whose keys and values come up from a lower tier while the iteration runs."""


@dataclass(frozen=True, slots=True)
class Access:
    """A load or store that every rank of a stage issues.

    Attributes:
        name: Of the node.
        where: Name of the memory.
        amount: What `num_bytes` is multiplied by.
        num_bytes: On one rank.
        needed_by: Step, later segment, that waits for a load, or from whose begin on a store may run.
        after: Step, later segment, whose end frees the buffer; -1: none.
        is_on_demand: It waits until the iteration has come to `needed_by`.
        expert_layer: Which of the stage's mixture-of-experts blocks.
        is_store: Whether it stores.
        buffer: Of a load across iterations, the buffer that it fills for the next one; ``-n`` waits until buffer n has
            been filled.
    """

    name: str
    where: str
    amount: Amount
    num_bytes: int
    needed_by: int
    after: int = -1
    is_on_demand: bool = False
    expert_layer: int = -1
    buffer: int = 0
    is_store: bool = False


def plan_accesses(
    segments: Sequence[Segment], plan: FetchPlan, others: Sequence[Access] = (), also_cut: Iterable[int] = ()
) -> tuple[list[Segment], list[Access]]:
    """Find out what a stage loads and stores, and cut its segments where something waits or is released.

    Args:
        segments: Of the stage.
        plan: What lies off the devices.
        others: Further accesses.
        also_cut: Steps before which to cut as well.
    """
    steps = [step for segment in segments for step in segment.steps]
    prefetched, cuts = _prefetched(steps, plan.placement)
    found = [*prefetched, *_rows(steps, plan.placement), *_on_demand(steps, plan), *_recalled(steps, plan), *others]
    cuts |= {access.needed_by for access in found if access.needed_by != _NEXT_ITERATION} | set(also_cut)
    finer = [piece for start, segment in _with_starts(segments) for piece in _split(segment, start, cuts)]
    segment_of = dict(enumerate(i for i, s in enumerate(finer) for _ in s.steps))
    segment_of[_NEXT_ITERATION] = _NEXT_ITERATION
    found.sort(key=lambda access: access.needed_by)
    return finer, [
        replace(a, needed_by=segment_of[a.needed_by], after=segment_of[a.after] if a.after >= 0 else -1) for a in found
    ]


def _prefetched(steps: Sequence[Step], placement: Placement) -> tuple[list[Access], set[int]]:
    """Loads into buffers; and the steps behind those that release one."""
    units: dict[str, list[Access]] = {}
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for piece in placement.pieces(step.place, step.operator.name):
            if not placement.is_prefetched(piece):
                continue
            last[step.place] = index
            unit = units.setdefault(step.place, [])
            same = next((k for k, a in enumerate(unit) if a.where == piece.where), None)
            if same is None:
                unit.append(
                    Access(f"{step.place}.weights", piece.where, Amount.FIXED, piece.num_bytes, needed_by=index)
                )
            else:
                unit[same] = replace(unit[same], num_bytes=unit[same].num_bytes + piece.num_bytes)
    ends = list(last.values())
    found = []
    for k, unit in enumerate(units.values()):
        freed_by = k - 1 - placement.prefetch_depth
        found += [replace(access, after=ends[freed_by] if freed_by >= 0 else -1) for access in unit]
    if placement.across_iterations:
        found = _in_a_circle(found, ends, placement.prefetch_depth)
    return found, {end + 1 for end in ends}


def _in_a_circle(found: Sequence[Access], ends: Sequence[int], depth: int) -> list[Access]:
    """Let the loads that wait for no buffer be those that the iteration before began, and begin those of the next."""
    first = [access for access in found if access.after < 0]
    result = [access for access in found if access.after >= 0]
    places = list(dict.fromkeys(access.name for access in first))
    for buffer, access in enumerate(first, 1):
        k = places.index(access.name)
        freed_by = max(k, len(ends) + k - 1 - depth)
        result.append(replace(access, num_bytes=0, buffer=-buffer))
        result.append(replace(access, after=ends[freed_by], needed_by=_NEXT_ITERATION, buffer=buffer))
    return result


def _rows(steps: Sequence[Step], placement: Placement) -> Iterable[Access]:
    for index, step in enumerate(steps):
        for piece in placement.pieces(step.place, step.operator.name):
            if piece.kind is PieceKind.ROWS:
                yield Access(f"{step.place}.rows", piece.where, Amount.ROWS, piece.unit_bytes, index)


def _on_demand(steps: Sequence[Step], plan: FetchPlan) -> Iterable[Access]:
    placement = plan.placement
    for index, step in enumerate(steps):
        for piece in placement.pieces(step.place, step.operator.name):
            if placement.is_on_demand(piece):
                name = f"{step.place}.experts"
                yield Access(
                    name,
                    piece.where,
                    Amount.EXPERTS,
                    piece.unit_bytes,
                    index,
                    is_on_demand=True,
                    expert_layer=step.expert_layer,
                )
        where = placement.kv.get(_block(step), NPU) if step.operator.kind is OperatorKind.ATTENTION else NPU
        if where != NPU:
            for what, amount in (("load", Amount.CONTEXT), ("store", Amount.NEW_TOKENS)):
                name, stores = f"{step.place}.kv_{what}", what == "store"
                yield Access(name, where, amount, plan.kv_token_bytes, index, is_on_demand=True, is_store=stores)


def _recalled(steps: Sequence[Step], plan: FetchPlan) -> Iterable[Access]:
    """What comes up into blocks of the cache, which are taken: the loads begin with the iteration."""
    for index, step in enumerate(steps):
        for where in plan.recalls if step.operator.kind is OperatorKind.ATTENTION else ():
            yield Access(f"{step.place}.kv_recall", where, Amount.RECALLED, plan.kv_token_bytes, index)


def _block(step: Step) -> int:
    return int(step.place.removeprefix("block"))


def _with_starts(segments: Iterable[Segment]) -> Iterable[tuple[int, Segment]]:
    start = 0
    for segment in segments:
        yield start, segment
        start += len(segment.steps)


def _split(segment: Segment, start: int, cuts: set[int]) -> Iterable[Segment]:
    """Cut a segment, which begins with step ``start``, before some steps; its collectives follow the last part."""
    end = start + len(segment.steps)
    bounds = [start, *(cut for cut in range(start + 1, end) if cut in cuts), end]
    for low, high in pairwise(bounds):
        yield Segment(segment.steps[low - start : high - start], segment.collectives if high == end else ())


class Issuer:
    """Puts the accesses of one rank class among its nodes.

    Args:
        accesses: In the order in which they are needed.
        sites: What names mean there.
        rank_class: Which.

    Attributes:
        issued: What has a node, in the order of the nodes.
    """

    def __init__(self, accesses: Sequence[Access], sites: Mapping[str, Site], rank_class: int) -> None:
        self.issued: list[Access] = []
        self._queues = [deque(a for a in accesses if a.is_store is is_store) for is_store in (False, True)]
        self._last = [-1, -1]
        self._sites = sites
        self._rank_class = rank_class
        self._computed: dict[int, int] = {}
        self._waits: dict[int, list[int]] = {}

    def begin(self, segment: int, nodes: list[Node], reached: int) -> tuple[int, ...]:
        """Append what may be issued before a segment; return the loads that the segment waits for.

        Args:
            segment: Which.
            nodes: Of all classes so far.
            reached: The node before the segment, -1 if there is none.
        """
        for queue in self._queues:
            while queue and self._is_due(queue[0], segment):
                self._append(queue.popleft(), nodes, reached)
        return tuple(self._waits.get(segment, ()))

    def end(self, nodes: list[Node]) -> None:
        """Append what may be issued behind the last segment."""
        self.begin(_NEXT_ITERATION - 1, nodes, -1)

    def computed(self, segment: int, node: int) -> None:
        """Note a node that computes something of a segment; the last one counts."""
        self._computed[segment] = node

    def _is_due(self, access: Access, segment: int) -> bool:
        return access.needed_by <= segment if access.is_on_demand else access.after < segment

    def _append(self, access: Access, nodes: list[Node], reached: int) -> None:
        self._issue(access, nodes, {reached if access.is_on_demand else self._computed.get(access.after, -1)})

    def _issue(self, access: Access, nodes: list[Node], behind: Iterable[int]) -> None:
        """Append an access that follows some nodes, and the one before it in the same direction."""
        site, kind = self._sites[access.where], NodeType.MEM_STORE if access.is_store else NodeType.MEM_LOAD
        waited = {self._last[access.is_store], *behind}
        self._last[access.is_store] = len(nodes)
        if not access.is_store and access.buffer <= 0:
            self._waits.setdefault(access.needed_by, []).append(len(nodes))
        nodes.append(
            Node(
                f"{access.name}.{access.where}",
                kind,
                self._rank_class,
                size_bytes=access.num_bytes,
                location=site.location,
                device=site.device,
                tag=access.buffer,
                data_deps=tuple(sorted(waited - {-1})),
            )
        )
        self.issued.append(access)


class AccessSizes:
    """The sizes of a template's loads and stores.

    Args:
        issued: Of one class, in the order of its nodes; all classes are alike.
        members: Of every class, the member that it belongs to.
        placement: Whose.
    """

    def __init__(self, issued: Sequence[Access], members: Sequence[int], placement: Placement) -> None:
        self._members = np.array(members)
        self._tp = placement.layout.tp
        self._window = placement.model.window_of("attention")
        units = np.array([access.num_bytes for access in issued], dtype=np.int64)
        self._units = {amount: units * [a.amount is amount for a in issued] for amount in Amount}
        self._experts = np.flatnonzero([a.amount is Amount.EXPERTS for a in issued])
        self._expert_layers = np.array([a.expert_layer for a in issued], dtype=np.int64)[self._experts]
        self._expert_bytes = units[self._experts]
        self._counted = [amount for amount in _COUNTS if any(a.amount is amount for a in issued)]
        self._where = [access.where for access in issued]

    def of_tokens(self, tokens: Sequence[int]) -> Values:
        """Return what depends on the members' padded tokens alone, shape ``[classes, accesses]``."""
        rows = np.array([-(-t // self._tp) for t in tokens], dtype=np.int64)[self._members]
        sizes: Values = self._units[Amount.FIXED] + rows[:, None] * self._units[Amount.ROWS]
        return sizes

    def add_drawn(self, sizes: Values, shapes: Sequence[BatchShape], experts: Callable[[], Floats]) -> None:
        """Add what depends on more; ``experts`` tells how many are fetched, shape ``[classes, layers]``."""
        if len(self._experts):
            sizes[:, self._experts] += np.rint(experts()[:, self._expert_layers] * self._expert_bytes).astype(np.int64)
        for amount in self._counted:
            counts = np.array([_COUNTS[amount](shape, self._window) for shape in shapes])[self._members]
            sizes += counts[:, None] * self._units[amount]

    def add_recalled(self, sizes: Values, tokens: Mapping[str, int]) -> None:
        """Add what comes up: memory -> tokens."""
        sizes += self._units[Amount.RECALLED] * np.array([tokens.get(where, 0) for where in self._where])


def _context_tokens(shape: BatchShape, window: int | None) -> int:
    """Return how many cached tokens attention reads, those of the batch itself apart."""
    decoded = shape.decode_kv_tokens - shape.num_decodes
    if window is not None:
        decoded = min(decoded, shape.num_decodes * (window - 1))
    return decoded + _prompt_context(shape, window)


def _prompt_context(shape: BatchShape, window: int | None) -> int:
    """Return how many cached tokens the attention of prompt chunks reads."""
    if window is None:
        return sum(chunk.context_len for chunk in shape.prefills)
    return sum(min(chunk.context_len, window - 1) for chunk in shape.prefills)


_COUNTS: dict[Amount, Callable[[BatchShape, int | None], int]] = {
    Amount.CONTEXT: _context_tokens,
    Amount.NEW_TOKENS: lambda shape, _: shape.num_tokens,
    Amount.DECODES: lambda shape, _: shape.num_decodes,
    Amount.PROMPT_TOKENS: lambda shape, _: shape.num_tokens - shape.num_decodes - shape.num_drafts,
    Amount.PROMPT_CONTEXT: _prompt_context,
}
"""What a batch says of an amount, given the model's sliding window."""
