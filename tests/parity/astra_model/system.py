"""A rank's system layer: collectives become streams, streams queue per dimension."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from astra_model.algorithms import Delay, Phase
from astra_model.bus import Transfer, build_bus
from astra_model.engine import Action, Engine
from astra_model.network import Messages
from astra_model.plan import Ring, Step, chunk_sizes, final_size, steps_of
from llmservingsim.backend.config import NetworkModel, SystemModel
from llmservingsim.graph import Graph, Node

COLLECTIVE_TAGS = 500_000_000
GROUP_STREAMS = 1_000_000

Queue = tuple[int, int]


@dataclass(eq=False)
class Stream:
    """A chunk: the phases it has left, each with its queue."""

    priority: int
    phases: list[tuple[Queue, Phase]]
    ended: Action
    is_started: bool = False


class SystemLayer:
    """Of one rank."""

    def __init__(self, rank: int, network: NetworkModel, system: SystemModel, engine: Engine, to: Messages) -> None:
        self._rank, self._network, self._system, self._engine, self._messages = rank, network, system, engine, to
        self._queues: defaultdict[Queue, list[Stream]] = defaultdict(list)
        self._turns: Counter[object] = Counter()
        self._stream_ids: Counter[int] = Counter()
        self._issued = 0
        self._bus = None
        if system.shared_bus:
            self._bus = build_bus(engine, rank, system.shared_bus, system.local_reduction_delay_ns)

    def issue(self, node: Node, graph: Graph, done: Action) -> None:
        """Start a collective; ``done`` when all its streams are."""
        group = graph.groups[node.group] if node.group >= 0 else ()
        priority = self._priority(node)
        steps = steps_of(self._rank, node, group, self._network, self._system)
        sizes = chunk_sizes(node, self._system.preferred_dataset_splits, self._network.npus)
        left = len(sizes)

        def stream_ended() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                done()

        for size in sizes if steps else ():
            tag = self._tag(node.group)
            stream = Stream(priority, list(self._phases(steps, size, tag)), stream_ended)
            self._enter(stream)
            self._start_waiting(stream.phases[0][0])

    def _priority(self, node: Node) -> int:
        self._issued += 1
        if self._system.scheduling_policy == "EXPLICIT":
            return node.priority
        return self._issued if self._system.scheduling_policy == "LIFO" else -self._issued

    def _tag(self, group: int) -> int:
        space = 0 if group < 0 else 1 if self._system.dialect == "llmservingsim" else group + 1
        stream = space * GROUP_STREAMS + self._stream_ids[space]
        self._stream_ids[space] += 1
        return COLLECTIVE_TAGS + stream % COLLECTIVE_TAGS

    def _phases(self, steps: list[Step], size: int, tag: int) -> Iterator[tuple[Queue, Phase]]:
        for step in steps:
            queue, direction = self._next_queue(step)
            yield queue, Phase(step.kind, step.ring, self._rank, size, direction, tag, self._next_tree(step.ring))
            size = final_size(step, size)

    def _next_tree(self, ring: Ring) -> bool:
        """Return whether it is the turn of the tree MAX; trees of a type and dimension alternate."""
        if ring.algorithm != "doublebinarytree" or ring.is_group:
            return False
        turn = ("tree", ring.listed, ring.dim)
        self._turns[turn] += 1
        return self._turns[turn] % 2 == 1

    def _next_queue(self, step: Step) -> tuple[Queue, int]:
        count = self._system.num_queues_per_dim
        half = count // 2
        first, end = {"all": (0, count), "first": (0, max(half, 1)), "second": (half, count)}[step.half]
        turn = ("queue", step.half, step.ring.dim)
        queue = first + self._turns[turn] % (end - first)
        self._turns[turn] += 1
        if step.half == "all":
            return (step.ring.dim, queue), 1 if queue < half or count == 1 else -1
        return (step.ring.dim, queue), 1 if step.half == "first" else -1

    def _enter(self, stream: Stream) -> None:
        """Put a stream behind the started ones and those of no lower priority."""
        queue = self._queues[stream.phases[0][0]]
        place = 0
        while place < len(queue) and (queue[place].is_started or queue[place].priority >= stream.priority):
            place += 1
        queue.insert(place, stream)

    def _start_waiting(self, queue: Queue) -> None:
        most = -(-self._system.active_chunks_per_dimension // self._system.num_queues_per_dim)
        while sum(s.is_started for s in self._queues[queue]) < most:
            stream = next((s for s in self._queues[queue] if not s.is_started), None)
            if stream is None:
                return
            stream.is_started = True
            self._begin(stream)

    def _begin(self, stream: Stream) -> None:
        stream.phases[0][1].start(self, lambda: self._move_on(stream))

    def _move_on(self, stream: Stream) -> None:
        old, _ = stream.phases[0]
        if len(stream.phases) == 1:
            stream.ended()
        self._queues[old].remove(stream)
        stream.phases.pop(0)
        stream.is_started = False
        if stream.phases:
            self._enter(stream)
        self._start_waiting(old)
        if stream.phases:
            self._start_waiting(stream.phases[0][0])

    # What a phase needs of its rank.

    def pay(self, delay: Delay, is_group: bool, then: Action) -> None:
        """Let a local delay pass: the endpoint's part, then that of the reduction."""

        def endpoint_done() -> None:
            if delay.is_reducing:
                self._engine.after(self._rank, self._reduction_ns(delay.size), then)
            else:
                then()

        if is_group:
            self._engine.after(self._rank, 10, endpoint_done)
        elif self._bus:
            side = self._bus[0 if delay.is_cycle_start else 1]
            side.request(Transfer(delay.size, delay.is_reducing, delay.back, endpoint_done))
        else:
            self._engine.after(self._rank, self._system.endpoint_delay_ns, endpoint_done)

    def send(self, peer: int, tag: int, size: int) -> None:
        """Send a collective's message; nobody waits for its end."""
        self._messages.send(self._rank, peer, tag, size, lambda: None)

    def receive(self, peer: int, tag: int, size: int, then: Action) -> None:
        """Post a receive."""
        self._messages.receive(peer, self._rank, tag, size, then)

    def _reduction_ns(self, size: int) -> int:
        rate = self._system.local_mem_bw_gbps * 1e9
        return 3 * int(float(size) / rate * 1e9) if rate else 0
