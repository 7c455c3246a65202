"""Speculative decoding in the summary of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmservingsim.instance import Instance
from llmservingsim.serving import SpeculationCounts, SpeculativeEngine


def summarise_speculation(instances: Sequence[Instance]) -> dict[str, Any]:
    """Return the section ``speculative_decoding``; nothing if none of the instances has it."""
    counts = [i.engine.speculation.counts for i in instances if isinstance(i.engine, SpeculativeEngine)]
    return {"speculative_decoding": SpeculationCounts.total(counts).summary()} if counts else {}
