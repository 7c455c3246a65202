"""Which experts the tokens of an iteration go to: the contract."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ExpertGeometry:
    """What a router is built from.

    Attributes:
        layers: Indices of the blocks that route tokens to experts, rising.
        num_experts: Experts of such a block.
        experts_per_token: Distinct experts that a token visits.
        seed: For policies that draw.
    """

    layers: tuple[int, ...]
    num_experts: int
    experts_per_token: int
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """``(layers, experts)``."""
        return len(self.layers), self.num_experts


class ExpertSplit(NamedTuple):
    """Where the tokens of one iteration go.

    Attributes:
        pairs: (token, expert) pairs of every expert, shape ``[layers, experts]``; each row sums to tokens *
            experts_per_token, and no expert has more than one pair per token.
        is_expectation: The pairs are means over tokens that choose independently of each other, not counts. Such a
            split must depend on the number of tokens alone; it is asked for once per number.
    """

    pairs: NDArray[np.int64] | Floats
    is_expectation: bool = False

    def activated(self, tokens: int, copies: Floats) -> Floats:
        """Return how likely each copy of an expert gets a token, shape ``[layers, experts]``.

        A token that visits an expert takes one of its ``copies`` (shape ``[layers or 1, experts]``) at random.
        """
        if self.is_expectation:
            share = self.pairs / np.maximum(1, tokens * copies)
            return np.asarray(1.0 - (1.0 - np.minimum(1.0, share)) ** tokens)
        if (copies == 1).all():
            return np.asarray(self.pairs > 0, dtype=np.float64)
        return np.asarray(1.0 - (1.0 - 1.0 / copies) ** self.pairs)


class ExpertRouter(Protocol):
    """Stands for the gates of a model: splits the tokens of each iteration over the experts of every layer.

    Built from an `ExpertGeometry` and the options in the run file. Where experts have redundant copies it also needs
    ``shares()``: how popular the experts are in the long run, shape ``[layers, experts]``, in any unit.
    """

    def split(self, tokens: int) -> ExpertSplit:
        """Split an iteration of ``tokens`` tokens, padding included; called once per iteration, in order."""
        ...
