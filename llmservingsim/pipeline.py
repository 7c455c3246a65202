"""Instances whose blocks are cut into pipeline stages on devices of their own.

As in vLLM (0.19.0, v1/engine/core.py, ``step_with_batch_queue``): up to as many batches are in flight as there are
stages, and a request whose token is being computed is in one of them only. Each stage of each batch is a graph, and so
is the message of hidden states between two stages, which travels while the stage that sent it begins its next batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from llmservingsim.backend import Backend, GraphId, Ticket
from llmservingsim.errors import SimulationError
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.instance import DeviceMemory, Instance, StageWork
from llmservingsim.serving import Engine, Outcome
from llmservingsim.serving.batch import Batch
from llmservingsim.trace import IterationBuilder


class _Stage:
    """One pipeline stage: what it executes, and the batches that wait for it.

    It takes them in the order in which they were formed; a short message may overtake a long one.
    """

    def __init__(self, builder: IterationBuilder, graph: GraphId) -> None:
        self.builder = builder
        self.graph = graph
        self.is_busy = False
        self._waiting: dict[int, Batch] = {}
        self._next = 0

    def add(self, batch: Batch) -> None:
        """A batch is there."""
        self._waiting[batch.index] = batch

    def take(self) -> Batch | None:
        """Return the batch whose turn it is, if it is there and the stage is free, which it then is no more."""
        batch = None if self.is_busy else self._waiting.pop(self._next, None)
        if batch is not None:
            self.is_busy = True
            self._next += 1
        return batch


class _Work(NamedTuple):
    """What a ticket is: a batch in a stage, or on its way to the next."""

    batch: Batch
    stage: int
    is_message: bool


class PipelinedInstance(Instance):
    """Owner of the iterations of an instance with several pipeline stages.

    Args:
        node: Index of the server.
        model: Name of the model it serves.
        engine: Decides; has as many batches in flight as there are stages.
        builders: Build graphs, one per stage.
        backend: Times them.
        memory: Of one device of the stage with the fewest blocks.
    """

    def __init__(
        self,
        node: int,
        model: str,
        engine: Engine,
        builders: Sequence[IterationBuilder],
        backend: Backend,
        memory: DeviceMemory,
    ) -> None:
        super().__init__(node, model, engine, builders[0], backend, memory)
        self.ranks = tuple(rank for builder in builders for rank in builder.ranks)
        self.builders = tuple(builders)
        self._stages = [_Stage(builder, backend.register(builder.template)) for builder in builders]
        self._messages = [backend.register(_message(here.ranks, there.ranks)) for here, there in pairwise(builders)]
        self._bytes_per_token = builders[0].model.hidden_size * builders[0].model.dtype_bytes
        self._to_send: list[_Work] = []
        self._under_way: dict[Ticket, _Work] = {}

    def begin(self, now_ns: int) -> list[Ticket]:
        """Submit every message and every stage of a batch that can begin now.

        Raises:
            SimulationError: If a latency is negative or larger than the backend can count.
        """
        while (batch := self.engine.next_batch(now_ns)) is not None:
            self._stages[0].add(batch)
            if self.follower is not None:
                self.follower.formed(self, batch)
        work, self._to_send = self._to_send, []
        for index, stage in enumerate(self._stages):
            if (next_batch := stage.take()) is not None:
                work.append(_Work(next_batch, index, is_message=False))
        return [self._start(one, now_ns) for one in work]

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """Pass a batch on that has left a stage or arrived at the next one; apply it when it has left the last."""
        work = self._under_way.pop(ticket)
        if work.is_message:
            self._stages[work.stage + 1].add(work.batch)
            return ()
        self._stages[work.stage].is_busy = False
        if work.stage == len(self._stages) - 1:
            return super().complete(ticket, now_ns)
        if self.follower is not None:
            self.follower.ended(self, work.stage, now_ns)
        self._to_send.append(_Work(work.batch, work.stage, is_message=True))
        return ()

    def _start(self, work: _Work, now_ns: int) -> Ticket:
        try:
            ticket = self._send(work) if work.is_message else self._compute(work)
        except (ValueError, OverflowError) as error:  # a latency that no clock can count
            raise SimulationError(f"instance {self.index}, iteration {work.batch.index}: {error}") from error
        self._under_way[ticket] = work
        if self.follower is not None and not work.is_message:
            builder, shapes = self._stages[work.stage].builder, (work.batch.shape,)
            self.follower.submitted(self, StageWork(work.batch, work.stage, builder, shapes, -1), now_ns)
        return ticket

    def _compute(self, work: _Work) -> Ticket:
        stage, shapes = self._stages[work.stage], (work.batch.shape,)
        sizes = stage.builder.sizes_bytes(shapes)
        if sizes is not None:
            self.collective_bytes += int(sizes.sum())
        return self._backend.submit(stage.graph, stage.builder.durations_ns(shapes), sizes)

    def _send(self, work: _Work) -> Ticket:
        size = work.batch.shape.num_tokens * self._bytes_per_token
        return self._backend.submit(self._messages[work.stage], None, np.array([size, size], dtype=np.int64))


def _message(here: Sequence[int], there: Sequence[int]) -> Graph:
    """Every rank of a stage sends the hidden states, which it holds whole, to its counterpart in the next."""
    nodes = [
        Node("hidden_states.send", NodeType.COMM_SEND, 0, size_bytes=1, peer=there[0]),
        Node("hidden_states.recv", NodeType.COMM_RECV, 1, size_bytes=1, peer=here[0]),
    ]
    return Graph.from_nodes(nodes, [here, there])
