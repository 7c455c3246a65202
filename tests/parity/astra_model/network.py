"""Messages: how long they take, who waits for whom, and which receive gets which send."""

from __future__ import annotations

from collections import Counter, deque

from astra_model.engine import AbortError, Action, Engine
from llmservingsim.backend.config import NetworkModel

HANDSHAKE_BYTES = 8192
HANDSHAKE_TAG = 1_000_000_000

Key = tuple[int, int, int, int]


class Unaware:
    """Messages never wait; only the lowest dimension in which two ranks differ is charged."""

    def __init__(self, model: NetworkModel, engine: Engine) -> None:
        self._model = model
        self._engine = engine
        self._rates = model.bandwidth_bytes_per_ns

    def carry(self, source: int, target: int, size: int, arrived: Action) -> None:
        """Move a message."""
        self._engine.at(self._engine.now + self.delay_ns(source, target, size), arrived)

    def delay_ns(self, source: int, target: int, size: int) -> int:
        """What a message takes."""
        for dim, n in enumerate(self._model.npus_count):
            a, b = source % n, target % n
            if a != b:
                hops = hop_count(self._model.topology[dim], n, a, b)
                return int(hops * self._model.latency_ns[dim] + float(size) / self._rates[dim])
            source, target = source // n, target // n
        raise AbortError("a message to itself")


def hop_count(topology: str, n: int, a: int, b: int) -> int:
    """Links between two places of a dimension."""
    if topology == "FullyConnected":
        return 1
    return 2 if topology == "Switch" else min((b - a) % n, (a - b) % n)


class Aware:
    """Every link carries one whole message at a time, store and forward; one dimension."""

    def __init__(self, model: NetworkModel, engine: Engine) -> None:
        if len(model.npus_count) != 1:
            raise AbortError("several dimensions")
        self._topology, self._n = model.topology[0], model.npus_count[0]
        if self._topology == "Ring" and self._n == 2:
            raise AbortError("a Ring of 2")
        self._engine = engine
        self._latency_ns, self._rate = model.latency_ns[0], model.bandwidth_bytes_per_ns[0]
        self._busy: set[tuple[int, int]] = set()
        self._waiting: dict[tuple[int, int], deque[tuple[list[int], int, Action]]] = {}

    def carry(self, source: int, target: int, size: int, arrived: Action) -> None:
        """Move a message."""
        self._offer(self._route(source, target), size, arrived)

    def _route(self, source: int, target: int) -> list[int]:
        if self._topology == "FullyConnected":
            return [source, target]
        if self._topology == "Switch":
            return [source, self._n, target]
        clockwise = (target - source) % self._n
        step = 1 if clockwise <= self._n - clockwise else -1
        route = [source]
        while route[-1] != target:
            route.append((route[-1] + step) % self._n)
        return route

    def _offer(self, route: list[int], size: int, arrived: Action) -> None:
        link = (route[0], route[1])
        if link in self._busy:
            self._waiting.setdefault(link, deque()).append((route, size, arrived))
        else:
            self._transmit(route, size, arrived)

    def _transmit(self, route: list[int], size: int, arrived: Action) -> None:
        link, rest = (route[0], route[1]), route[1:]
        self._busy.add(link)
        at_next = arrived if len(rest) == 1 else lambda: self._offer(rest, size, arrived)
        self._engine.at(self._engine.now + int(self._latency_ns + float(size) / self._rate), at_next)
        self._engine.at(self._engine.now + int(float(size) / self._rate), lambda: self._free(link))

    def _free(self, link: tuple[int, int]) -> None:
        self._busy.remove(link)
        if self._waiting.get(link):
            self._transmit(*self._waiting[link].popleft())


class Messages:
    """Matches the i-th send of a (tag, source, target, bytes) with the i-th receive of the same."""

    def __init__(self, model: NetworkModel, engine: Engine, rendezvous: bool) -> None:
        self._engine = engine
        self._network = (Aware if model.model == "aware" else Unaware)(model, engine)
        self._rendezvous = rendezvous
        self._sends: Counter[Key] = Counter()
        self._receives: Counter[Key] = Counter()
        self._posted: dict[tuple[Key, int], Action] = {}
        self._arrived: set[tuple[Key, int]] = set()

    def send(self, source: int, target: int, tag: int, size: int, sent: Action) -> None:
        """Send; with rendezvous the receiver's handshake must have come before."""
        if size == 0 or source == target:
            raise AbortError("an empty message, or one to itself")
        if not self._rendezvous:
            self._send((tag, source, target, size), sent)
            return
        handshake = (tag + HANDSHAKE_TAG, target, source, HANDSHAKE_BYTES)
        self._receive(handshake, lambda: self._send((tag, source, target, size), sent))

    def receive(self, source: int, target: int, tag: int, size: int, received: Action) -> None:
        """Post a receive; with rendezvous it is posted when its handshake has arrived."""
        if not self._rendezvous:
            self._receive((tag, source, target, size), received)
            return
        handshake = (tag + HANDSHAKE_TAG, target, source, HANDSHAKE_BYTES)
        self._send(handshake, lambda: self._receive((tag, source, target, size), received))

    def _send(self, key: Key, sent: Action) -> None:
        nth = (key, self._sends[key])
        self._sends[key] += 1
        _, source, target, size = key
        self._network.carry(source, target, size, lambda: self._arrive(nth, sent))

    def _receive(self, key: Key, received: Action) -> None:
        nth = (key, self._receives[key])
        self._receives[key] += 1
        if nth in self._arrived:
            self._arrived.remove(nth)
            self._engine.at(self._engine.now, received)
        else:
            self._posted[nth] = received

    def _arrive(self, nth: tuple[Key, int], sent: Action) -> None:
        received = self._posted.pop(nth, None)
        if received is None:
            self._arrived.add(nth)
        sent()
        if received is not None:
            received()
