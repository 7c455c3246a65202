"""The section of the run file that describes speculative decoding."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from llmservingsim.config.quantities import Count, QuantityError, check_quantities
from llmservingsim.units import parse_time_ns

SpeculativeMethod = Literal["ngram", "ngram_gpu", "draft_model", "eagle", "mtp"]


class SpeculativeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Drafts that the model verifies. `docs/concepts/speculative.md` explains it.

    Attributes:
        method: What drafts: n-grams of the sequence itself, searched on the host (``ngram``) or the device
            (``ngram_gpu``); a smaller model (``draft_model``); one block on top of the model's hidden states
            (``eagle``), or the one that the model brings along (``mtp``).
        num_speculative_tokens: Drafts per verification; 0 turns it off.
        acceptance: Which drafts the model accepts: ``policy`` is ``fixed`` with its ``rate``; ``decaying`` with
            ``rate`` and ``decay``; ``table`` with ``conditional``, ``per_position``, ``counts`` or ``path``; or a
            ``package.module:Class`` of your own.
        model: The drafter, named like ``model`` of an instance: needed for draft_model, an EAGLE head's config.json for
            eagle (by default a dense block of the model's own shape).
        draft_tensor_parallel_size: 1, or the instance's tensor_parallel_size, which is the default.
        search_time: Of ngram and ngram_gpu, per iteration.
        latency_source: Where the drafter's operator latencies come from, as ``latency.source``; by default as the
            instance's.
    """

    method: SpeculativeMethod
    num_speculative_tokens: Annotated[int, Meta(ge=0)]
    acceptance: dict[str, Any] | None = None
    model: str | None = None
    draft_tensor_parallel_size: Count | None = None
    search_time: str = "0ns"
    latency_source: str | None = None

    @property
    def schedules_synchronously(self) -> bool:
        """Whether asynchronous scheduling is off unless it is asked for (vllm 0.19.0, config/vllm.py)."""
        return bool(self.num_speculative_tokens) and self.method in ("ngram", "draft_model")

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "search_time", may_be_zero=True)
        if not self.num_speculative_tokens:
            return
        if self.acceptance is None:
            raise QuantityError(
                "acceptance: missing; expected which drafts the model accepts, such as {policy: fixed, rate: 0.7}"
            )
        searches = self.method in ("ngram", "ngram_gpu")
        if searches:
            for key in ("model", "draft_tensor_parallel_size", "latency_source"):
                if getattr(self, key) is not None:
                    raise QuantityError(f"{key}: method {self.method} has no drafter; expected no {key}")
        elif parse_time_ns(self.search_time):
            raise QuantityError(f"search_time: method {self.method} searches nothing; expected no search_time")
        if self.method == "draft_model" and self.model is None:
            raise QuantityError("model: missing; expected the model that drafts")
        if self.method == "mtp" and self.model is not None:
            raise QuantityError("model: method mtp drafts with the model's own module; expected no model")
