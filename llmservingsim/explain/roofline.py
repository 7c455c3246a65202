"""Whether arithmetic or memory bandwidth bounds the operators that devices computed.

Each operator is put on the roofline of the catalogue entry (Williams, Waterman, Patterson, CACM 52(4), 2009), whatever
its latency came from: it takes the longer of its arithmetic and its traffic, and that one bounds it. The time that the
graph computed is divided in the ratio of these.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.activity import Activity, ActivityLog
from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec
from llmservingsim.instance import Instance
from llmservingsim.model import Operator, OperatorKind, ParallelLayout, Work
from llmservingsim.trace.segments import stage_steps

Floats = NDArray[np.float64]

_MANY = 4096
"""Tokens at which the slope of an operator's cost is taken; costs are linear but for rounding up."""


class Bound(NamedTuple):
    """Shares of each graph's compute time, which add up to 1; shape ``[graphs]``."""

    compute: Floats
    bandwidth: Floats
    other: Floats

    @classmethod
    def unknown(cls, num_graphs: int) -> Bound:
        """Nothing can be said."""
        return cls(np.zeros(num_graphs), np.zeros(num_graphs), np.ones(num_graphs))


class _Asked(NamedTuple):
    """What graphs asked of operators; shapes ``[graphs]``."""

    tokens: Floats
    sequences: Floats
    pairs: Floats
    context: Floats


def split_compute(instance: Instance, log: ActivityLog, row: Activity) -> Bound:
    """Put what a stage computed on the roofline of its device; a prompt's chunk counts as one that begins it."""
    accelerator = instance.accelerator
    if accelerator is None:
        return Bound.unknown(len(row.end_ns))
    builder = instance.builders[instance.activity.index(log)]
    prompt, decodes = row.prompt_tokens.astype(float), row.decodes.astype(float)
    asked = _Asked(
        prompt + decodes,
        decodes + (prompt > 0),
        row.kv_tokens + prompt * (prompt + 1) / 2,
        row.kv_tokens + prompt,
    )
    counts = Counter(step.operator for step in stage_steps(builder.model, builder.layout, builder.stage))
    compute = bandwidth = np.zeros(len(prompt))
    for operator, count in counts.items():
        if operator.kind is OperatorKind.ATTENTION and row.offload_ns.any():
            continue  # it runs elsewhere
        arithmetic, traffic = _seconds(operator, builder.model, builder.layout, accelerator, asked)
        compute = compute + count * np.where(arithmetic > traffic, arithmetic, 0)
        bandwidth = bandwidth + count * np.where(arithmetic > traffic, 0, traffic)
    total = compute + bandwidth
    known = total > 0
    share = np.divide(compute, total, out=np.zeros_like(total), where=known)
    return Bound(share, np.where(known, 1 - share, 0), np.where(known, 0.0, 1.0))


def _seconds(
    operator: Operator, model: ModelSpec, layout: ParallelLayout, accelerator: AcceleratorSpec, asked: _Asked
) -> tuple[Floats, Floats]:
    """Return the time of an operator's arithmetic, and of its traffic, for each graph."""

    def cost(*work: int) -> NDArray[np.float64]:
        found = operator.cost(model, Work(*work), layout)
        return np.array([found.flops, found.total_bytes], dtype=float)

    base = cost(0, 0, 0, 0)
    units = np.eye(4, dtype=np.int64) * _MANY
    slopes = [(cost(*unit.tolist()) - base) / _MANY for unit in units]
    flops, moved = (
        sum((slope[k] * column for slope, column in zip(slopes, asked, strict=True) if slope[k]), start=base[k])
        for k in (0, 1)
    )
    if operator.kind is OperatorKind.MOE:
        moved = moved - _idle_experts(operator, model, layout, asked.tokens)
    efficiency = accelerator.efficiency
    share = efficiency.attention if operator.kind is OperatorKind.ATTENTION else efficiency.gemm
    return flops / (accelerator.flops(operator.arithmetic(model)) * share), moved / (
        accelerator.memory_bandwidth * efficiency.memory
    )


def _idle_experts(operator: Operator, model: ModelSpec, layout: ParallelLayout, tokens: Floats) -> Floats:
    """Bytes of a rank's experts that nobody is sent to, where every expert is as likely as the others."""
    local = layout.local_experts(model)
    everyone, nobody = (operator.cost(model, Work(0, activated_experts=n, expert_pairs=0), layout) for n in (local, 0))
    unasked = (1 - model.experts_per_token / model.num_experts) ** tokens
    return (everyone.total_bytes - nobody.total_bytes) * unasked
