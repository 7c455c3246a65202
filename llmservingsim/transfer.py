"""KV caches on their way from the instances that prefill to those that decode.

A transfer is a graph of its own: messages between the ranks of the two instances, over the network that everything
else uses. As vLLM's NIXL connector does it (vllm 0.19.0), the decode side pulls: a request that has been prefilled
queues there, takes its blocks when its turn comes, and only then its KV crosses; the prefill side keeps its blocks
until it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.backend import Backend, GraphId, Ticket
from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ConfigError
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.instance import Aborted, Instance
from llmservingsim.model import KvShare, ParallelLayout, kv_bytes_per_token_layer, kv_shares
from llmservingsim.serving import Outcome, RejectReason, Request, Router
from llmservingsim.serving.remote import Load, LoadingScheduler
from llmservingsim.serving.routing import FinishedRequest, choose
from llmservingsim.workload import RequestSpec


class TransferRecord(NamedTuple):
    """One KV cache that crossed.

    Attributes:
        request_id: Whose.
        source, target: Instances.
        num_tokens, num_bytes: How much.
        handed_ns: When the prefill side had its first token.
        start_ns, end_ns: When the transfer began and ended.
    """

    request_id: int
    source: int
    target: int
    num_tokens: int
    num_bytes: int
    handed_ns: int
    start_ns: int
    end_ns: int


class _Source(NamedTuple):
    """Where a request's KV lies until it has crossed."""

    instance: Instance
    request: Request
    handed_ns: int


