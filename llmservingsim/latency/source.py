"""Where an operator's latency comes from."""

from __future__ import annotations

from typing import Protocol

from llmservingsim.shapes import BatchShape


class LatencySource(Protocol):
    """Times one operator of one rank.

    Operators are named as in the profile bundles: embedding, layernorm, qkv_proj, qk_norm, rotary_emb, attention,
    o_proj, gate_up_proj, act_fn, down_proj, moe, final_layernorm, lm_head, sampler.
    """

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        """Return the operator's time for one batch, at least 0.

        Dense operators depend on ``shape.num_tokens`` alone, lm_head and sampler on ``shape.num_sequences``, and
        attention on everything else. ``num_tokens`` is already padded where the engine pads.
        """
        ...

    def provenance(self) -> dict[str, object]:
        """Say where the numbers come from and how often they were extrapolated, for the run's summary."""
        ...
