"""Where the prompt's prefix was sent before, as long as no queue grows too long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from llmservingsim.serving.kv.hashing import hash_blocks
from llmservingsim.serving.routing.prefix_index import PrefixIndex
from llmservingsim.serving.routing.protocol import InstanceView, RoutedRequest


class PrefixAwareOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `prefix_aware`; the names and values of SGLang's router where it has them.

    Attributes:
        cache_threshold: Share of the prompt that must match for the prefix to decide.
        balance_abs_threshold: Requests by which the longest queue must exceed the shortest for the load to decide.
        balance_rel_threshold: Factor by which it must do so as well.
        block_size: Tokens per remembered block; best that of the instances.
        max_blocks_per_instance: Blocks that are remembered per instance, the most recently sent ones.
    """

    cache_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    balance_abs_threshold: Annotated[int, Meta(ge=0)] = 32
    balance_rel_threshold: Annotated[float, Meta(ge=1)] = 1.0001
    block_size: Annotated[int, Meta(ge=1)] = 16
    max_blocks_per_instance: Annotated[int, Meta(ge=1)] = 65536


class PrefixAwareRouter:
    """Longest prefix match while queues are balanced, else the shortest queue.

    The cache-aware policy of SGLang's router (v0.4, "cache-aware load balancer"). A queue counts waiting and running
    requests. If ``longest - shortest > balance_abs_threshold`` and ``longest > balance_rel_threshold * shortest``, the
    shortest queue is chosen. Otherwise it is the instance that was sent the longest prefix of the prompt, if that is
    more than ``cache_threshold`` of it. A prompt that matches less goes to the shortest queue, at a tie to the instance
    of which fewest blocks are remembered, then to the first. (SGLang looks at what is remembered alone there; an index
    that is full everywhere then says nothing.)

    The router knows what it sent, not what engines evicted since: its index is an approximation, as in reality.
    """

    Options = PrefixAwareOptions

    def __init__(self, options: PrefixAwareOptions) -> None:
        self._options = options
        self._index = PrefixIndex(options.max_blocks_per_instance)

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        """Return the position of the chosen instance and remember the prompt there."""
        hashes = hash_blocks(request.prompt_token_ids or (), self._options.block_size)
        queues = [i.num_waiting + i.num_running for i in instances]
        depth, holders = self._index.longest_match(hashes, [i.index for i in instances])
        matched = depth * self._options.block_size / request.prompt_tokens
        candidates = list(range(len(instances)))
        if matched > self._options.cache_threshold and not self._is_unbalanced(queues):
            candidates = [p for p in candidates if instances[p].index in holders]
        chosen = min(candidates, key=lambda p: (queues[p], self._index.num_blocks(instances[p].index)))
        self._index.sent(instances[chosen].index, hashes)
        return chosen

    def _is_unbalanced(self, queues: Sequence[int]) -> bool:
        shortest, longest = min(queues), max(queues)
        options = self._options
        return longest - shortest > options.balance_abs_threshold and longest > options.balance_rel_threshold * shortest
