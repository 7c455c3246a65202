"""Who submits graphs and handles their ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from llmservingsim.backend import Ticket
from llmservingsim.instance import Instance
from llmservingsim.serving import Outcome


class Owner(Protocol):
    """Whatever takes time in a run has an owner: an instance's iterations, a KV transfer.

    The loop carries tickets between owners and the clock and knows nothing else of them, so a new serving technique
    is a new owner.
    """

    def begin(self, now_ns: int) -> Iterable[Ticket]:
        """Submit every graph that can begin now, and return the tickets. Called whenever the clock has moved."""
        ...

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """A graph has ended; return the batches that ended with it."""
        ...

    def describe_waiting(self) -> list[str]:
        """Say of everything that is held what it waits for; for the message of a deadlock."""
        ...
