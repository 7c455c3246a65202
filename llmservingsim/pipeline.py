"""Instances whose blocks are cut into pipeline stages on devices of their own.

As in vLLM (0.19.0, v1/engine/core.py, ``step_with_batch_queue``): up to as many batches are in flight as there are
stages, and a request whose token is being computed is in one of them only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmservingsim.backend import Backend, Ticket
from llmservingsim.instance import DeviceMemory, Instance
from llmservingsim.serving import Engine, Outcome
from llmservingsim.stages import Round, Stages
from llmservingsim.trace import GraphBuilder


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
        builders: Sequence[GraphBuilder],
        backend: Backend,
        memory: DeviceMemory,
    ) -> None:
        super().__init__(node, model, engine, builders[0], backend, memory)
        self.ranks = tuple(rank for builder in builders for rank in builder.ranks)
        self._stages = Stages((self,), builders, backend)

    def begin(self, now_ns: int) -> list[Ticket]:
        """Submit every message and every stage of a batch that can begin now.

        Raises:
            SimulationError: If a latency is negative or larger than the backend can count.
        """
        while (batch := self.engine.next_batch(now_ns)) is not None:
            if self.follower is not None:
                self.follower.formed(self, batch)
            self._stages.enter(Round.of(batch.index, batch))
        return self._stages.begin(now_ns)

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """Pass a batch on that has left a stage or arrived at the next one; apply it when it has left the last."""
        return self.apply(now_ns) if self._stages.complete(ticket, now_ns) else ()
