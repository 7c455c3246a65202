"""An instance on the clock: its engine decides batches, its builder makes graphs of them, the backend times them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from llmservingsim.activity import ActivityLog
from llmservingsim.backend import Backend, GraphId, Ticket
from llmservingsim.config.catalog import AcceleratorSpec, PowerSpec
from llmservingsim.errors import SimulationError
from llmservingsim.model import CapacityReport
from llmservingsim.power import ComputingMemory
from llmservingsim.serving import Engine, InstanceLoad, Outcome, RejectReason, Request
from llmservingsim.serving.batch import Batch
from llmservingsim.serving.routing import Role
from llmservingsim.shapes import BatchShape
from llmservingsim.trace import GraphBuilder
from llmservingsim.workload import RequestSpec

Phase = Literal["stopped", "starting", "active", "draining"]
"""Of an instance that may be stopped while the run goes on (`llmservingsim.scaling`)."""


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
        """Weights and KV blocks, in bytes."""
        return self.weights_bytes + blocks * self.block_bytes


class Execution(NamedTuple):
    """A graph that instances execute: an iteration, or one pipeline stage of it.

    Attributes:
        instances: Whose; several if they run in lock step.
        number: Of the batch, or of the round of a group.
        builder: Made the graph; knows the stage.
        shapes: A batch per instance.
    """

    instances: tuple[int, ...]
    number: int
    builder: GraphBuilder
    shapes: tuple[BatchShape, ...]


class IterationListener(Protocol):
    """Hears of an instance's iterations."""

    def submitted(self, execution: Execution, now_ns: int) -> None:
        """A graph was handed to the backend; it runs when the one before of the same stage has ended."""
        ...

    def ended(self, execution: Execution, now_ns: int) -> None:
        """A graph ended."""
        ...


class Aborted(NamedTuple):
    """A request that its client gave up.

    Attributes:
        instance: That had it, or the first that serves its model if the router held it.
        request: As what; None if the router held it.
        num_tokens: Output tokens that the client had been given.
    """

    instance: Instance
    request: Request | None
    num_tokens: int


def _nobody() -> None:
    """Nobody waits to hear that an instance is awake."""


class StageWork(NamedTuple):
    """A batch that one pipeline stage of an instance computes.

    Attributes:
        batch: Which one; None is a dummy of an instance in lock step.
        stage: Index of the stage.
        builder: That priced it.
        shapes: Of the batches of all instances in lock step.
        after: It begins when this ticket has completed; -1 at once.
    """

    batch: Batch | None
    stage: int
    builder: GraphBuilder
    shapes: Sequence[BatchShape]
    after: Ticket


class Follower(Protocol):
    """Follows an instance's batches through its stages."""

    def formed(self, instance: Instance, batch: Batch) -> None:
        """A batch was formed; the counters of its requests are those behind it."""
        ...

    def submitted(self, instance: Instance, work: StageWork, now_ns: int) -> None:
        """A stage's graph was handed to the backend."""
        ...

    def ended(self, instance: Instance, stage: int, now_ns: int) -> None:
        """The oldest of a stage's graphs under way has ended."""
        ...


class Successor(Protocol):
    """Whoever finds an instance that goes on with a request after its first token."""

    def reject_reason(self, spec: RequestSpec) -> RejectReason | None:
        """Tell why nobody could ever go on with it, or None."""
        ...

    def coming(self, instance: Instance, spec: RequestSpec, request: Request) -> None:
        """A request that will be handed over was routed to ``instance``."""
        ...

    def called_off(self, request: Request) -> None:
        """A client gave up a request that is still being prefilled."""
        ...

    def hand_over(self, instance: Instance, spec: RequestSpec, request: Request, now_ns: int) -> None:
        """Take over a request whose blocks ``instance`` holds until `Engine.release`."""
        ...

    def abort(self, request_id: int) -> Aborted:
        """Let go of a request that was handed over and has not ended; its client gave up."""
        ...


