"""The section of the run file that describes low-rank adapters (LoRA)."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from llmservingsim.config.quantities import Count, QuantityError


class LoraSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Adapters beside the linear layers. `docs/concepts/latency.md` has the formulas.

    Attributes:
        max_lora_rank: Inner width of every adapter, as kernels run them.
        max_loras: Adapters on the device, and the most that one batch uses.
        adapters: Adapters that requests ask for, each as often as any other; by default ``max_loras``.
        targets: Layers that have adapters.
    """

    max_lora_rank: Count = 16
    max_loras: Count = 1
    adapters: Count | None = None
    targets: Annotated[tuple[str, ...], Meta(min_length=1)] = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")

    def __post_init__(self) -> None:
        if len(set(self.targets)) < len(self.targets):
            raise QuantityError("targets: expected every layer once")
