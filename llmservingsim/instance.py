"""An instance on the clock: its engine decides batches, its builder makes graphs of them, the backend times them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from llmservingsim.backend import Backend, Ticket
from llmservingsim.errors import SimulationError
from llmservingsim.model import CapacityReport
from llmservingsim.serving import Engine, InstanceLoad, Outcome
from llmservingsim.serving.batch import Batch
from llmservingsim.trace import IterationBuilder


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What one device of an instance holds.

    Attributes:
        total_bytes: Of the device.
        weights_bytes: Of the model's share.
        block_bytes: Of one KV block, all layers.
        num_blocks: KV blocks, the null block included.
        capacity: How the number of blocks was predicted; None where it was given.
    """

    total_bytes: int
    weights_bytes: int
    block_bytes: int
    num_blocks: int
    capacity: CapacityReport | None

    def used_bytes(self, blocks: int) -> int:
        """Weights and held KV blocks."""
        return self.weights_bytes + blocks * self.block_bytes


class IterationListener(Protocol):
    """Hears of an instance's iterations."""

    def submitted(self, instance: Instance, batch: Batch, now_ns: int) -> None:
        """A batch was handed to the backend; it runs when the one before has ended."""
        ...

    def ended(self, instance: Instance, batch: Batch, now_ns: int) -> None:
        """A batch ended."""
        ...


class Instance:
    """Owner of one instance's iterations.

    Args:
        node: Index of the server.
        model: Name of the model it serves.
        engine: Decides.
        builder: Builds graphs.
        backend: Times them.
        memory: Of one device.

    Attributes:
        listener: Hears of every submitted iteration, if set.
        collective_bytes: Summed message sizes of all collectives so far, per rank.
    """

    def __init__(
        self,
        node: int,
        model: str,
        engine: Engine,
        builder: IterationBuilder,
        backend: Backend,
        memory: DeviceMemory,
    ) -> None:
        self.node = node
        self.model = model
        self.engine = engine
        self.builder = builder
        self.memory = memory
        self.listener: IterationListener | None = None
        self.collective_bytes = 0
        self._backend = backend
        self._graph = backend.register(builder.template)
        self._last: Ticket = -1

    @property
    def index(self) -> int:
        """Number of the instance."""
        return self.engine.index

    def load(self) -> InstanceLoad:
        """Report what a router may see."""
        engine = self.engine
        pool = engine.kv.pool
        return InstanceLoad(
            engine.index, self.model, engine.num_waiting, engine.num_running, pool.num_held / pool.num_usable
        )

    def begin(self, now_ns: int) -> list[Ticket]:
        """Submit every batch that can be launched now; each runs after the one before.

        Raises:
            SimulationError: If a latency is negative or larger than the backend can count.
        """
        tickets = []
        while (batch := self.engine.next_batch(now_ns)) is not None:
            tickets.append(self._submit(batch))
            if self.listener is not None:
                self.listener.submitted(self, batch, now_ns)
        return tickets

    def _submit(self, batch: Batch) -> Ticket:
        try:
            shapes = (batch.shape,)
            durations, sizes = self.builder.durations_ns(shapes), self.builder.sizes_bytes(shapes)
            self._last = self._backend.submit(self._graph, durations, sizes, self._last)
        except (ValueError, OverflowError) as error:  # a latency that no clock can count
            raise SimulationError(f"instance {self.index}, iteration {batch.index}: {error}") from error
        if sizes is not None:
            self.collective_bytes += int(sizes.sum())
        return self._last

    def complete(self, now_ns: int) -> Outcome:
        """Apply the oldest batch in flight, which has just ended."""
        outcome = self.engine.complete(now_ns)
        if self.listener is not None:
            self.listener.ended(self, outcome.batch, now_ns)
        return outcome
