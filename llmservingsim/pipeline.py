"""Instances whose blocks are cut into pipeline stages on devices of their own.

As in vLLM (0.19.0, v1/engine/core.py, ``step_with_batch_queue``): up to as many batches are in flight as there are
stages, and a request whose token is being computed is in one of them only. Each stage of each batch is a graph, and so
is the message of hidden states between two stages, which travels while the stage that sent it begins its next batch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from llmservingsim.backend import Backend, GraphId, Ticket
from llmservingsim.errors import SimulationError
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.instance import DeviceMemory, Instance
from llmservingsim.serving import Engine, Outcome
from llmservingsim.serving.batch import Batch
from llmservingsim.trace import IterationBuilder


class _Stage:
    """One pipeline stage: what it executes, and the batches that wait for it."""

    def __init__(self, builder: IterationBuilder, graph: GraphId) -> None:
        self.builder = builder
        self.graph = graph
        self.waiting: deque[Batch] = deque()
        self.is_busy = False


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
            self._stages[0].waiting.append(batch)
        work, self._to_send = self._to_send, []
        for index, stage in enumerate(self._stages):
            if stage.waiting and not stage.is_busy:
                stage.is_busy = True
                work.append(_Work(stage.waiting.popleft(), index, is_message=False))
        return [self._start(one) for one in work]

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """Pass a batch on that has left a stage or arrived at the next one; apply it when it has left the last."""
        work = self._under_way.pop(ticket)
        if work.is_message:
            self._stages[work.stage + 1].waiting.append(work.batch)
            return ()
        self._stages[work.stage].is_busy = False
        if work.stage == len(self._stages) - 1:
            return super().complete(ticket, now_ns)
        self._to_send.append(_Work(work.batch, work.stage, is_message=True))
        return ()

    def _start(self, work: _Work) -> Ticket:
        try:
            ticket = self._send(work) if work.is_message else self._compute(work)
        except (ValueError, OverflowError) as error:  # a latency that no clock can count
            raise SimulationError(f"instance {self.index}, iteration {work.batch.index}: {error}") from error
        self._under_way[ticket] = work
        return ticket

    def _compute(self, work: _Work) -> Ticket:
        stage, shapes = self._stages[work.stage], (work.batch.shape,)
        durations, sizes = stage.builder.durations_ns(shapes), stage.builder.sizes_bytes(shapes)
        if sizes is not None:
            self.collective_bytes += stage.builder.count_moved(sizes)
        return self._backend.submit(stage.graph, durations, sizes)

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
