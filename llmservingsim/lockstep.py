"""Data-parallel instances that share their experts and therefore run in lock step.

As vLLM's data-parallel engine cores for mixtures of experts (vllm 0.19.0, v1/engine/core.py): every member runs every
round, because each layer gathers the tokens of all of them; one that has nothing to compute runs a dummy batch of one
token. vLLM lets idle members go on with dummies for up to 32 steps before the group pauses; here a group without work
pauses at once, which changes nothing but those empty rounds.

With pipeline stages a round moves as one: the ranks of stage s of all members compute it together, then each member
sends its hidden states to its own next stage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from llmservingsim.backend import Backend, Ticket
from llmservingsim.config import InstanceSpec
from llmservingsim.errors import ConfigError
from llmservingsim.instance import Instance
from llmservingsim.serving import Outcome
from llmservingsim.stages import OneStage, Round, Stages
from llmservingsim.trace import GraphBuilder


class DataParallelGroup:
    """Owner of the rounds of instances that share their experts.

    Args:
        members: The instances, in the order of the builders' members.
        builders: Build graphs of all members together, one per pipeline stage.
        backend: Times them.

    Attributes:
        num_rounds, num_dummies: Rounds begun, and dummy batches in them.
    """

    def __init__(self, members: Sequence[Instance], builders: Sequence[GraphBuilder], backend: Backend) -> None:
        self.members = tuple(members)
        self.num_rounds = 0
        self.num_dummies = 0
        self._depth = members[0].engine.depth
        self._in_flight: deque[Round] = deque()
        several = len(builders) > 1
        self._stages = Stages(members, builders, backend) if several else OneStage(members, builders[0], backend)

    def begin(self, now_ns: int) -> Iterable[Ticket]:
        """Form every round that can be formed now, as many as an engine has batches in flight; submit what can begin.

        Raises:
            SimulationError: If a latency is negative or larger than the backend can count.
        """
        while len(self._in_flight) < self._depth:
            batches = tuple(member.engine.next_batch(now_ns) for member in self.members)
            if not any(batches):
                break
            formed = Round.of(self.num_rounds, *batches)
            for member, batch in zip(self.members, batches, strict=True):
                if batch is not None and member.follower is not None:
                    member.follower.formed(member, batch)
            self._stages.enter(formed)
            self._in_flight.append(formed)
            self.num_rounds += 1
            self.num_dummies += batches.count(None)
        return self._stages.begin(now_ns)

    def complete(self, ticket: Ticket, now_ns: int) -> Iterable[tuple[Instance, Outcome]]:
        """Apply the oldest round in flight, if it has just left the last stage."""
        ended: list[tuple[Instance, Outcome]] = []
        if self._stages.complete(ticket, now_ns):
            for member, batch in zip(self.members, self._in_flight.popleft().batches, strict=True):
                if batch is not None:
                    ended += member.apply(now_ns)
        return ended

    def describe_waiting(self) -> list[str]:
        """Say of each held request what it waits for; for the message of a deadlock."""
        return [line for member in self.members for line in member.describe_waiting()]


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
