"""What an engine keeps of its batches and of who got a token from which, so that every token's time is known later.

A request does not keep times. It keeps the indices of the batches that gave it something, as arithmetic progressions
``first, last, step``: a request that decodes undisturbed has one of them, however many tokens it gets.
"""

from __future__ import annotations

from array import array
from typing import TypeAlias

Runs: TypeAlias = "array[int]"
"""Batches by index, rising: ``first, last, step`` of each run, one after another; the step of a single batch is 0."""


def note_batch(runs: Runs, index: int) -> None:
    """Add a batch later than all before."""
    if runs:
        step = index - runs[-2]
        if step == runs[-1] or not runs[-1]:
            runs[-2], runs[-1] = index, step
            return
    runs.extend((index, index, 0))


def note_batches(runs: Runs, first: int, last: int) -> None:
    """Add neighbouring batches, later than all before."""
    if runs and first == runs[-2] + 1 and runs[-1] <= 1:
        runs[-2], runs[-1] = last, 1
    else:
        runs.extend((first, last, int(last > first)))


class BatchLog:
    """Of one engine.

    The engine writes here itself, several numbers per batch: a call for each would cost more than all the rest.

    Attributes:
        ended_ns: When each batch had ended, by its index.
        free_blocks: KV blocks that nobody held when each had ended, before anything was released.
        begun_ns: When a batch was formed with none in flight.
        begun: Index of that batch.
        num_sequences, num_tokens: Summed over batches that ended.
    """

    __slots__ = ("begun", "begun_ns", "ended_ns", "free_blocks", "num_sequences", "num_tokens")

    def __init__(self) -> None:
        self.ended_ns = array("q")
        self.free_blocks = array("q")
        self.begun_ns = array("q")
        self.begun = array("q")
        self.num_sequences = 0
        self.num_tokens = 0

    def busy_begins(self, index: int, now_ns: int) -> None:
        """A batch was formed while none was in flight."""
        self.begun.append(index)
        self.begun_ns.append(now_ns)
