"""KV on its way between devices and the tiers below them.

What `KvTiers` of an instance decides becomes graphs: every rank of the instance loads or stores its own part, from or
to the memory where the tier is, all at once. Host memory, CXL devices and drives share their bandwidth among all who
use them at that moment, other instances included.

- A write holds its blocks of the device until it has ended and runs beside everything else. Where no blocks are held
  (what the device evicts, what is swapped out), the next batch may overwrite them, so it begins after the write.
- A read runs beside everything else if its request waits aside; else between the batch before and its own; or within
  its own, block by block (`llmservingsim.kv_layerwise`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.backend import Backend, GraphId, Ticket
from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ConfigError
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.instance import Instance
from llmservingsim.kv_layerwise import LayerwiseRecalls
from llmservingsim.memories import Place
from llmservingsim.model import num_active_parameters
from llmservingsim.serving import Outcome
from llmservingsim.serving.kv.tiers import DEVICE, SWAP_SPACE, KvTiers, TierRead, TierWrite
from llmservingsim.serving.remote import LoadingScheduler
from llmservingsim.tier_plan import TierPlan

_NO_TICKET: Ticket = -1


class TierAccess(NamedTuple):
    """Reads or writes of one instance in one tier, added up.

    Attributes:
        tokens, num_bytes: How much.
        times_ns: What each took.
    """

    tokens: int
    num_bytes: int
    times_ns: tuple[int, ...]


class TierSide(NamedTuple):
    """An instance and where its tiers are.

    Attributes:
        instance: The instance.
        tiers: What decides.
        places: Of its stores, in order.
        sources: Per store, the rank over which neighbours' memory is read; None where the instance reaches it itself.
        swap_place: Host memory for preempted requests, if they are swapped.
        stage_ranks: Its ranks, per pipeline stage.
        bytes_per_token: Of a rank of each stage.
        replicas: Ranks of a stage that hold the same heads; each stores its part.
    """

    instance: Instance
    tiers: KvTiers
    places: tuple[Place, ...]
    sources: tuple[int | None, ...]
    swap_place: Place | None
    stage_ranks: tuple[tuple[int, ...], ...]
    bytes_per_token: tuple[int, ...]
    replicas: int

    @property
    def rank_bytes(self) -> list[int]:
        """Bytes of a token on every rank, stage by stage."""
        return [size for size, ranks in zip(self.bytes_per_token, self.stage_ranks, strict=True) for _ in ranks]


class _Route(NamedTuple):
    """A registered graph and what a token puts on each of its nodes."""

    graph: GraphId
    bytes_per_token: NDArray[np.float64]
    moved_per_token: float


class _Part(NamedTuple):
    """One graph under way: a write, or a part of a read."""

    side: int
    way: tuple[int, int]
    num_tokens: int
    start_ns: int
    whole: TierRead | TierWrite
    is_in_line: bool


class KvTraffic:
    """Owner of what moves between devices and tiers.

    Args:
        backend: Times it.
        sides: Instances with tiers.

    Attributes:
        sides: These.
    """

    def __init__(self, backend: Backend, sides: Sequence[TierSide]) -> None:
        self._backend = backend
        self.sides = tuple(sides)
        self._side_of = {side.instance.index: position for position, side in enumerate(sides)}
        self._routes: dict[tuple[int, int, int], _Route] = {}
        self._under_way: dict[Ticket, _Part] = {}
        self._parts_left: dict[int, int] = {}  # of reads, by the request's id and side
        self._begun: list[Ticket] = []
        self._line_end_ns: dict[int, int] = {}
        self._layerwise: dict[int, LayerwiseRecalls] = {}
        self._totals: dict[tuple[int, tuple[int, int]], tuple[int, float, list[int]]] = {}
        self._stirred: set[int] = set()  # sides whose tiers have decided something since they were looked at
        for position, side in enumerate(sides):
            side.tiers.decided = partial(self._stirred.add, position)
            side.instance.before_batch.append(self.before_batch)
            if side.tiers.options.recall == "layerwise":
                self._layerwise[position] = _layerwise(side, backend)

    @property
    def members(self) -> Sequence[Instance]:
        """None: what moves is decided while instances form and end batches, so it is asked at every turn."""
        return ()

    def before_batch(self, instance: Instance, after: Ticket) -> Ticket:
        """Move what has to be moved between the instance's batch before, ``after``, and the one that it begins now.

        Returns:
            The ticket that the new batch has to follow.
        """
        position = self._side_of[instance.index]
        tiers = self.sides[position].tiers
        if not tiers.reads and not tiers.writes:
            return after
        now_ns = self._backend.now_ns
        urgent = [write for write in tiers.writes if write.is_urgent]
        tiers.writes = [write for write in tiers.writes if not write.is_urgent]
        for write in urgent:
            after = self._write(position, write, now_ns, after)
        if tiers.options.recall != "async":
            reads, tiers.reads = tiers.reads, []
            layerwise = self._layerwise.get(position)
            for read in reads:
                if layerwise is not None and layerwise.can_bring(read):
                    layerwise.bring(read)
                else:
                    after = self._read(position, read, now_ns, after)
        return after

    def begin(self, now_ns: int) -> Iterable[Ticket]:
        """Submit everything that waits for nothing."""
        for position in sorted(self._stirred):
            tiers = self.sides[position].tiers
            last = _NO_TICKET
            for write in tiers.writes:
                ticket = self._write(position, write, now_ns)
                last = ticket if write.is_urgent else last
            tiers.writes = []
            for read in tiers.reads:
                self._read(position, read, now_ns, last)
            tiers.reads = []
        self._stirred.clear()
        begun, self._begun = self._begun, []
        return begun

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """Tell the instance what has arrived."""
        part = self._under_way.pop(ticket)
        side = self.sides[part.side]
        self._count(part, now_ns)
        if isinstance(part.whole, TierWrite):
            side.tiers.write_ended(part.whole)
        else:
            read_id = id(part.whole)
            self._parts_left[read_id] -= 1
            if not self._parts_left[read_id]:
                del self._parts_left[read_id]
                side.instance.engine.recalled(part.whole)
        side.instance.wake()
        return ()

    def describe_waiting(self) -> list[str]:
        """Say what nobody moves; for the message of a deadlock."""
        return [f"instance {s.instance.index}: {line}" for s in self.sides for line in s.tiers.describe()]

    def accesses(self, index: int) -> dict[tuple[str, str], TierAccess]:
        """Return what an instance read from and wrote to each tier: (tier, ``read`` or ``write``) -> totals."""
        position = self._side_of.get(index)
        found: dict[tuple[str, str], TierAccess] = {}
        for (side, (source, target)), (tokens, moved, times) in self._totals.items():
            if side != position:
                continue
            kind = "read" if target == DEVICE else "write"
            name = self._tier_name(side, source if kind == "read" else target)
            before = found.get((name, kind), TierAccess(0, 0, ()))
            found[name, kind] = TierAccess(
                before.tokens + tokens, before.num_bytes + round(moved), (*before.times_ns, *times)
            )
        if position in self._layerwise:
            for store, tokens in self._layerwise[position].tokens_from.items():
                key, per_token = (self._tier_name(position, store), "read"), sum(self.sides[position].rank_bytes)
                before = found.get(key, TierAccess(0, 0, ()))
                found[key] = TierAccess(before.tokens + tokens, before.num_bytes + tokens * per_token, before.times_ns)
        return found

    def moved_bytes(self) -> Iterator[tuple[Place, bool, int]]:
        """Yield what was loaded or stored where: place, whether it was stored, bytes."""
        for (position, way), (_, moved, _) in self._totals.items():
            for store, is_store in zip(way, (False, True), strict=True):
                if store != DEVICE:
                    yield self._place(self.sides[position], store), is_store, round(moved)
        for layerwise in self._layerwise.values():
            yield from layerwise.moved_bytes()

    def _count(self, part: _Part, now_ns: int) -> None:
        """Add up what ended; what stood in line began when the batch or the part before it had ended."""
        start_ns = part.start_ns
        if part.is_in_line:
            batch_end_ns = self.sides[part.side].instance.engine.cohort.completed_ns
            start_ns = max(start_ns, batch_end_ns, self._line_end_ns.get(part.side, 0))
            self._line_end_ns[part.side] = now_ns
        tokens, moved, times = self._totals.setdefault((part.side, part.way), (0, 0.0, []))
        times.append(now_ns - start_ns)
        moved += part.num_tokens * self._routes[part.side, *part.way].moved_per_token
        self._totals[part.side, part.way] = (tokens + part.num_tokens, moved, times)

    def _tier_name(self, position: int, store: int) -> str:
        return "swap" if store == SWAP_SPACE else self.sides[position].tiers.stores[store].tier

    def _read(self, position: int, read: TierRead, now_ns: int, after: Ticket) -> Ticket:
        """Load the parts of a hit, one after another."""
        self._parts_left[id(read)] = len(read.parts)
        for part in read.parts:
            after = self._submit(
                _Part(position, (part.store, DEVICE), part.num_tokens, now_ns, read, after != _NO_TICKET), after
            )
        return after

    def _write(self, position: int, write: TierWrite, now_ns: int, after: Ticket = _NO_TICKET) -> Ticket:
        return self._submit(
            _Part(position, (write.source, write.store), write.num_tokens, now_ns, write, after != _NO_TICKET), after
        )

    def _submit(self, part: _Part, after: Ticket) -> Ticket:
        key = (part.side, *part.way)
        if key not in self._routes:
            self._routes[key] = self._register(self.sides[part.side], *part.way)
        route = self._routes[key]
        sizes = np.ceil(np.round(route.bytes_per_token * part.num_tokens, 6)).astype(np.int64)
        ticket = self._backend.submit(route.graph, None, sizes, after)
        self._under_way[ticket] = part
        self._begun.append(ticket)
        return ticket

    def _register(self, side: TierSide, source: int, target: int) -> _Route:
        """Every rank loads, stores, or both; what lies in a neighbour's memory is sent by a rank there."""
        here = side.sources[source] if source >= 0 else None
        if here is not None:
            return self._register_remote(side, source, here)
        share = 1 if target == DEVICE else side.replicas
        sizes = [size / share for size in side.bytes_per_token]
        nodes: list[Node] = []
        for stage in range(len(sizes)):
            first = len(nodes)
            if source != DEVICE:
                nodes.append(_access(self._place(side, source), stage, is_store=False))
            if target != DEVICE:
                before = (first,) if source != DEVICE else ()
                nodes.append(_access(self._place(side, target), stage, is_store=True, after=before))
        graph = Graph.from_nodes(nodes, side.stage_ranks)
        moved = sum(size * len(ranks) for size, ranks in zip(sizes, side.stage_ranks, strict=True))
        return _Route(self._backend.register(graph), np.array([sizes[node.rank_class] for node in nodes]), moved)

    def _register_remote(self, side: TierSide, store: int, here: int) -> _Route:
        """A rank beside the memory loads everything and sends each rank its part."""
        ranks = [rank for stage in side.stage_ranks for rank in stage]
        sizes = side.rank_bytes
        nodes = [_access(self._place(side, store), 0, is_store=False)]
        for tag, rank in enumerate(ranks):
            nodes.append(Node("kv.send", NodeType.COMM_SEND, 0, size_bytes=1, peer=rank, tag=tag, data_deps=(0,)))
        for tag in range(len(ranks)):
            nodes.append(Node("kv.recv", NodeType.COMM_RECV, 1 + tag, size_bytes=1, peer=here, tag=tag))
        graph = Graph.from_nodes(nodes, [(here,), *((rank,) for rank in ranks)])
        per_token = np.array([sum(sizes), *sizes, *sizes], dtype=np.float64)
        return _Route(self._backend.register(graph), per_token, float(sum(sizes)))

    def _place(self, side: TierSide, store: int) -> Place:
        if store == SWAP_SPACE:
            assert side.swap_place is not None
            return side.swap_place
        return side.places[store]


