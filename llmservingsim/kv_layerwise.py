"""KV that comes up from lower tiers block by block, while the iteration that needs it runs.

As with LMCache's layer-wise loading: the KV of a request's prefix is loaded in the iteration that admits it, one block
of the model after another, and each block's attention waits for its own part alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from llmservingsim.backend import Backend, GraphId
from llmservingsim.errors import ConfigError
from llmservingsim.instance import Instance
from llmservingsim.memories import Place
from llmservingsim.serving.batch import Batch
from llmservingsim.serving.kv.tiers import KvTiers, TierRead
from llmservingsim.trace import GraphBuilder, IterationBuilder, Site


class _Variant(NamedTuple):
    """Iterations in which KV comes up from certain memories."""

    graph: GraphId
    builder: IterationBuilder


class LayerwiseRecalls:
    """What comes up in the iterations of one instance.

    Args:
        instance: The instance.
        tiers: Where it comes from.
        places: Of their stores, in order.
        kv_token_bytes: Of a token in one block, on one rank.
        backend: Times iterations.

    Raises:
        ConfigError: If the instance drafts.
    """

    def __init__(
        self, instance: Instance, tiers: KvTiers, places: Mapping[int, Place], kv_token_bytes: int, backend: Backend
    ) -> None:
        if not isinstance(instance.builder, IterationBuilder):
            raise ConfigError(
                f"instance {instance.index}: prefix_recall: layerwise is not simulated beside drafts; expected async "
                "or blocking"
            )
        self._builder = instance.builder
        self._tiers = tiers
        self._places = places
        self._kv_token_bytes = kv_token_bytes
        self._backend = backend
        self._due: list[TierRead] = []
        self._variants: dict[frozenset[Place], _Variant] = {}
        self.tokens_from: dict[int, int] = {}
        instance.variant = self._take

    def can_bring(self, read: TierRead) -> bool:
        """Whether the instance's ranks reach all that it reads from."""
        return all(part.store in self._places for part in read.parts)

    def bring(self, read: TierRead) -> None:
        """Let a hit come up in the batch that begins next."""
        self._due.append(read)

    def moved_bytes(self) -> Iterator[tuple[Place, bool, int]]:
        """Yield what these iterations loaded or stored where: place, whether it was stored, bytes."""
        for variant in self._variants.values():
            for site, is_store, num_bytes in variant.builder.moved_bytes():
                yield Place.at(*site), is_store, num_bytes

    def _take(self, batch: Batch) -> tuple[GraphId, GraphBuilder] | None:
        """Return the graph and the builder of a batch in which something comes up."""
        reads, self._due = self._due, []
        if not reads:
            return None
        tokens: dict[Place, int] = {}
        for read in reads:
            for part in read.parts:
                place = self._places[part.store]
                tokens[place] = tokens.get(place, 0) + part.num_tokens
                self.tokens_from[part.store] = self.tokens_from.get(part.store, 0) + part.num_tokens
        variant = self._variant(list(tokens))
        variant.builder.recalled_tokens = {str(place): count for place, count in tokens.items()}
        self._tiers.end_with(batch.index, reads)
        return variant

    def _variant(self, places: Sequence[Place]) -> _Variant:
        key = frozenset(places)
        if key not in self._variants:
            sites = {str(place): Site(place.location, place.device) for place in sorted(places)}
            builder = self._builder.recalling(sites, self._kv_token_bytes)
            self._variants[key] = _Variant(self._backend.register(builder.template), builder)
        return self._variants[key]
