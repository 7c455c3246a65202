"""A batch: who computes how many tokens in one iteration."""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple

from llmservingsim.serving.request import Request
from llmservingsim.shapes import BatchShape


class Scheduled(NamedTuple):
    """One request of a batch.

    Attributes:
        request: Who.
        num_tokens: New tokens that it computes.
        generation: Its number of preemptions at that time: a later one voids its cache, not its token.
        samples: Whether its last known token is computed, so that a new one comes out.
    """

    request: Request
    num_tokens: int
    generation: int
    samples: bool


class Batch:
    """One iteration of an engine.

    Args:
        index: Counts the iterations of the engine from 0.
        scheduled: The requests listed by name, in the scheduler's order.
        num_in_step: Members of the decode cohort, one token each, that the batch computes beside them.
        shape: What all of them amount to for a kernel.
        num_prompt_tokens: How many of the new tokens are prompt tokens, those computed again included.
    """

    __slots__ = ("index", "num_in_step", "num_prompt_tokens", "scheduled", "shape")

    def __init__(
        self, index: int, scheduled: list[Scheduled], num_in_step: int, shape: BatchShape, num_prompt_tokens: int
    ) -> None:
        self.index = index
        self.scheduled = scheduled
        self.num_in_step = num_in_step
        self.shape = shape
        self.num_prompt_tokens = num_prompt_tokens

    def release(self, member: Scheduled) -> None:
        """List a member of the cohort by name, at its place in the running list's order, which is that of admission."""
        self.num_in_step -= 1
        insort(self.scheduled, member, key=_admission)


def _admission(scheduled: Scheduled) -> int:
    return scheduled.request.admission
