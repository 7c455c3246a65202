"""Collective algorithms that a user writes in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from llmservingsim.backend.config import CollectiveName
from llmservingsim.backend.steps import Step
from llmservingsim.errors import ConfigError
from llmservingsim.graph import CollectiveType
from llmservingsim.plugins import make_plugin

COLLECTIVES: Mapping[CollectiveName, CollectiveType] = MappingProxyType(
    {
        "all_reduce": CollectiveType.ALL_REDUCE,
        "all_gather": CollectiveType.ALL_GATHER,
        "reduce_scatter": CollectiveType.REDUCE_SCATTER,
        "all_to_all": CollectiveType.ALL_TO_ALL,
    }
)
"""The collectives that move data by an algorithm."""


class CollectiveAlgorithm(Protocol):
    """Says what each rank does in a collective.

    Named as ``package.module:Class`` in an algorithm list of `SystemModel`; built without arguments. Asked once per
    chunk and rank, so a large collective of many ranks wants a built-in.
    """

    def steps(self, collective: CollectiveType, size_bytes: int, members: int, index: int) -> Sequence[Step]:
        """Return the steps of the rank at place ``index`` of ``members``.

        Args:
            collective: What is asked for; in several dimensions an all-reduce may be asked for its parts.
            size_bytes: The chunk as this rank holds it at the start: of an all-gather one share, else the whole.
            members: Places in the communicator.
            index: Whose steps.
        """
        ...


def author(name: str) -> Callable[[int, int, int, int], Sequence[Step]]:
    """Return the function that writes the programs of the user's algorithm ``name``.

    Raises:
        ConfigError: If it cannot be found or has no ``steps``; when called, if what that returns are no steps.
    """
    algorithm: CollectiveAlgorithm = make_plugin("collective algorithm", name, {}, (), ("steps",))

    def steps(collective: int, size_bytes: int, members: int, index: int) -> Sequence[Step]:
        made = algorithm.steps(CollectiveType(collective), size_bytes, members, index)
        for i, step in enumerate(made):
            if not isinstance(step, Step):
                raise ConfigError(f"{name}: step {i} is {step!r}; expected a llmservingsim.backend.Step")
        return made

    return steps
