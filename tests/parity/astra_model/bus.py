"""The shared bus between a rank and its network interface: two sides, one of them with a memory bus behind it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from astra_model.engine import Action, Engine
from llmservingsim.backend.config import SharedBusModel

PATIENCE = 8
INNER_NS_PER_BYTE = 0.0038


@dataclass(frozen=True)
class Transfer:
    """What is asked of a side: ``proc`` = to be reduced at the other side, ``back`` = to be returned from there."""

    size: int
    proc: bool
    back: bool
    handed_over: Action


class Side:
    """One end of a bus."""

    def __init__(self, engine: Engine, rank: int, model: SharedBusModel, ns_per_byte: float, reduction_ns: int) -> None:
        self._engine, self._rank, self._model = engine, rank, model
        self._ns_per_byte, self._reduction_ns = ns_per_byte, reduction_ns
        self.partner: Side
        self.inner: tuple[Side, Side] | None = None
        self._state = self._previous = "free"
        self._last_end = 0
        self._streak = 0
        self._sends: deque[Transfer] = deque()
        self._receives: deque[Transfer] = deque()
        self._processing: deque[Transfer] = deque()
        self._is_processing = False

    def request(self, transfer: Transfer) -> None:
        """Send something to the other side, out of the memory behind this side if there is one."""
        if self.inner:
            self.inner[1].request(Transfer(transfer.size, False, False, lambda: self._enter(transfer)))
        else:
            self._enter(transfer)

    def _enter(self, transfer: Transfer) -> None:
        self._sends.append(transfer)
        self._try_to_send()

    def _try_to_send(self) -> None:
        if self._state != "free" or not self._sends:
            return
        partner = self.partner
        if self._streak > PATIENCE and partner._sends and partner._streak <= PATIENCE:
            if partner._state == "free":
                partner._try_to_send()
            return
        self._send(self._sends.popleft())

    def _send(self, transfer: Transfer) -> None:
        offset, since = self._model.o, self._engine.now - self._last_end
        if self._previous == "sending" and self._model.o + since <= self._model.g:
            offset = self._model.g - since
        self._state = "sending"
        self.partner._begin_to_receive(transfer, offset)
        self._engine.after(self._rank, int(offset + self._ns_per_byte * (transfer.size - 1)), self._sent)

    def _begin_to_receive(self, transfer: Transfer, offset: int) -> None:
        self._receives.append(transfer)
        self._previous, self._state = self._state, "receiving"
        time_ns = int(offset + (transfer.size - 1) * self._ns_per_byte + self._model.L + self._model.o)
        self._engine.after(self._rank, time_ns, self._received)
        self._streak = 0

    def _sent(self) -> None:
        self._last_end = self._engine.now
        self._previous, self._state = self._state, "free"
        self._streak += 1
        self._try_to_send()

    def _received(self) -> None:
        self._last_end = self._engine.now
        self._previous = self._state
        if len(self._receives) < 2:
            self._state = "free"
        transfer = self._receives.popleft()
        if transfer.proc:
            self._through_memory(replace(transfer, proc=False), True, self._process)
        else:
            self._pass_on(transfer)
        self._try_to_send()

    def _through_memory(self, transfer: Transfer, back: bool, then: object) -> None:
        """Go through the memory behind this side, if there is one, and on."""
        assert callable(then)
        if self.inner:
            self.inner[0].request(Transfer(transfer.size, False, back, lambda: then(transfer)))
        else:
            then(transfer)

    def _pass_on(self, transfer: Transfer) -> None:
        if transfer.back:
            self._through_memory(replace(transfer, back=False), True, self._enter)
        else:
            self._through_memory(transfer, False, lambda t: t.handed_over())

    def _process(self, transfer: Transfer) -> None:
        self._processing.append(transfer)
        self._next_processing()

    def _next_processing(self) -> None:
        if not self._is_processing and self._processing:
            self._is_processing = True
            time_ns = self._processing[0].size // 100 * self._reduction_ns + 50
            self._engine.after(self._rank, time_ns, self._processed)

    def _processed(self) -> None:
        self._is_processing = False
        self._pass_on(self._processing.popleft())
        self._next_processing()
        self._try_to_send()


def build_bus(engine: Engine, rank: int, model: SharedBusModel, reduction_ns: int) -> tuple[Side, Side]:
    """Return the rank's side and the network's side."""

    def pair(ns_per_byte: float) -> tuple[Side, Side]:
        sides = tuple(Side(engine, rank, model, ns_per_byte, reduction_ns) for _ in range(2))
        sides[0].partner, sides[1].partner = sides[1], sides[0]
        return sides[0], sides[1]

    outer = pair(model.G)
    outer[0].inner = pair(INNER_NS_PER_BYTE)
    return outer
