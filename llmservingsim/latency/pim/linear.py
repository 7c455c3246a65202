"""The fitted attention times of LLMServingSim 2.0, for comparison."""

from __future__ import annotations

from llmservingsim.config.catalog import ModelSpec, PimSpec
from llmservingsim.errors import ConfigError, nearest, one_of
from llmservingsim.latency.pim.device import AttentionTime, PimDevice
from llmservingsim.latency.pim.heads import Heads, spread_heads
from llmservingsim.model import ParallelLayout

FITS = {
    "LPDDR4X": (432.4458, 33_918.1734),
    "DDR4": (333.2538, 30_675.2739),
    "LPDDR5": (282.4338, 15_996.7018),
    "HBM2": (242.0548, 14_513.5015),
}
"""Kind of DRAM -> nanoseconds per token of context and per request, of 32 heads of width 128 that share 8 of keys."""

_SHARING, _WIDTH = 4, 4096


class LinearPim(PimDevice):
    """The fits of LLMServingSim 2.0.

    ::

        t = (slope * (heads / kv_heads) / 4 * context + intercept * heads * head_dim / 4096) / channel_split

    per request, ``channel_split = min(channels, kv_heads)``; the kind of DRAM names slope and intercept. Heads are
    those of one rank. The context is the present one; that program takes the prompt's length for as long as a request
    runs.

    Args:
        spec: What the memory is made of; only its kind of DRAM and its power are used.
        model, layout: What is computed, and how it is cut over ranks.
        channels: Of the memory.

    Raises:
        ConfigError: There is no fit for this kind of DRAM.
    """

    def __init__(self, spec: PimSpec, model: ModelSpec, layout: ParallelLayout, channels: int) -> None:
        heads = spread_heads(model, layout, channels)
        super().__init__(spec, model, heads, channels, _fitted(spec, heads))

    def provenance(self) -> dict[str, object]:
        """Name the fit."""
        return {"source": "linear fit of LLMServingSim 2.0", "kind": self._spec.protocol, **super().provenance()}


def _fitted(spec: PimSpec, heads: Heads) -> AttentionTime:
    if spec.protocol not in FITS:
        raise ConfigError(
            f"{spec.name}: LLMServingSim 2.0 has no linear fit for {spec.protocol}{nearest(spec.protocol, FITS)}; "
            f"expected one of {one_of(FITS)}, or the device model"
        )
    slope, intercept = FITS[spec.protocol]
    return AttentionTime(
        per_request=intercept * heads.query * heads.head_dim / _WIDTH / heads.split,
        per_token=slope * heads.sharing / _SHARING / heads.split,
    )
