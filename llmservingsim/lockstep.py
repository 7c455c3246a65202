"""Data-parallel instances that share their experts and therefore run in lock step.

As vLLM's data-parallel engine cores for mixtures of experts (vllm 0.19.0, v1/engine/core.py): every member runs every
round, because each layer gathers the tokens of all of them; one that has nothing to compute runs a dummy batch of one
token. vLLM lets idle members go on with dummies for up to 32 steps before the group pauses; here a group without work
pauses at once, which changes nothing but those empty rounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from llmservingsim.backend import Backend, Ticket
from llmservingsim.config import InstanceSpec
from llmservingsim.errors import ConfigError, SimulationError
from llmservingsim.instance import Instance, StageWork
from llmservingsim.serving import Outcome
from llmservingsim.serving.batch import Batch
from llmservingsim.shapes import BatchShape
from llmservingsim.trace import IterationBuilder

DUMMY = BatchShape(prefills=(), num_decodes=1, decode_kv_tokens=1, max_decode_kv_tokens=1, num_tokens=1)
"""The batch of a member that has nothing to compute."""

Round = tuple[Batch | None, ...]
"""A batch per member; None is a dummy."""


class DataParallelGroup:
    """Owner of the rounds of instances that share their experts.

    Args:
        members: The instances, in the order of the builder's members.
        builder: Builds graphs of all members together.
        backend: Times them.

    Attributes:
        num_rounds, num_dummies: Rounds begun, and dummy batches in them.
    """

    def __init__(self, members: Sequence[Instance], builder: IterationBuilder, backend: Backend) -> None:
        self.members = tuple(members)
        self.num_rounds = 0
        self.num_dummies = 0
        self._builder = builder
        self._backend = backend
        self._graph = backend.register(builder.template)
        self._depth = members[0].engine.depth
        self._in_flight: deque[Round] = deque()
        self._last: Ticket = -1
        self._nodes_of_member = [self._nodes_of(member) for member in members]

    def begin(self, now_ns: int) -> Iterable[Ticket]:
        """Submit every round that can begin now: as many as an engine has batches in flight.

        Raises:
            SimulationError: If a latency is negative or larger than the backend can count.
        """
        tickets = []
        while len(self._in_flight) < self._depth:
            batches = tuple(member.engine.next_batch(now_ns) for member in self.members)
            if not any(batches):
                break
            after = self._last
            tickets.append(self._submit(batches))
            self._in_flight.append(batches)
            self._tell_followers(batches, after, now_ns)
        return tickets

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """Apply the oldest round in flight, which has just ended."""
        ended: list[tuple[Instance, Outcome]] = []
        for member, batch in zip(self.members, self._in_flight.popleft(), strict=True):
            if batch is not None:
                ended += member.complete(ticket, now_ns)
            elif member.follower is not None:
                member.follower.ended(member, 0, now_ns)
        return ended

    def describe_waiting(self) -> list[str]:
        """Say of each held request what it waits for; for the message of a deadlock."""
        return [line for member in self.members for line in member.describe_waiting()]

    def _tell_followers(self, batches: Round, after: Ticket, now_ns: int) -> None:
        for member, batch in zip(self.members, batches, strict=True):
            if member.follower is None:
                continue
            if batch is not None:
                member.follower.formed(member, batch)
            member.follower.submitted(member, StageWork(batch, 0, self._builder, _shapes(batches), after), now_ns)

    def _submit(self, batches: Round) -> Ticket:
        shapes = _shapes(batches)
        try:
            durations, sizes = self._builder.durations_ns(shapes), self._builder.sizes_bytes(shapes)
            self._last = self._backend.submit(self._graph, durations, sizes, self._last)
        except (ValueError, OverflowError) as error:  # a latency that no clock can count
            raise SimulationError(f"instances {[m.index for m in self.members]}: {error}") from error
        if sizes is not None:
            for member, nodes in zip(self.members, self._nodes_of_member, strict=True):
                member.collective_bytes += int(sizes[nodes].sum())
        self.num_rounds += 1
        self.num_dummies += batches.count(None)
        return self._last

    def _nodes_of(self, member: Instance) -> np.ndarray:
        """Nodes that the member's first rank executes."""
        template = self._builder.template
        (own,) = (c for c, ranks in enumerate(template.rank_classes) if member.ranks[0] in ranks)
        return np.flatnonzero(template.rank_class == own)


def _shapes(batches: Round) -> list[BatchShape]:
    return [batch.shape if batch is not None else DUMMY for batch in batches]


def find_groups(instances: Sequence[tuple[str, InstanceSpec]]) -> list[tuple[int, ...]]:
    """Return for each instance, given as (key path, spec), the positions of all members of its group, itself included.

    Raises:
        ConfigError: If members of a group are not alike.
    """
    groups: list[tuple[int, ...]] = []
    for position, (path, spec) in enumerate(instances):
        name = spec.data_parallel_group
        group = tuple(i for i, (_, other) in enumerate(instances) if other.data_parallel_group == name)
        groups.append(group if name else (position,))
        first_path, first = instances[groups[-1][0]]
        for key in spec.__struct_fields__:
            if getattr(spec, key) != getattr(first, key):
                raise ConfigError(
                    f"{path}: {key}: members of the data-parallel group {name!r} must be alike; expected "
                    f"{getattr(first, key)!r}, as {first_path} has it, got {getattr(spec, key)!r}"
                )
    return groups
