"""Pipeline stages, and the rounds that move through them.

A *round* is what enters the first stage together: a batch of an instance, or one of every member of a group that runs
in lock step. Each stage of each round is a graph over the ranks of that stage, and so is the message of hidden states
to the next stage, which travels while the stage that sent it begins its next round. Rounds never overtake each other: a
stage computes one after another, and sends one after another, as on a connection of NCCL.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.backend import Backend, Ticket
from llmservingsim.errors import SimulationError
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.instance import Execution, Instance, StageWork
from llmservingsim.serving.batch import Batch
from llmservingsim.shapes import BatchShape
from llmservingsim.trace import GraphBuilder

DUMMY = BatchShape(prefills=(), num_decodes=1, decode_kv_tokens=1, max_decode_kv_tokens=1, num_tokens=1)
"""The batch of a member that has nothing to compute."""


class Round(NamedTuple):
    """What enters the first stage together.

    Attributes:
        number: Of the batch of a lone instance, or of a group's round.
        batches: One per member; None is a dummy.
        shapes: Of these.
    """

    number: int
    batches: tuple[Batch | None, ...]
    shapes: tuple[BatchShape, ...]

    @classmethod
    def of(cls, number: int, *batches: Batch | None) -> Round:
        """Give dummies their shape."""
        return cls(number, batches, tuple(batch.shape if batch is not None else DUMMY for batch in batches))


class _Work(NamedTuple):
    """What a ticket is: a round in a stage, or on its way to the next."""

    round: Round
    stage: int
    is_message: bool = False


class _Stage:
    """One pipeline stage: what it executes, and the rounds that wait for it."""

    def __init__(self, builder: GraphBuilder, backend: Backend) -> None:
        self.builder = builder
        self.graph = backend.register(builder.template)
        self.first_rank_nodes = _first_rank_nodes(builder)
        self.waiting: deque[Round] = deque()
        self.is_busy = False
        self.last_sent: Ticket = -1


class _Rounds:
    """Hands the graphs of rounds to the backend, and tells whoever listens."""

    def __init__(self, members: Sequence[Instance], backend: Backend) -> None:
        self._members = tuple(members)
        self._backend = backend

    def compute(self, stage: _Stage, started: Round, now_ns: int, after: Ticket = -1) -> Ticket:
        """Submit a round's graph of a stage.

        Raises:
            SimulationError: If a latency is negative or larger than the backend can count.
        """
        try:
            durations, sizes = stage.builder.durations_ns(started.shapes), stage.builder.sizes_bytes(started.shapes)
            ticket = self._backend.submit(stage.graph, durations, sizes, after)
        except (ValueError, OverflowError) as error:  # a latency that no clock can count
            raise self.failed(started, error) from error
        if sizes is not None:
            stage.builder.count_moved(sizes)
            for member, nodes in zip(self._members, stage.first_rank_nodes, strict=True):
                member.collective_bytes += int(sizes[nodes].sum())
        for member, batch, shape in zip(self._members, started.batches, started.shapes, strict=True):
            log = member.activity[stage.builder.stage]
            own = shape if batch is not None else None
            log.submitted(stage.builder.template, (durations, sizes), own, now_ns)
        self._tell_followers(stage, started, now_ns, after)
        if (listener := self._members[0].listener) is not None:
            listener.submitted(self._execution(stage, started), now_ns)
        return ticket

    def ended(self, stage: _Stage, left: Round, now_ns: int) -> None:
        """A round has left a stage."""
        for member in self._members:
            member.activity[stage.builder.stage].ended(now_ns)
            if member.follower is not None:
                member.follower.ended(member, stage.builder.stage, now_ns)
        if (listener := self._members[0].listener) is not None:
            listener.ended(self._execution(stage, left), now_ns)

    def failed(self, refused: Round, error: Exception) -> SimulationError:
        """Say whose round the backend refused."""
        first, *others = (member.index for member in self._members)
        who = f"instances {[first, *others]}" if others else f"instance {first}"
        return SimulationError(f"{who}, iteration {refused.number}: {error}")

    def _tell_followers(self, stage: _Stage, started: Round, now_ns: int, after: Ticket) -> None:
        for member, batch in zip(self._members, started.batches, strict=True):
            if member.follower is not None:
                work = StageWork(batch, stage.builder.stage, stage.builder, started.shapes, after)
                member.follower.submitted(member, work, now_ns)

    def _execution(self, stage: _Stage, what: Round) -> Execution:
        return Execution(tuple(m.index for m in self._members), what.number, stage.builder, what.shapes)


class OneStage:
    """Rounds of a group whose instances have one stage: the backend gets each at once, to run after the one before.

    Args:
        members: The instances whose batches make a round, in the order of the builder's members.
        builder: Builds graphs.
        backend: Times them.
    """

    def __init__(self, members: Sequence[Instance], builder: GraphBuilder, backend: Backend) -> None:
        self._rounds = _Rounds(members, backend)
        self._stage = _Stage(builder, backend)
        self._in_flight: deque[Round] = deque()
        self._last: Ticket = -1

    def enter(self, new: Round) -> None:
        """Queue a round."""
        self._stage.waiting.append(new)

    def begin(self, now_ns: int) -> list[Ticket]:
        """Submit every round that has entered.

        Raises:
            SimulationError: If a latency is negative or larger than the backend can count.
        """
        tickets = []
        while self._stage.waiting:
            started = self._stage.waiting.popleft()
            self._last = self._rounds.compute(self._stage, started, now_ns, self._last)
            self._in_flight.append(started)
            tickets.append(self._last)
        return tickets

    def complete(self, ticket: Ticket, now_ns: int) -> bool:
        """The oldest round in flight has ended."""
        del ticket
        self._rounds.ended(self._stage, self._in_flight.popleft(), now_ns)
        return True


class Stages:
    """Moves rounds through the stages of an instance, or of a group in lock step.

    Args:
        members: The instances whose batches make a round, in the order of the builders' members.
        builders: Build graphs, one per stage.
        backend: Times them.
    """

    def __init__(self, members: Sequence[Instance], builders: Sequence[GraphBuilder], backend: Backend) -> None:
        self._rounds = _Rounds(members, backend)
        self._backend = backend
        self._stages = [_Stage(builder, backend) for builder in builders]
        self._messages = [
            backend.register(_messages(here.member_ranks, there.member_ranks)) for here, there in pairwise(builders)
        ]
        self._bytes_per_token = builders[0].model.hidden_size * builders[0].model.dtype_bytes
        self._to_send: list[_Work] = []
        self._under_way: dict[Ticket, _Work] = {}

    def enter(self, new: Round) -> None:
        """Queue a round at the first stage."""
        self._stages[0].waiting.append(new)

    def begin(self, now_ns: int) -> list[Ticket]:
        """Submit every message and every stage of a round that can begin now.

        Raises:
            SimulationError: If a latency is negative or larger than the backend can count.
        """
        messages, self._to_send = self._to_send, []
        begun = [(self._send(work), work) for work in messages]
        for index, stage in enumerate(self._stages):
            if stage.waiting and not stage.is_busy:
                stage.is_busy = True
                started = stage.waiting.popleft()
                begun.append((self._rounds.compute(stage, started, now_ns), _Work(started, index)))
        self._under_way.update(begun)
        return [ticket for ticket, _ in begun]

    def complete(self, ticket: Ticket, now_ns: int) -> bool:
        """Pass a round on that has left a stage or arrived at the next one; tell whether it has left the last."""
        work = self._under_way.pop(ticket)
        if work.is_message:
            self._stages[work.stage + 1].waiting.append(work.round)
            return False
        stage = self._stages[work.stage]
        stage.is_busy = False
        self._rounds.ended(stage, work.round, now_ns)
        if stage is self._stages[-1]:
            return True
        self._to_send.append(work._replace(is_message=True))
        return False

    def _send(self, work: _Work) -> Ticket:
        """Submit a round's messages; they follow those that the stage sent before."""
        stage, per_token = self._stages[work.stage], self._bytes_per_token
        sizes = np.array([s.num_tokens * per_token for s in work.round.shapes for _ in range(2)], dtype=np.int64)
        try:
            stage.last_sent = self._backend.submit(self._messages[work.stage], None, sizes, stage.last_sent)
        except (ValueError, OverflowError) as error:  # a message that no clock can count
            raise self._rounds.failed(work.round, error) from error
        return stage.last_sent


def _first_rank_nodes(builder: GraphBuilder) -> list[NDArray[np.int64]]:
    """Of every member, the collectives of the builder's template that its first rank takes part in."""
    template = builder.template
    found = []
    for ranks in builder.member_ranks:
        (own,) = (number for number, of_class in enumerate(template.rank_classes) if ranks[0] in of_class)
        found.append(np.flatnonzero((template.rank_class == own) & (template.type == NodeType.COMM_COLL)))
    return found


def _messages(here: Sequence[Sequence[int]], there: Sequence[Sequence[int]]) -> Graph:
    """Every rank of a stage sends its member's hidden states, which it holds whole, to its counterpart in the next."""
    nodes: list[Node] = []
    classes: list[Sequence[int]] = []
    for senders, receivers in zip(here, there, strict=True):
        own = len(classes)
        nodes.append(Node("hidden_states.send", NodeType.COMM_SEND, own, size_bytes=1, peer=receivers[0]))
        nodes.append(Node("hidden_states.recv", NodeType.COMM_RECV, own + 1, size_bytes=1, peer=senders[0]))
        classes += [senders, receivers]
    return Graph.from_nodes(nodes, classes)
