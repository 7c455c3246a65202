"""What a rank does in one phase of a stream: ring, direct and halving-doubling as prepared messages, and trees."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from astra_model.engine import AbortError, Action
from astra_model.plan import A2A, AG, AR, RS, Ring
from llmservingsim.graph import CollectiveType


class Delay(NamedTuple):
    """A local delay: bytes, whether they are reduced, and what the shared bus needs to know."""

    size: int
    is_reducing: bool
    is_cycle_start: bool
    back: bool


class Port(Protocol):
    """What a phase needs of its rank."""

    def pay(self, delay: Delay, is_group: bool, then: Action) -> None: ...
    def send(self, peer: int, tag: int, size: int) -> None: ...
    def receive(self, peer: int, tag: int, size: int, then: Action) -> None: ...


@dataclass(frozen=True)
class Phase:
    """A phase of a stream on one rank.

    Attributes:
        kind: What it does.
        ring: Where.
        rank: Whose.
        size: Bytes at its start.
        direction: 1 clockwise, -1 anticlockwise.
        tag: Of its messages.
        is_max: Trees: which of the two.
    """

    kind: CollectiveType
    ring: Ring
    rank: int
    size: int
    direction: int
    tag: int
    is_max: bool

    def start(self, port: Port, ended: Action) -> None:
        """Take the first step."""
        if self.ring.algorithm == "doublebinarytree":
            TreeWork(self, port, ended).start()
        else:
            {"ring": RingWork, "direct": DirectWork, "halvingdoubling": HalvingWork}[self.ring.algorithm](
                self, port, ended
            ).start()


class Prepared(NamedTuple):
    """A message that waits for a tick."""

    to: int
    source: int
    size: int


class Work:
    """Prepared messages, ticks and credit; subclasses say who, how much and what is reduced."""

    window: int
    to_send: int
    cycle: int

    def __init__(self, phase: Phase, port: Port, ended: Action) -> None:
        self.phase, self.port, self._ended = phase, port, ended
        self.n = len(phase.ring.members)
        self.me = phase.ring.members.index(phase.rank)
        self.got = 0
        self.credit = 0
        self._prepared = 0
        self._fifo: deque[Prepared] = deque()
        self.set_up()

    def set_up(self) -> None:
        """Set window, to_send and cycle."""
        raise NotImplementedError

    def next_message(self) -> Prepared:
        """Return the message to prepare, and go on to the one after."""
        raise NotImplementedError

    def reduces(self, cycle: int) -> bool:
        """Whether marked preparations of the ``cycle``-th cycle, from 0, reduce."""
        return self.phase.kind == RS or (self.phase.kind == AR and cycle % 2 == 0)

    def member(self, steps: int) -> int:
        """Rank so many steps clockwise."""
        return self.phase.ring.members[(self.me + steps) % self.n]

    def start(self) -> None:
        for _ in range(self.window):
            self._prepare()

    def _prepare(self) -> None:
        cycle, position = divmod(self._prepared, self.cycle)
        self._prepared += 1
        message = self.next_message()
        self._fifo.append(message)
        is_marked = position >= self.window
        back = is_marked and position < self.cycle - self.window
        delay = Delay(message.size, is_marked and self.reduces(cycle), not is_marked, back)
        self.port.pay(delay, self.phase.ring.is_group, self.tick)

    def tick(self) -> None:
        self.credit += 1
        self.try_to_send()
        self.end_test()

    def end_test(self) -> None:
        if self.to_send == 0 and self.credit == self.window:
            self._ended()

    def try_to_send(self) -> None:
        if self._fifo and self.to_send > 0 and self.credit > 0:
            message = self._fifo.popleft()
            self.port.send(message.to, self.phase.tag, message.size)
            self.port.receive(message.source, self.phase.tag, message.size, self._received)
            self.to_send -= 1
            self.credit -= 1

    def _received(self) -> None:
        self.got += 1
        self._prepare()


class RingWork(Work):
    def set_up(self) -> None:
        n = self.n
        self.window, self.cycle = 1, n
        self.to_send = {AR: 2 * (n - 1), RS: n - 1, AG: n - 1, A2A: n * (n - 1) // 2}[self.phase.kind]

    def next_message(self) -> Prepared:
        d = self.phase.direction
        return Prepared(self.member(d), self.member(-d), block_size(self.phase, self.n))


class DirectWork(Work):
    def set_up(self) -> None:
        n, window = self.n, self.phase.ring.window
        self.window = n - 1 if window is None else min(window, n - 1)
        self.cycle = self.window * (n if self.phase.ring.is_group else 2)
        self.to_send = (2 if self.phase.kind == AR else 1) * (n - 1)
        self._steps = 1

    def next_message(self) -> Prepared:
        away = self.phase.direction * self._steps
        self._steps = self._steps % (self.n - 1) + 1
        return Prepared(self.member(away), self.member(-away), block_size(self.phase, self.n))

    def tick(self) -> None:
        if self.phase.kind != AR or self.to_send > self.n - 1:
            super().tick()
            return
        self.credit += 1
        if self.got >= self.n - 1:
            for _ in range(self.window):
                self.try_to_send()
            self.end_test()


class HalvingWork(Work):
    def set_up(self) -> None:
        if self.phase.kind == A2A:
            raise AbortError("all-to-all by halving-doubling")
        k = self.n.bit_length() - 1
        self.window, self.cycle = 1, k
        self.to_send = 2 * k if self.phase.kind == AR else k
        self._grows = self.phase.kind == AG
        self._away = self.n // 2 if self._grows else 1
        self._size = self.phase.size if self._grows else self.phase.size // 2

    def next_message(self) -> Prepared:
        away, size = self._away, self._size
        self._update()
        if self._away == self.n and self.phase.kind == AR:
            self._grows = True
            self._update()
        if away == 0:  # prepared for the last message received, never sent
            return Prepared(-1, -1, size)
        peer = self.member(away if self.me // away % 2 == 0 else -away)
        return Prepared(peer, peer, size)

    def _update(self) -> None:
        self._away = self._away // 2 if self._grows else self._away * 2
        self._size = self._size * 2 if self._grows else self._size // 2


def block_size(phase: Phase, n: int) -> int:
    """Bytes of a message of ring and direct."""
    return phase.size if phase.kind == AG else phase.size // n


class Place(NamedTuple):
    """Of a rank in a tree: the ranks above and below."""

    parent: int | None
    children: list[int]


def tree(members: tuple[int, ...], is_max: bool) -> dict[int, Place]:
    """Return the places of all ranks: a root with one perfect binary subtree, labelled in order."""
    if len(members) & (len(members) - 1):
        raise AbortError("a tree of ranks that are no power of two")
    root, below = (members[-1], members[:-1]) if is_max else (members[0], members[1:])
    places = {root: Place(None, [below[len(below) // 2]])}

    def put(ranks: tuple[int, ...], parent: int) -> None:
        middle = len(ranks) // 2
        halves = [h for h in (ranks[:middle], ranks[middle + 1 :]) if h]
        places[ranks[middle]] = Place(parent, [h[len(h) // 2] for h in halves])
        for half in halves:
            put(half, ranks[middle])

    put(below, root)
    return places


class TreeWork:
    """Reduces up a tree and broadcasts down; always the whole chunk."""

    def __init__(self, phase: Phase, port: Port, ended: Action) -> None:
        if phase.ring.is_group:
            raise AbortError("a tree in a group")
        self._phase, self._port, self._ended = phase, port, ended
        self._place = tree(phase.ring.members, phase.is_max)[phase.rank]
        self._received_up = 0
        self._waited_up = 0

    def start(self) -> None:
        children = self._place.children
        if not children:
            self._wait(self._leaf_sends, is_reducing=False, is_cycle_start=True)
        elif self._place.parent is None:
            self._receive(children[0], lambda: self._wait(self._end_downward, back=True))
        else:
            for child in children:
                self._receive(child, self._from_child)

    def _wait(
        self, then: Action, *, is_reducing: bool = True, is_cycle_start: bool = False, back: bool = False
    ) -> None:
        self._port.pay(Delay(self._phase.size, is_reducing, is_cycle_start, back), False, then)

    def _send(self, peer: int) -> None:
        self._port.send(peer, self._phase.tag, self._phase.size)

    def _receive(self, peer: int, then: Action) -> None:
        self._port.receive(peer, self._phase.tag, self._phase.size, then)

    def _to_parent(self, then: Callable[[], None]) -> None:
        assert self._place.parent is not None
        self._send(self._place.parent)
        self._receive(self._place.parent, then)

    def _leaf_sends(self) -> None:
        self._to_parent(lambda: self._wait(self._ended, is_reducing=False))

    def _from_child(self) -> None:
        self._received_up += 1
        self._wait(self._child_done, back=self._received_up == 2)

    def _child_done(self) -> None:
        self._waited_up += 1
        if self._waited_up == 2:
            self._to_parent(lambda: self._wait(self._end_downward, back=True))

    def _end_downward(self) -> None:
        for child in self._place.children:
            self._send(child)
        self._ended()
