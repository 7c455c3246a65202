"""What a scheduler is told, and what it has to answer."""

from __future__ import annotations

from collections.abc import Callable, Container
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import msgspec

from llmservingsim.errors import PluginError
from llmservingsim.serving.cohort import DecodeCohort
from llmservingsim.serving.request import Request


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a scheduler is told; names as in vLLM.

    Attributes:
        max_num_seqs: Most requests in the running list.
        max_num_batched_tokens: Token budget of an iteration.
        max_model_len: Longest sequence.
        long_prefill_token_threshold: Longest prompt chunk, 0 for no limit.
        enable_chunked_prefill: Whether a prompt may be split over iterations.
        scheduler_reserve_full_isl: Admit only what fits with its whole current sequence.
        policy: ``fcfs`` or ``priority``.
        one_batch_per_request: A request whose token a batch in flight samples is in no other, as under pipeline
            parallelism.
        num_lookahead_tokens: Tokens behind its own for which a running request holds blocks, because a drafter writes
            their keys and values.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    long_prefill_token_threshold: int = 0
    enable_chunked_prefill: bool = True
    scheduler_reserve_full_isl: bool = True
    policy: str = "fcfs"
    one_batch_per_request: bool = False
    num_lookahead_tokens: int = 0


class Scheduler(Protocol):
    """Decides batches. Built from a `SchedulerConfig` and the instance's `KVCacheManager`."""

    running: list[Request]

    @property
    def num_waiting(self) -> int:
        """Requests that wait for admission."""
        ...

    def add(self, request: Request) -> None:
        """Take in a new request."""
        ...

    def schedule(self, now_ns: int) -> list[tuple[Request, int]]:
        """Form a batch: (request, new tokens) in order, with the blocks for these tokens taken.

        ``num_computed_tokens`` is raised by the engine, which calls this at every iteration boundary.
        """
        ...

    def finish(self, request: Request) -> None:
        """Release a request for good; its blocks are free from now on.

        It produced its last token, running or preempted; or its client gave up, and it may be waiting too.
        """
        ...

    def waiting(self) -> list[Request]:
        """Return the waiting requests in order, for messages."""
        ...


@runtime_checkable
class CohortScheduler(Protocol):
    """A scheduler that can move decodes together."""

    def adopt(self, cohort: DecodeCohort) -> None:
        """Take the engine's cohort, to which requests may be handed from now on."""
        ...


def ask(scheduler: Scheduler, held: Container[int]) -> Callable[[int], list[tuple[Request, int]]]:
    """Return what forms batches: `Scheduler.schedule`, whose answers are checked if its class is a user's own.

    Args:
        scheduler: Whom to ask.
        held: Ids of the requests that have not ended.
    """
    if type(scheduler).__module__.startswith("llmservingsim."):
        return scheduler.schedule

    def schedule(now_ns: int) -> list[tuple[Request, int]]:
        batch = scheduler.schedule(now_ns)
        _check_batch(type(scheduler).__name__, batch, held)
        return batch

    return schedule


def _check_batch(name: str, batch: Any, held: Container[int]) -> None:
    """Raise PluginError unless a batch lists requests that are held, each once, with tokens that they lack."""
    if not isinstance(batch, list):
        raise PluginError(f"scheduler: {name!r} formed the batch {batch!r:.60}; expected a list of (request, tokens)")
    seen: set[int] = set()
    for entry in batch:
        if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], Request)):
            raise PluginError(f"scheduler: {name!r} has {entry!r:.60} in a batch; expected (request, tokens)")
        request, tokens = entry
        if request.request_id not in held or request.request_id in seen:
            raise PluginError(f"scheduler: {name!r} has {request!r} in a batch, which has ended or is there twice")
        seen.add(request.request_id)
        left = request.num_tokens + request.num_output_placeholders + request.num_spec_tokens
        left -= request.num_computed_tokens
        if not isinstance(tokens, Integral) or not 1 <= int(tokens) <= left:
            raise PluginError(
                f"scheduler: {name!r} gives {request!r} {tokens!r:.60} tokens; expected a whole number from 1 to {left}"
            )
