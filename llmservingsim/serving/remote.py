"""Requests whose KV cache comes from elsewhere: computed by another instance, or kept in a lower tier.

As with vLLM's KV connectors that load asynchronously (vllm 0.19.0, v1/core/sched/scheduler.py): when its turn to be
admitted comes, such a request takes the blocks for what it will receive and waits beside the queue, holding blocks but
no place in the running list, until its KV has arrived. Then it goes on before anybody who waits. Its blocks enter the
prefix index only then.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

from llmservingsim.serving.request import Request


class Load(NamedTuple):
    """KV that a request waits for.

    Attributes:
        request: Who.
        num_tokens: How many tokens' KV is missing; what the prefix cache holds already is not. If it is 0, the request
            goes on at once, and the source may forget it.
    """

    request: Request
    num_tokens: int


@runtime_checkable
class LoadingScheduler(Protocol):
    """A scheduler that can admit requests whose KV comes from elsewhere.

    One that is finished while its KV is on its way keeps its blocks, into which that is written, until it has arrived.
    """

    def take_loads(self) -> list[Load]:
        """Return the loads that have become possible since the last call: their blocks are taken."""
        ...

    def loaded(self, request: Request) -> None:
        """The KV of a load of more than 0 tokens has arrived; free its blocks if the request is finished."""
        ...


@runtime_checkable
class ExpectingScheduler(LoadingScheduler, Protocol):
    """One that can take the blocks for KV that has yet to be computed, and whose coming may be called off."""

    def withdraw(self, request: Request) -> None:
        """Forget a request that waits for its blocks or its KV, and free its blocks."""
        ...


@runtime_checkable
class BlockingScheduler(LoadingScheduler, Protocol):
    """One that can schedule requests before their KV has come, so that the batch waits for it.

    Attributes:
        load_kv_async: Set to False, it does so, and calls `loaded` itself.
    """

    load_kv_async: bool
