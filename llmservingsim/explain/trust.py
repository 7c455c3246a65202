"""How far the times of an instance's operators can be trusted: which share of them was measured.

Of what each pipeline stage executed, graphs at even distances are priced once more, operator by operator, and the time
of each counts for what the latency source says of it. A batch is put together from what is known of the graph: prompt
chunks count as one that begins its prompt, decodes are alike, experts get what a balanced routing gives them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from llmservingsim.instance import Instance
from llmservingsim.latency import ClockedSource, ExpertWork, Grade, GradedLatencySource
from llmservingsim.model import OperatorKind
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.trace import IterationBuilder, SpeculativeBuilder, padded_tokens

_SAMPLES = 64
"""Graphs of a stage that are looked at."""


def time_shares(instance: Instance) -> dict[str, float] | None:
    """Return the share of each grade in the time of an instance's operators, the largest first.

    None where its source does not say, or nothing was executed.
    """
    total: Counter[Grade] = Counter()
    for builder, shape in _executed(instance):
        source = builder.source.at_full_clock if isinstance(builder.source, ClockedSource) else builder.source
        if not isinstance(source, GradedLatencySource):
            return None
        _add(total, builder, source, shape)
    time = sum(total.values())
    return {grade.value: spent / time for grade, spent in total.most_common()} if time else None


def _executed(instance: Instance) -> Iterator[tuple[IterationBuilder, BatchShape]]:
    """Yield batches that the stages of an instance executed."""
    for log, graph_builder in zip(instance.activity, instance.builders, strict=True):
        builder = graph_builder.target if isinstance(graph_builder, SpeculativeBuilder) else graph_builder
        if not isinstance(builder, IterationBuilder):
            return
        row = log.activity()
        busy = np.flatnonzero(row.prompt_tokens + row.decodes)
        for index in busy[:: max(1, len(busy) // _SAMPLES)].tolist():
            prompt, decodes, kv = (int(column[index]) for column in (row.prompt_tokens, row.decodes, row.kv_tokens))
            tokens = padded_tokens(prompt + decodes, builder.capture_sizes)
            chunks = (Chunk(prompt, 0),) if prompt else ()
            yield builder, BatchShape(chunks, decodes, kv, -(-kv // max(decodes, 1)), tokens)


def _add(total: Counter[Grade], builder: IterationBuilder, source: GradedLatencySource, shape: BatchShape) -> None:
    """Add what the operators of a stage take for a batch."""
    for operator, count in Counter(step.operator for segment in builder.segments for step in segment.steps).items():
        if operator.kind is OperatorKind.MOE:
            times, grade = source.graded_moe_ns(_balanced(builder, shape.num_tokens))
            total[grade] += count * int(times.max())
        else:
            time_ns, grade = source.graded_ns(operator.name, shape)
            total[grade] += count * time_ns


def _balanced(builder: IterationBuilder, tokens: int) -> ExpertWork:
    """What one layer asks of a rank whose experts are as likely as all others."""
    model, layout = builder.model, builder.layout
    gathered = tokens * layout.dp
    missed = (1 - model.experts_per_token / model.num_experts) ** gathered
    pairs = np.array([[gathered * model.experts_per_token / layout.ep]])
    return ExpertWork(tokens, gathered, pairs, np.array([[layout.local_experts(model) * (1 - missed)]]))
