"""Which channels hold the keys and values of a request, and how many heads each of them computes."""

from __future__ import annotations

from typing import NamedTuple

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.errors import ConfigError
from llmservingsim.model import ParallelLayout
from llmservingsim.model.weights import kv_heads_per_rank


class Heads(NamedTuple):
    """Attention of one rank on a memory of channels.

    Attributes:
        query, key_value: Heads of the rank.
        head_dim: Width of one.
        split: Channels over which the key and value heads of a request are spread.
        groups: Groups of ``split`` channels; what is left over stays idle.
    """

    query: int
    key_value: int
    head_dim: int
    split: int
    groups: int

    @property
    def per_channel(self) -> int:
        """Key and value heads of a request in the channel that has most of them."""
        return -(-self.key_value // self.split)

    @property
    def sharing(self) -> int:
        """Query heads that share a head of keys and values."""
        return self.query // self.key_value


def spread_heads(model: ModelSpec, layout: ParallelLayout, channels: int) -> Heads:
    """Spread a rank's heads over channels: ``split = min(channels, key and value heads)``, as LLMServingSim 2.0 does.

    Raises:
        ConfigError: The model has multi-head latent attention, which multiplies weights in between.
    """
    if model.is_mla:
        raise ConfigError(
            f"{model.name} has multi-head latent attention, which memory that computes is not modelled for; "
            "expected a model with keys and values per head, or a processor as the device"
        )
    query, key_value = model.num_heads // layout.tp, kv_heads_per_rank(model, layout.tp)
    split = min(channels, key_value)
    return Heads(query, key_value, model.head_dim, split, channels // split)
