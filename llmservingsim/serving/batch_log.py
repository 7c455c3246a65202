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
    """Of one engine; the common batch, in which everybody decodes in step, costs no more than a time.

    Attributes:
        ended_ns: When each batch had ended, by its index.
        begun, begun_ns: Batches that were formed with none in flight, and when.
        looked, free_blocks: Batches at whose ends the KV blocks were counted that nobody held, and how many, before
            anything was released: where somebody finished, and every 16th.
        num_first: Sequences that were given their first token.
        num_unsampled: Sequences in batches that gave them nothing.
        extra_tokens: Tokens that sequences computed beyond one each.
        chunks: ``request, batch, tokens`` of what was not one token behind a prompt that came out, one after another;
            drafts do not count as tokens here.
    """

    __slots__ = (
        "begun",
        "begun_ns",
        "chunks",
        "ended_ns",
        "extra_tokens",
        "free_blocks",
        "looked",
        "num_first",
        "num_unsampled",
    )

    def __init__(self) -> None:
        self.ended_ns = array("q")
        self.begun, self.begun_ns = array("q"), array("q")
        self.looked, self.free_blocks = array("q"), array("q")
        self.chunks = array("q")
        self.num_first = self.num_unsampled = self.extra_tokens = 0

    def busy_begins(self, index: int, now_ns: int) -> None:
        """A batch was formed while none was in flight."""
        self.begun.append(index)
        self.begun_ns.append(now_ns)

    def look(self, index: int, free_blocks: int) -> None:
        """A batch ends that may tell something new."""
        self.looked.append(index)
        self.free_blocks.append(free_blocks)