def _access(place: Place, stage: int, *, is_store: bool, after: tuple[int, ...] = ()) -> Node:
    return Node(
        f"kv.{'store' if is_store else 'load'}.{place.tier}",
        NodeType.MEM_STORE if is_store else NodeType.MEM_LOAD,
        stage,
        size_bytes=1,
        location=place.location,
        device=place.device,
        data_deps=after,
    )


def _layerwise(side: TierSide, backend: Backend) -> LayerwiseRecalls:
    """One stage's ranks load from the memories that they reach themselves."""
    places = {store: place for store, place in enumerate(side.places) if side.sources[store] is None}
    if side.swap_place is not None:
        places[SWAP_SPACE] = side.swap_place
    num_layers = side.instance.builder.model.num_layers
    return LayerwiseRecalls(side.instance, side.tiers, places, side.bytes_per_token[0] // num_layers, backend)


def connect_tiers(
    plans: Sequence[TierPlan | None], instances: Sequence[Instance], models: Sequence[ModelSpec], backend: Backend
) -> KvTraffic | None:
    """Give instances the tiers that were planned for them; None if no instance has any.

    Raises:
        ConfigError: If a scheduler of the user's own cannot take requests whose KV comes from elsewhere.
    """
    sides = [
        _connect(plan, instance, model, instances)
        for plan, instance, model in zip(plans, instances, models, strict=True)
        if plan is not None
    ]
    return KvTraffic(backend, sides) if sides else None


def _connect(plan: TierPlan, instance: Instance, model: ModelSpec, instances: Sequence[Instance]) -> TierSide:
    engine = instance.engine
    if not isinstance(engine.scheduler, LoadingScheduler):
        raise ConfigError(
            f"instance {instance.index} has KV tiers, but its scheduler {type(engine.scheduler).__name__!r} has no "
            "methods 'take_loads' and 'loaded', with which requests come whose KV is elsewhere"
        )
    flops = recompute_flops(model, num_active_parameters(model))
    tiers = KvTiers(engine.kv.pool, engine.config.block_size, plan.stores, plan.targets, plan.options, flops)
    engine.kv.tiers = tiers
    size = len(instance.ranks) // len(plan.stage_bytes)
    return TierSide(
        instance,
        tiers,
        plan.places,
        tuple(_source(node, instance, instances) for node in plan.nodes),
        plan.swap_place,
        tuple(instance.ranks[start : start + size] for start in range(0, len(instance.ranks), size)),
        plan.stage_bytes,
        plan.replicas,
    )


def _source(node: int | None, instance: Instance, instances: Sequence[Instance]) -> int | None:
    """The rank beside a memory of another node, None for a memory that the instance reaches itself."""
    if node is None or node == instance.node:
        return None
    return next(other.ranks[0] for other in instances if other.node == node)


def recompute_flops(model: ModelSpec, parameters: int) -> Callable[[int, int], float]:
    """Return the FLOPs of computing tokens again: 2 per parameter, and 4 per query width and token of context.

    The attention of token ``t`` reads ``t`` keys and values: two products of ``heads * head_dim`` multiply-adds each.
    """
    width = 4.0 * model.num_layers * model.num_heads * model.head_dim

    def flops(num_tokens: int, context_len: int) -> float:
        return num_tokens * (2.0 * parameters + width * (context_len + num_tokens / 2))

    return flops
