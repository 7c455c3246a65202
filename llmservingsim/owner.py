"""Who submits graphs and handles their ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

from llmservingsim.backend import Ticket
from llmservingsim.instance import Instance
from llmservingsim.serving import Outcome


class Owner(Protocol):
    """Whatever takes time in a run has an owner: an instance's iterations, a KV transfer.

    The loop carries tickets between owners and the clock and knows nothing else of them, so a new serving technique
    is a new owner.
    """

    @property
    def members(self) -> Sequence[Instance]:
        """The instances whose batches it runs; none if it is asked at every turn."""
        ...

    def begin(self, now_ns: int) -> Iterable[Ticket]:
        """Submit every graph that can begin now, and return the tickets.

        Called after one of its tickets has ended or one of its members was woken (`Instance.wake`), and at the start.
        """
        ...

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """A graph has ended; return the batches that ended with it."""
        ...

    def describe_waiting(self) -> list[str]:
        """Say of everything that is held what it waits for; for the message of a deadlock."""
        ...


class PatientOwner(Owner, Protocol):
    """An owner whose work may turn out to be for nobody."""

    @property
    def is_needed(self) -> bool:
        """Whether anybody waits for its tickets; a run does not go on for others."""
        ...


def are_needed(owners: Iterable[Owner]) -> bool:
    """Whether the run has to wait for a ticket of one of these owners."""
    return any(getattr(owner, "is_needed", True) for owner in owners)


class Wakeful:
    """Which owners may have something to begin; the others are left alone, so that many idle instances cost nothing.

    Args:
        owners: Of the run; all are awake at first.
    """

    def __init__(self, owners: Sequence[Owner]) -> None:
        self._owners = owners
        self._always = [place for place, owner in enumerate(owners) if not owner.members]
        self._awake = set(range(len(owners)))
        self._place: dict[int, int] = {id(owner): place for place, owner in enumerate(owners)}
        for place, owner in enumerate(owners):
            for instance in owner.members:
                instance.wake = partial(self._awake.add, place)

    def wake(self, owner: Owner) -> None:
        """One of its tickets has ended."""
        self._awake.add(self._place[id(owner)])

    def take(self) -> Iterator[Owner]:
        """Return the owners that are awake, in their order; they sleep until they are woken again."""
        places = sorted(self._awake.union(self._always))
        self._awake.clear()
        return (self._owners[place] for place in places)
