"""KV caches on their way from the instances that prefill to those that decode.

A transfer is a graph of its own: messages between the ranks of the two instances, over the network that everything
else uses. As vLLM's NIXL connector does it (vllm 0.19.0), the decode side pulls: a request that has been prefilled
queues there, takes its blocks when its turn comes, and only then its KV crosses; the prefill side keeps its blocks
until it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.backend import Backend, GraphId, Ticket
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.instance import Aborted, Instance
from llmservingsim.model import KvShare
from llmservingsim.notices import Notices
from llmservingsim.serving import InstanceLoad, Outcome, RejectReason, Request, Router
from llmservingsim.serving.remote import Load
from llmservingsim.serving.routing import FinishedRequest, choose
from llmservingsim.workload import RequestSpec


class TransferRecord(NamedTuple):
    """One KV cache that crossed.

    Attributes:
        request_id: Whose.
        source, target: Instances.
        num_tokens, num_bytes: How much.
        handed_ns: When the prefill side had its first token.
        start_ns, end_ns: When the transfer began and ended; a push may begin, and even end, before ``handed_ns``.
        hidden_bytes: How many of the bytes had crossed at ``handed_ns``; of a message under way then, the share of its
            time.
    """

    request_id: int
    source: int
    target: int
    num_tokens: int
    num_bytes: int
    handed_ns: int
    start_ns: int
    end_ns: int
    hidden_bytes: int = 0


class _Source(NamedTuple):
    """Where a request's KV lies until it has crossed."""

    instance: Instance
    request: Request
    handed_ns: int


class _Handed(NamedTuple):
    """A request that was prefilled and is at no decode instance yet."""

    instance: Instance
    spec: RequestSpec
    request: Request
    handed_ns: int


class _Route(NamedTuple):
    """The graph between two instances and what a token puts on each of its nodes."""

    graph: GraphId
    bytes_per_token: NDArray[np.int64]


