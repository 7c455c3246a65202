"""Which chunk leaves a tier that is full."""

from __future__ import annotations

from typing import Protocol


class StoredChunk:
    """A chunk of KV in a tier, as an eviction policy sees it.

    Attributes:
        num_tokens: How many tokens' KV it is.
        context_len: Tokens of the prefix before it.
        recompute_flops: What computing it again would take, the attention to its prefix included.
        stored, last_used: When it came and when it was last asked for, as numbers that rise with every event of the
            tier. Of the chunks of one prefix the last one counts as used first, so that it goes first.
        uses: How often it was found.
        floor: Priority of the chunk that had been evicted last when this one was stored or used, 0 before any; for
            policies that age.
    """

    __slots__ = (
        "context_len",
        "floor",
        "has_arrived",
        "key",
        "last_used",
        "num_tokens",
        "parent",
        "pins",
        "recompute_flops",
        "stored",
        "uses",
    )

    def __init__(
        self, key: int, parent: int, num_tokens: int, context_len: int = 0, recompute_flops: float = 0.0
    ) -> None:
        self.key = key
        self.parent = parent
        self.num_tokens = num_tokens
        self.context_len = context_len
        self.recompute_flops = recompute_flops
        self.stored = self.last_used = 0
        self.uses = 0
        self.floor = 0.0
        self.has_arrived = False
        self.pins = 0

    def __repr__(self) -> str:
        return f"StoredChunk({self.context_len}..{self.context_len + self.num_tokens}, used {self.uses} times)"


class EvictionPolicy(Protocol):
    """Orders the chunks of one tier. Built from the options that stand beside its name."""

    def priority(self, chunk: StoredChunk) -> float:
        """Return a number; the chunk with the smallest is evicted first, of equals the one used longest ago.

        Asked of the last chunk of each prefix, when it is stored or used, and when what followed it has gone; it must
        be a function of the chunk.
        """
        ...


class LruEviction:
    """The chunk that was used longest ago."""

    def priority(self, chunk: StoredChunk) -> float:
        """When it was last used."""
        return float(chunk.last_used)


class FifoEviction:
    """The chunk that came first."""

    def priority(self, chunk: StoredChunk) -> float:
        """When it came."""
        return float(chunk.stored)


class LfuEviction:
    """The chunk that was used least often; of equals the one used longest ago."""

    def priority(self, chunk: StoredChunk) -> float:
        """How often it was used."""
        return float(chunk.uses)


class CostAwareEviction:
    """The chunk whose loss costs least: GreedyDual-Size with Frequency.

    ``floor + uses * cost / size`` (Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency
    Caching Policy", HP Labs 1998), with what computing the chunk again would take as the cost and its tokens as the
    size. Late chunks of long prefixes are dearer than early ones, because their attention reads all that is before.
    """

    def priority(self, chunk: StoredChunk) -> float:
        """What it is worth, from the worth of the last victim up."""
        return chunk.floor + (1 + chunk.uses) * chunk.recompute_flops / chunk.num_tokens


EVICTION_POLICIES = {
    "lru": LruEviction,
    "lfu": LfuEviction,
    "fifo": FifoEviction,
    "cost_aware": CostAwareEviction,
}
