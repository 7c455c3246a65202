"""Which rank of one instance holds the keys and values that a rank of another needs."""

from __future__ import annotations

from typing import NamedTuple

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.model.layout import ParallelLayout, stage_range
from llmservingsim.model.memory import kv_bytes_per_token_layer
from llmservingsim.model.weights import kv_heads_per_rank


class KvShare(NamedTuple):
    """What one rank sends to another, per token.

    Attributes:
        source, target: Ranks within their instances, stage by stage.
        bytes_per_token: Keys and values of all layers and heads that both hold.
    """

    source: int
    target: int
    bytes_per_token: int


def kv_shares(
    model: ModelSpec, source: ParallelLayout, target: ParallelLayout, kv_cache_dtype: str = "auto"
) -> list[KvShare]:
    """Return who sends what so that every target rank gets the heads and layers that it holds.

    Heads that several source ranks hold (more ranks than KV heads, or MLA's one latent vector) are fetched from them in
    turn, so that the load spreads.
    """
    per_head = kv_bytes_per_token_layer(model, _ranks_of_one_head(model), kv_cache_dtype)
    shares = []
    for into in range(target.pp):
        for out in range(source.pp):
            layers = _common(
                stage_range(model.num_layers, source.pp, out), stage_range(model.num_layers, target.pp, into)
            )
            if not layers:
                continue
            for rank, needed in enumerate(_heads(model, target.tp)):
                fetched = _fetched(model, source.tp, needed, rank)
                for holder, heads in fetched.items():
                    shares.append(KvShare(out * source.tp + holder, into * target.tp + rank, layers * heads * per_head))
    return shares


def block_shares(
    model: ModelSpec, source: ParallelLayout, target: ParallelLayout, block: int, kv_cache_dtype: str = "auto"
) -> list[KvShare]:
    """Return what `kv_shares` says of one block alone."""
    per_head = kv_bytes_per_token_layer(model, _ranks_of_one_head(model), kv_cache_dtype)
    (out,) = (stage for stage in range(source.pp) if block in stage_range(model.num_layers, source.pp, stage))
    (into,) = (stage for stage in range(target.pp) if block in stage_range(model.num_layers, target.pp, stage))
    return [
        KvShare(out * source.tp + holder, into * target.tp + rank, heads * per_head)
        for rank, needed in enumerate(_heads(model, target.tp))
        for holder, heads in _fetched(model, source.tp, needed, rank).items()
    ]


def _common(a: range, b: range) -> int:
    return max(0, min(a.stop, b.stop) - max(a.start, b.start))


def _ranks_of_one_head(model: ModelSpec) -> int:
    """A tensor-parallel degree at which a rank holds one head."""
    return 1 if model.is_mla else model.num_kv_heads


def _heads(model: ModelSpec, tp: int) -> list[range]:
    """KV heads of every rank; the latent vector of MLA counts as one that all hold."""
    if model.is_mla:
        return [range(1)] * tp
    count = kv_heads_per_rank(model, tp)
    return [range(first, first + count) for first in (rank * model.num_kv_heads // tp for rank in range(tp))]


def _fetched(model: ModelSpec, tp: int, needed: range, rank: int) -> dict[int, int]:
    """Source rank -> how many of the needed heads come from it."""
    held = _heads(model, tp)
    fetched: dict[int, int] = {}
    for head in needed:
        holders = [i for i, heads in enumerate(held) if head in heads]
        holder = holders[rank % len(holders)]
        fetched[holder] = fetched.get(holder, 0) + 1
    return fetched