class Instance:
    """Owner of one instance's iterations.

    Args:
        node: Index of the server.
        model: Name of the model it serves.
        engine: Decides.
        builder: Builds graphs: its own, or those of a group that runs in lock step (`llmservingsim.lockstep`).
        backend: Times them.
        memory: Of one device.

    Attributes:
        hardware: Name of its accelerator.
        power: What each draws, under its cap; None where the catalogue does not know.
        clock: Share of its maximum clock at which it runs.
        computing_memory: What computes for it in a memory, if something does.
        accelerator: The catalogue's entry, with what the run file replaces.
        role: What it computes; one that only decodes gets its requests from others.
        phase: Whether it takes new requests, and whether it runs; ``active`` throughout where nothing scales.
        wake: Tells the loop that it may have something to begin; whatever changes its engine from outside calls it.
        ranks: Its devices in the network: all of the builder's, unless that serves a group.
        listener: Hears of every submitted iteration, if set.
        successor: Who goes on with its requests after their first token; None where it decodes them itself.
        follower: Follows its batches, if set.
        builders: One per pipeline stage.
        activity: What its devices executed, one log per pipeline stage.
        before_batch: Each submits what has to happen between the batch before, given by its ticket, and the one that
            begins, and returns the ticket that this one has to follow.
        variant: Returns another graph and its builder for a batch that needs one, if set.
        offloading: Tells what of its iterations runs on other devices, if something does.
        collective_bytes: Summed message sizes of all collectives so far, per rank.
    """

    def __init__(
        self,
        node: int,
        model: str,
        engine: Engine,
        builder: GraphBuilder,
        backend: Backend,
        memory: DeviceMemory,
    ) -> None:
        self.node = node
        self.model = model
        self.engine = engine
        self.builder = builder
        self.builders: Sequence[GraphBuilder] = (builder,)
        self.ranks = builder.ranks
        self.activity: Sequence[ActivityLog] = ()
        self.memory = memory
        self.hardware = ""
        self.power: PowerSpec | None = None
        self.clock = 1.0
        self.computing_memory: ComputingMemory | None = None
        self.accelerator: AcceleratorSpec | None = None
        self.role: Role = "both"
        self.phase: Phase = "active"
        self.listener: IterationListener | None = None
        self.successor: Successor | None = None
        self.follower: Follower | None = None
        self.variant: Callable[[Batch], tuple[GraphId, GraphBuilder] | None] | None = None
        self.offloading: Callable[[], dict[str, Any]] | None = None
        self.before_batch: list[Callable[[Instance, Ticket], Ticket]] = []
        self.collective_bytes = 0
        self._backend = backend
        is_alone = len(builder.member_ranks) == 1 and builder.layout.pp == 1
        self._graph = backend.register(builder.template) if is_alone else None
        self._last: Ticket = -1
        self.wake: Callable[[], None] = _nobody
        self._handing: dict[int, RequestSpec] = {}  # prompts that somebody else will decode

    @property
    def members(self) -> Sequence[Instance]:
        """Itself, as an owner of batches."""
        return (self,)

    @property
    def index(self) -> int:
        """Number of the instance."""
        return self.engine.index

    @property
    def takes_prompts(self) -> bool:
        """Whether requests can be routed to it."""
        return self.role != "decode"

    def load(self) -> InstanceLoad:
        """Report what a router may see."""
        engine = self.engine
        pool = engine.kv.pool
        return InstanceLoad(
            engine.index,
            self.model,
            engine.num_waiting,
            engine.num_running,
            pool.num_held / pool.num_usable,
            self.hardware,
            self.role,
        )

    def reject_reason(self, spec: RequestSpec) -> RejectReason | None:
        """Tell why a request routed here could never be served, or None."""
        if self.successor is None:
            return self.engine.reject_reason(spec)
        return self.engine.reject_reason(spec, hand_off=True) or self.successor.reject_reason(spec)

    def add(self, spec: RequestSpec) -> Request:
        """Queue a request."""
        request = self.engine.add(spec, hand_off=self.successor is not None)
        if request.hand_off:
            assert self.successor is not None
            self._handing[spec.request_id] = spec
            self.successor.coming(self, spec, request)
        self.wake()
        return request

    def abort(self, request: Request) -> Aborted:
        """Let go of a request that was queued here and has not ended, here or wherever it went on."""
        if not self.engine.holds(request):
            assert self.successor is not None
            return self.successor.abort(request.request_id)
        num_tokens = self.engine.abort(request)
        if request.hand_off and self.successor is not None:
            del self._handing[request.request_id]
            self.successor.called_off(request)
        self.wake()
        return Aborted(self, request, num_tokens)

    def begin(self, now_ns: int) -> list[Ticket]:
        """Submit every batch that can be launched now; each runs after the one before.

        Raises:
            SimulationError: If a latency is negative or larger than the backend can count.
        """
        tickets = []
        while (batch := self.engine.next_batch(now_ns)) is not None:
            for prepare in self.before_batch:
                self._last = prepare(self, self._last)
            after = self._last
            builder = self._submit(batch, now_ns)
            tickets.append(self._last)
            if self.follower is not None:
                self.follower.formed(self, batch)
                self.follower.submitted(self, StageWork(batch, 0, self.builder, (batch.shape,), after), now_ns)
            if self.listener is not None:
                self.listener.submitted(self._execution(batch)._replace(builder=builder), now_ns)
        return tickets

    def _submit(self, batch: Batch, now_ns: int) -> GraphBuilder:
        """Hand a batch to the backend; return what made its graph."""
        assert self._graph is not None, "a group and a pipeline submit graphs of their own"
        other = self.variant(batch) if self.variant is not None else None
        graph, builder = other if other is not None else (self._graph, self.builder)
        try:
            shapes = (batch.shape,)
            durations, sizes = builder.durations_ns(shapes), builder.sizes_bytes(shapes)
            self._last = self._backend.submit(graph, durations, sizes, self._last)
        except (ValueError, OverflowError) as error:  # a latency that no clock can count
            raise SimulationError(f"instance {self.index}, iteration {batch.index}: {error}") from error
        if sizes is not None:
            self.collective_bytes += builder.count_moved(sizes)
        self.activity[0].submitted(builder.template, (durations, sizes), batch.shape, now_ns)
        return builder

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """Apply the oldest batch in flight, which has just ended."""
        del ticket
        self.activity[0].ended(now_ns)
        if self.follower is not None:
            self.follower.ended(self, 0, now_ns)
        ended = self.apply(now_ns)
        if self.listener is not None:
            self.listener.ended(self._execution(ended[0][1].batch), now_ns)
        return ended

    def apply(self, now_ns: int) -> tuple[tuple[Instance, Outcome]]:
        """Apply the oldest batch in flight, whoever ran it, and hand on what somebody else will decode."""
        outcome = self.engine.complete(now_ns)
        for request in outcome.handed:
            assert self.successor is not None
            self.successor.hand_over(self, self._handing.pop(request.request_id), request, now_ns)
        return ((self, outcome),)

    def _execution(self, batch: Batch) -> Execution:
        return Execution((self.index,), batch.index, self.builder, (batch.shape,))

    def describe_waiting(self) -> list[str]:
        """Say of each held request what it waits for; for the message of a deadlock."""
        return [f"instance {self.index}: {line}" for line in self.engine.describe_waiting()]
