"""What one part of a run tells another, and how long that takes.

A notice is a graph of its own, so that it arrives when the clock says so: before anybody is asked for new work at that
instant. One that takes no time arrives at the instant at which it was sent.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmservingsim.backend import Backend, GraphId, Ticket
from llmservingsim.graph import Graph, Node, NodeType


class Notices:
    """Notices under way. Their owner returns the tickets of `begin` and gives them to `complete`.

    Args:
        backend: Times them.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._graph: GraphId | None = None
        self._waiting: list[tuple[Callable[[], None], int]] = []
        self._under_way: dict[Ticket, Callable[[], None]] = {}

    def send(self, deliver: Callable[[], None], delay_ns: int) -> None:
        """Deliver after a delay; at once if there is none, which only who handles the end of a ticket may ask for."""
        if delay_ns:
            self.post(deliver, delay_ns)
        else:
            deliver()

    def post(self, deliver: Callable[[], None], delay_ns: int = 0) -> None:
        """Deliver after a delay, at the earliest when the clock has been asked."""
        self._waiting.append((deliver, delay_ns))

    def begin(self) -> list[Ticket]:
        """Submit what was sent since the last call."""
        tickets: list[Ticket] = []
        if not self._waiting:
            return tickets
        for deliver, delay_ns in self._waiting:
            ticket = self._backend.submit(self._registered(), np.array([delay_ns], dtype=np.int64))
            self._under_way[ticket] = deliver
            tickets.append(ticket)
        self._waiting.clear()
        return tickets

    def complete(self, ticket: Ticket) -> bool:
        """Deliver the notice of a ticket; tell whether it is one."""
        deliver = self._under_way.pop(ticket, None)
        if deliver is not None:
            deliver()
        return deliver is not None

    def _registered(self) -> GraphId:
        if self._graph is None:
            self._graph = self._backend.register(Graph.from_nodes([Node("notice", NodeType.COMP)]))
        return self._graph