class _Held(NamedTuple):
    """A request that no active instance can decode yet."""

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

    Attributes:
        records: Transfers that ended, in order of their end.
    """

    def __init__(
        self,
        backend: Backend,
        decoders: Sequence[Instance],
        shares: Mapping[tuple[int, int], Sequence[KvShare]],
        router: Router,
    ) -> None:
        self.records: list[TransferRecord] = []
        self._backend = backend
        self._decoders = tuple(decoders)
        self._router = router
        self._routes = {pair: self._register(pair_shares) for pair, pair_shares in shares.items()}
        self._going_on: dict[int, tuple[Instance, Request]] = {}
        self._sources: dict[Request, _Source] = {}
        self._held: dict[int, _Held] = {}  # by the request's id, in the order of hand-over
        self._under_way: dict[Ticket, tuple[Instance, Load, int]] = {}

    @property
    def members(self) -> Sequence[Instance]:
        """None: loads begin where decode instances have formed batches, so it is asked at every turn."""
        return ()

    def reject_reason(self, spec: RequestSpec) -> RejectReason | None:
        """Tell why no decode instance could ever serve a request, or None."""
        reasons = [decoder.engine.reject_reason(spec) for decoder in self._serving(spec)]
        return None if None in reasons else reasons[0]

    def hand_over(self, instance: Instance, spec: RequestSpec, request: Request, now_ns: int) -> None:
        """Queue a request that ``instance`` has prefilled at the decode instance that the router picks.

        It is held while no instance that can decode it is active.
        """
        able = [d for d in self._serving(spec) if d.phase == "active" and d.engine.reject_reason(spec) is None]
        if not able:
            self._held[spec.request_id] = _Held(instance, spec, request, now_ns)
            return
        position = 0
        if len(able) > 1:
            position = choose(self._router, spec, [d.load() for d in able], "the decode of request")
        going_on = able[position].engine.go_on(spec, request, instance.index)
        able[position].wake()
        self._going_on[spec.request_id] = able[position], going_on
        if going_on.remote_tokens:
            self._sources[going_on] = _Source(instance, request, now_ns)

    def place_held(self) -> None:
        """Queue the requests that are held wherever an instance has become active, in their order."""
        held, self._held = self._held, {}
        for one in held.values():
            self.hand_over(*one)

    def num_held(self, model: str) -> int:
        """How many requests of a model wait for an active decode instance."""
        return sum(held.spec.model in (None, model) for held in self._held.values())

    def finished(self, request: FinishedRequest) -> None:
        """Let the decode router hear of a request that ended, if it learns."""
        del self._going_on[request.request_id]
        if hasattr(self._router, "finished"):
            self._router.finished(request)

    def abort(self, request_id: int) -> Aborted:
        """Let go of a request on its way or on the decode side; its client gave up.

        Unless its KV is crossing, the prefill side forgets it at once, as with vLLM's NIXL connector, whose decode side
        says so. If it is, both sides keep their blocks until it has crossed.
        """
        held = self._held.pop(request_id, None)
        if held is not None:
            held.instance.engine.release(held.request)
            held.instance.wake()
            return Aborted(held.instance, held.request, held.request.num_tokens - held.request.num_prompt_tokens)
        decoder, request = self._going_on.pop(request_id)
        num_tokens = decoder.engine.abort(request)
        decoder.wake()
        is_crossing = any(load.request is request for _, load, _ in self._under_way.values())
        if request in self._sources and not is_crossing:
            self._release(request)
        if hasattr(self._router, "aborted"):
            self._router.aborted(request_id, decoder.index)
        return Aborted(decoder, request, num_tokens)

    def begin(self, now_ns: int) -> Iterable[Ticket]:
        """Start every transfer whose blocks are taken on both sides."""
        tickets = []
        for decoder in self._decoders:
            for load in decoder.engine.take_loads():
                if load.num_tokens:
                    tickets.append(self._submit(decoder, load, now_ns))
                else:  # the decode side's prefix cache has it all
                    self._release(load.request)
        return tickets

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """Let the decode side go on and the prefill side forget."""
        decoder, load, start_ns = self._under_way.pop(ticket)
        source = self._release(load.request)
        decoder.engine.loaded(load.request)
        decoder.wake()
        per_token = int(self._routes[source.instance.index, decoder.index].bytes_per_token.sum()) // 2
        self.records.append(
            TransferRecord(
                request_id=load.request.request_id,
                source=source.instance.index,
                target=decoder.index,
                num_tokens=load.num_tokens,
                num_bytes=load.num_tokens * per_token,
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

    def _serving(self, spec: RequestSpec) -> list[Instance]:
        return [d for d in self._decoders if spec.model is None or d.model == spec.model]

    def _submit(self, decoder: Instance, load: Load, now_ns: int) -> Ticket:
        route = self._routes[self._sources[load.request].instance.index, decoder.index]
        ticket = self._backend.submit(route.graph, None, route.bytes_per_token * load.num_tokens)
        self._under_way[ticket] = (decoder, load, now_ns)
        return ticket

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


class KvSide(NamedTuple):
    """What decides whether and how an instance takes part in KV transfers.

    Attributes:
        instance: The instance.
        model, layout, kv_cache_dtype: What it keeps, and where.
        role: ``kv_both``, ``kv_producer`` or ``kv_consumer``.
    """

    instance: Instance
    model: ModelSpec
    layout: ParallelLayout
    kv_cache_dtype: str
    role: str


def connect(
    sides: Sequence[KvSide], backend: Backend, make_router: Callable[[Sequence[Instance]], Router]
) -> KvTransfers | None:
    """Let the instances that prefill hand on to those that decode the same model; None if none prefills alone.

    Raises:
        ConfigError: If one side is missing, or the two keep their KV in different types.
    """
    producers = [side for side in sides if side.role == "kv_producer"]
    consumers = [side for side in sides if side.role == "kv_consumer"]
    _check_partners(producers, consumers)
    _check_partners(consumers, producers)
    for side in consumers:
        if not isinstance(side.instance.engine.scheduler, LoadingScheduler):
            name = type(side.instance.engine.scheduler).__name__
            raise ConfigError(
                f"instance {side.instance.index} is a kv_consumer, but its scheduler {name!r} has no methods "
                "'take_loads' and 'loaded', with which requests come whose KV is elsewhere"
            )
    if not producers:
        return None
    shares = {
        (source.instance.index, target.instance.index): _shares(source, target)
        for source in producers
        for target in consumers
        if source.model.name == target.model.name
    }
    decoders = [side.instance for side in consumers]
    transfers = KvTransfers(backend, decoders, shares, make_router(decoders))
    for side in producers:
        side.instance.successor, side.instance.role = transfers, "prefill"
    for side in consumers:
        side.instance.role = "decode"
    return transfers


def _check_partners(sides: Sequence[KvSide], others: Sequence[KvSide]) -> None:
    wanted = {"kv_producer": "kv_consumer", "kv_consumer": "kv_producer"}
    for side in sides:
        if not any(side.model.name == other.model.name for other in others):
            raise ConfigError(
                f"instance {side.instance.index} is a {side.role}, but no instance of {side.model.name} is a "
                f"{wanted[side.role]}"
            )


def _shares(source: KvSide, target: KvSide) -> list[KvShare]:
    """Who sends what to whom, by the ranks of the network."""
    kept = [kv_bytes_per_token_layer(side.model, 1, side.kv_cache_dtype) for side in (source, target)]
    if kept[0] != kept[1]:
        raise ConfigError(
            f"instances {source.instance.index} and {target.instance.index} keep their KV in different types "
            f"({source.kv_cache_dtype} and {target.kv_cache_dtype}); expected one kv_cache_dtype"
        )
    ranks = source.instance.ranks, target.instance.ranks
    return [
        KvShare(ranks[0][s.source], ranks[1][s.target], s.bytes_per_token)
        for s in kv_shares(source.model, source.layout, target.layout, source.kv_cache_dtype)
    ]