class KvTransfers:
    """Owner of every KV transfer.

    Args:
        backend: Times them.
        decoders: The instances that decode.
        shares: (prefill instance, decode instance) -> who sends what to whom, with the ranks of the network.
        router: Chooses the decode instance.
        proxy_latency_ns: Before the decode instance has a request.

    Attributes:
        chooses_ahead: Whether the decode instance is chosen before the prompt is computed.
        records: Transfers that ended, in order of their end.
        load_kv_async: Whether batches go on while KV comes; if not, `before_batch` brings what they wait for.
        wasted_bytes: That crossed for requests which were preempted meanwhile, and had to cross again.
    """

    chooses_ahead = False

    def __init__(
        self,
        backend: Backend,
        decoders: Sequence[Instance],
        shares: Mapping[tuple[int, int], Sequence[KvShare]],
        router: Router,
        proxy_latency_ns: int = 0,
    ) -> None:
        self.records: list[TransferRecord] = []
        self.wasted_bytes = 0
        self.load_kv_async = True
        self._backend = backend
        self._decoders = tuple(decoders)
        self._router = router
        is_asked = len(decoders) > 1
        self._tell_router = getattr(router, "finished", None) if is_asked else None
        self._tell_aborted = getattr(router, "aborted", None) if is_asked else None
        self._routes = {pair: self._register(pair_shares) for pair, pair_shares in shares.items()}
        self._going_on: dict[int, tuple[Instance, Request]] = {}
        self._sources: dict[Request, _Source] = {}
        self._passed: dict[int, _Handed] = {}  # by the request's id: on their way through the proxy
        self._held: dict[int, _Handed] = {}  # likewise, in the order of hand-over: no decode instance is active
        self._under_way: dict[Ticket, tuple[Instance, Load, int]] = {}
        self._chained: list[Ticket] = []  # submitted for a batch and not yet returned
        self._notices = Notices(backend)
        self._proxy_latency_ns = proxy_latency_ns

    @property
    def members(self) -> Sequence[Instance]:
        """None: loads begin where decode instances have formed batches, so it is asked at every turn."""
        return ()

    def reject_reason(self, spec: RequestSpec) -> RejectReason | None:
        """Tell why no decode instance could ever serve a request, or None."""
        reasons = [decoder.engine.reject_reason(spec) for decoder in self._serving(spec)]
        return None if None in reasons else reasons[0]

    def coming(self, instance: Instance, spec: RequestSpec, request: Request) -> None:
        """A request that will be handed over was routed to ``instance``; it is pulled when it has been prefilled."""

    def hand_over(self, instance: Instance, spec: RequestSpec, request: Request, now_ns: int) -> None:
        """Let a request that ``instance`` has prefilled go on, as soon as the proxy has passed it on."""
        self._passed[spec.request_id] = _Handed(instance, spec, request, now_ns)
        self._notices.send(partial(self._go_on, spec.request_id), self._proxy_latency_ns)

    def _go_on(self, request_id: int) -> None:
        """Queue a request at the decode instance that the router picks; it is held while none is active."""
        handed = self._passed.pop(request_id, None)
        if handed is None:  # its client gave up meanwhile
            return
        decoder = self._pick(handed.spec)
        if decoder is None:
            self._held[request_id] = handed
            return
        going_on = decoder.engine.go_on(handed.spec, handed.request, handed.instance.index)
        decoder.wake()
        self._going_on[request_id] = decoder, going_on
        if going_on.remote_tokens:
            self._sources[going_on] = _Source(handed.instance, handed.request, handed.handed_ns)

    def _pick(self, spec: RequestSpec) -> Instance | None:
        """Ask the router, if the run has two decode instances, which is to decode a request; None if none is active."""
        able = [d for d in self._serving(spec) if d.phase == "active" and d.engine.reject_reason(spec) is None]
        if not able or len(self._decoders) == 1:
            return able[0] if able else None
        return able[choose(self._router, spec, [self._load_of(d) for d in able], "the decode of request")]

    def place_held(self) -> None:
        """Queue the requests that are held wherever an instance has become active, in their order."""
        held, self._held = self._held, {}
        self._passed |= held
        for request_id in held:
            self._go_on(request_id)

    def num_held(self, model: str) -> int:
        """How many requests of a model wait for an active decode instance."""
        return sum(held.spec.model in (None, model) for held in self._held.values())

    def first_held(self, model: str) -> RequestSpec | None:
        """The one of these that waits longest."""
        return next((held.spec for held in self._held.values() if held.spec.model in (None, model)), None)

    def finished(self, request: FinishedRequest) -> None:
        """Let the decode router hear of a request that ended, if it learns."""
        del self._going_on[request.request_id]
        if self._tell_router is not None:
            self._tell_router(request)

    def called_off(self, request: Request) -> None:
        """A client gave up a request that is being prefilled; nothing of it is here yet."""

    def abort(self, request_id: int) -> Aborted:
        """Let go of a request on its way or on the decode side; its client gave up.

        Unless its KV is crossing, the prefill side forgets it at once, as with vLLM's NIXL connector, whose decode side
        says so. If it is, both sides keep their blocks until it has crossed.
        """
        handed = self._passed.pop(request_id, None) or self._held.pop(request_id, None)
        if handed is not None:
            handed.instance.engine.release(handed.request)
            handed.instance.wake()
            return Aborted(handed.instance, handed.request, handed.request.num_output_tokens)
        decoder, request = self._going_on.pop(request_id)
        num_tokens = decoder.engine.abort(request)
        decoder.wake()
        is_crossing = any(load.request is request for _, load, _ in self._under_way.values())
        if request in self._sources and not is_crossing:
            self._release(request)
        if self._tell_aborted is not None:
            self._tell_aborted(request_id, decoder.index)
        return Aborted(decoder, request, num_tokens)

    def before_batch(self, instance: Instance, after: Ticket) -> Ticket:
        """Start, one after another, the transfers that the batch just formed waits for; return the last ticket."""
        for load in instance.engine.take_loads():
            if load.num_tokens:
                after = self._submit(instance, load, self._backend.now_ns, after)
                self._chained.append(after)
            else:
                self._release(load.request)
        return after

    def begin(self, now_ns: int) -> Iterable[Ticket]:
        """Start every transfer whose blocks are taken on both sides."""
        tickets, self._chained = self._chained, []
        tickets += self._notices.begin()
        for decoder in self._decoders:
            for load in decoder.engine.take_loads():
                if load.num_tokens:
                    tickets.append(self._submit(decoder, load, now_ns))
                else:  # the decode side's prefix cache has it all
                    self._release(load.request)
        return tickets

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """Let the decode side go on and the prefill side forget."""
        if self._notices.complete(ticket):
            return ()
        decoder, load, start_ns = self._under_way.pop(ticket)
        source = self._release(load.request)
        if self.load_kv_async:
            decoder.engine.loaded(load.request)
            decoder.wake()
        self.records.append(
            TransferRecord(
                request_id=load.request.request_id,
                source=source.instance.index,
                target=decoder.index,
                num_tokens=load.num_tokens,
                num_bytes=load.num_tokens * self._bytes_per_token(source.instance, decoder),
                handed_ns=source.handed_ns,
                start_ns=start_ns,
                end_ns=now_ns,
            )
        )
        return ()

    def describe_waiting(self) -> list[str]:
        """Say whose KV is held; for the message of a deadlock."""
        lines = [f"instance {s.instance.index} holds the KV of {r!r}" for r, s in self._sources.items()]
        return lines + [f"{held.request!r} waits for a decode instance to start" for held in self._held.values()]

    def _bytes_per_token(self, source: Instance, decoder: Instance) -> int:
        return int(self._routes[source.index, decoder.index].bytes_per_token.sum()) // 2

    def _load_of(self, decoder: Instance) -> InstanceLoad:
        """What the router sees of a decode instance."""
        return decoder.load()

    def _serving(self, spec: RequestSpec) -> list[Instance]:
        return [d for d in self._decoders if spec.model is None or d.model == spec.model]

    def _submit(self, decoder: Instance, load: Load, now_ns: int, after: Ticket = -1) -> Ticket:
        ticket = self._send(self._sources[load.request].instance, decoder, load.num_tokens, after)
        self._under_way[ticket] = (decoder, load, now_ns)
        return ticket

    def _send(self, source: Instance, decoder: Instance, tokens: int, after: Ticket = -1) -> Ticket:
        """Let the KV of so many tokens cross."""
        route = self._routes[source.index, decoder.index]
        return self._backend.submit(route.graph, None, route.bytes_per_token * tokens, after)

    def _release(self, request: Request) -> _Source:
        source = self._sources.pop(request)
        source.instance.engine.release(source.request)
        source.instance.wake()
        return source

    def _register(self, shares: Sequence[KvShare]) -> _Route:
        """A message per share; a rank sends one after another and receives them all at once."""
        ranks = sorted({rank for share in shares for rank in (share.source, share.target)})
        classes = [(rank,) for rank in ranks]
        nodes = []
        for kind in (NodeType.COMM_SEND, NodeType.COMM_RECV):
            for tag, share in enumerate(shares):
                own, peer = share.source, share.target
                if kind is NodeType.COMM_RECV:
                    own, peer = peer, own
                name = f"kv.{share.source}->{share.target}"
                size = share.bytes_per_token
                nodes.append(Node(name, kind, ranks.index(own), size_bytes=size, peer=peer, tag=tag))
        graph = Graph.from_nodes(nodes, classes)
        return _Route(self._backend.register(graph), graph.size_bytes)
