"""A batch: who computes how many tokens in one iteration."""

from __future__ import annotations

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


class Batch(NamedTuple):
    """One iteration of an engine.

    Attributes:
        index: Counts the iterations of the engine from 0.
        scheduled: The requests, in the scheduler's order.
        shape: What they amount to for a kernel.
    """

    index: int
    scheduled: tuple[Scheduled, ...]
    shape: BatchShape
