"""Speculative decoding in the summary of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmservingsim.instance import Instance
from llmservingsim.serving import SpeculationCounts, SpeculativeEngine
from llmservingsim.trace import SpeculativeBuilder


def summarise_speculation(instances: Sequence[Instance]) -> dict[str, Any]:
    """Return the section ``speculative_decoding`` of a run; nothing if none of the instances has it."""
    counts = [i.engine.speculation.counts for i in instances if isinstance(i.engine, SpeculativeEngine)]
    return {"speculative_decoding": SpeculationCounts.total(counts).summary()} if counts else {}


def summarise_drafter(instance: Instance) -> dict[str, Any]:
    """Return the section of an instance, which also says where the drafter's latencies come from."""
    if not isinstance(instance.engine, SpeculativeEngine):
        return {}
    section = instance.engine.speculation.counts.summary()
    drafter = instance.builder.drafter if isinstance(instance.builder, SpeculativeBuilder) else None
    section["drafter_latency"] = drafter.source.provenance() if drafter is not None else None
    return {"speculative_decoding": section}
