"""What the loop needs from whatever times its graphs."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmservingsim.graph import Graph

GraphId = int
Ticket = int


class Backend(Protocol):
    """The clock, and everything that takes time.

    A graph's topology is registered once; each submission refills durations and sizes. A submission may hold several
    *steps*, executions of the same graph one after another with different values, that can be cut at a step boundary.

    A step that follows another step or another ticket begins when the clock leaves the instant at which that one ended:
    what happens at that instant may still cut it. Two tickets on one rank do not compete for its slots; they share
    links and memories alone.
    """

    @property
    def now_ns(self) -> int:
        """Simulated time in nanoseconds; never falls."""
        ...

    def register(self, graph: Graph) -> GraphId:
        """Check a graph and keep its topology. Raises ValueError on an inconsistent one."""
        ...

    def submit(
        self,
        graph: GraphId,
        durations_ns: NDArray[np.int64] | None = None,
        sizes_bytes: NDArray[np.int64] | None = None,
        after: Ticket = -1,
    ) -> Ticket:
        """Start a registered graph now, or when ticket ``after`` completes.

        Args:
            graph: What `register` returned.
            durations_ns: Shape ``[nodes]`` or ``[steps, nodes]``; None keeps the registered values.
            sizes_bytes: Same shapes as ``durations_ns``.
            after: A ticket that must complete first; -1, or one that completed or was forgotten by `cut`, means now.

        Raises:
            ValueError: If the values cannot run or ``after`` was never issued; the backend is then as before.
        """
        ...

    def advance(self, until_ns: int) -> list[Ticket]:
        """Move the clock to the next completion, at most to ``until_ns``.

        Returns every ticket that completes at the instant reached, in order of submission; an empty list if
        ``until_ns`` came first.

        Raises:
            DeadlockError: If nothing is left to happen and a submitted graph has not completed. Later submissions could
                not help it: graphs exchange no messages with each other.
            ValueError: If ``until_ns`` is past.
        """
        ...

    def step_ends_ns(self, ticket: Ticket) -> NDArray[np.int64]:
        """End times of the steps of ``ticket`` that have ended so far.

        Known until the `advance` after the one that returned the ticket; raises ValueError later.
        """
        ...

    def cut(self, ticket: Ticket) -> int:
        """Drop the steps of ``ticket`` that have not begun; return how many remain (begun or ended).

        A ticket of which none has begun is forgotten: it never completes, and what follows it follows its predecessor.
        """
        ...
