"""Which drafts of speculative decoding the model accepts, and the count of them.

The engine plays the model, so it must say which drafts are accepted. An `AcceptancePolicy` decides, with random numbers
that depend on the run's seed, the instance, the request and the count of its verifications alone: not on what else is
in the batch, nor on when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from numbers import Integral
from typing import Any, NamedTuple, Protocol

from llmservingsim.errors import PluginError

_MASK = 2**64 - 1
_NEXT_NUMBER, _NEXT_STEP = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03
"""Odd, so that each walks through all 2**64 states; far apart, so that their walks do not meet."""


def _mixed(value: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): any change of the input changes half the bits."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


class Verification(NamedTuple):
    """Drafts of one request that one iteration verifies.

    Attributes:
        request_id: Whose.
        step: Counts the verifications of the request, from 0.
        num_prompt_tokens: Length of its prompt.
        num_tokens: Prompt and verified tokens; the first draft stands at this position plus one.
        num_drafts: How many.
        seed: Of this verification.
    """

    request_id: int
    step: int
    num_prompt_tokens: int
    num_tokens: int
    num_drafts: int
    seed: int

    def uniform(self, i: int) -> float:
        """Return the verification's ``i``-th random number, in [0, 1); always the same one."""
        return (_mixed((self.seed + (i + 1) * _NEXT_NUMBER) & _MASK) >> 11) * 2.0**-53


class AcceptancePolicy(Protocol):
    """Decides how many drafts the model accepts. It does not see how long the answer will be."""

    def num_accepted(self, verification: Verification) -> int:
        """Return how many drafts are accepted, the first ones, from 0 to ``verification.num_drafts``."""
        ...


class SpeculationCounts:
    """What vLLM counts of drafts (vllm 0.19.0, v1/spec_decode/metrics.py).

    Args:
        num_speculative_tokens: Most drafts of a verification.

    Attributes:
        num_drafts: Verifications.
        num_draft_tokens, num_accepted_tokens: In all of them; also drafts behind the end of an answer, which are
            accepted and then dropped.
        num_accepted_per_position: How often the first, the second ... draft was accepted.
    """

    def __init__(self, num_speculative_tokens: int) -> None:
        self.num_drafts = 0
        self.num_draft_tokens = 0
        self.num_accepted_tokens = 0
        self.num_accepted_per_position = [0] * num_speculative_tokens

    def add(self, num_drafts: int, num_accepted: int) -> None:
        """Count a verification."""
        self.num_drafts += 1
        self.num_draft_tokens += num_drafts
        self.num_accepted_tokens += num_accepted
        for position in range(num_accepted):
            self.num_accepted_per_position[position] += 1

    @classmethod
    def total(cls, parts: Sequence[SpeculationCounts]) -> SpeculationCounts:
        """Add counts up."""
        positions = [part.num_accepted_per_position for part in parts]
        found = cls(max(map(len, positions), default=0))
        for part in parts:
            found.num_drafts += part.num_drafts
            found.num_draft_tokens += part.num_draft_tokens
            found.num_accepted_tokens += part.num_accepted_tokens
        found.num_accepted_per_position = [sum(column) for column in zip_longest(*positions, fillvalue=0)]
        return found

    def summary(self) -> dict[str, Any]:
        """Return the counts, and the ratios that vLLM logs; these are null before the first verification."""
        times = self.num_drafts
        return {
            "num_drafts": times,
            "num_draft_tokens": self.num_draft_tokens,
            "num_accepted_tokens": self.num_accepted_tokens,
            "acceptance_rate": self.num_accepted_tokens / self.num_draft_tokens if times else None,
            "mean_acceptance_length": 1 + self.num_accepted_tokens / times if times else None,
            "acceptance_per_position": [n / times for n in self.num_accepted_per_position] if times else None,
        }


class Speculation:
    """The speculative decoding of one instance.

    Args:
        num_speculative_tokens: Drafts per verification.
        policy: Decides how many of them are accepted.
        seed: Of the instance.

    Attributes:
        counts: What was drafted and accepted so far.
    """

    def __init__(self, num_speculative_tokens: int, policy: AcceptancePolicy, seed: int) -> None:
        self.num_speculative_tokens = num_speculative_tokens
        self.counts = SpeculationCounts(num_speculative_tokens)
        self._policy = policy
        self._seed = _mixed(seed & _MASK)
        self._next: dict[int, tuple[int, int]] = {}  # step and seed of each request's next verification

    def verify(self, request_id: int, num_prompt_tokens: int, num_tokens: int, num_drafts: int) -> int:
        """Return how many drafts of a request the model accepts in the iteration that is being formed.

        Raises:
            PluginError: If the policy answers anything but a number from 0 to ``num_drafts``.
        """
        step, seed = self._next.get(request_id) or (0, _mixed((self._seed + request_id) & _MASK))
        self._next[request_id] = step + 1, (seed + _NEXT_STEP) & _MASK
        drafts = Verification(request_id, step, num_prompt_tokens, num_tokens, num_drafts, seed)
        accepted = self._policy.num_accepted(drafts)
        if not (isinstance(accepted, Integral) and 0 <= accepted <= num_drafts):
            raise PluginError(
                f"acceptance policy {type(self._policy).__name__!r}: expected a whole number from 0 to {num_drafts} "
                f"as accepted drafts of request {request_id}, got {accepted!r}"
            )
        return int(accepted)

    def forget(self, request_id: int) -> None:
        """A request has ended."""
        self._next.pop(request_id, None)
