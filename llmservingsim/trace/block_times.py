"""When, within an iteration, the keys and values of each block are there.

They are written before the attention of their block, which is where vLLM's workers save them: its ``save_kv_layer`` is
called when the attention has been launched (vllm 0.19.0, model_executor/layers/attention). So a block is ready when its
attention has ended.

Operators take what the builder prices, and a collective what it takes alone; the time that it loses to other traffic on
its links is not known beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from llmservingsim.model import OperatorKind
from llmservingsim.shapes import BatchShape
from llmservingsim.trace.builder import IterationBuilder
from llmservingsim.trace.segments import Segment

CollectiveTime = Callable[[int, int, Sequence[int]], Sequence[int]]
"""(node of the builder's template, message size in bytes, when each rank class comes) -> when each has passed."""


class BlockTimes:
    """Tells when the blocks of one pipeline stage are ready.

    Args:
        builder: Of the stage.
        collective_ns: Prices collectives.
    """

    def __init__(self, builder: IterationBuilder, collective_ns: CollectiveTime) -> None:
        self._builder = builder
        self._collective_ns = collective_ns
        template = builder.template
        self._nodes_per_class = len(template) // len(builder.classes)
        self._sharing = [
            [c for c, rank_class in enumerate(builder.classes) if set(rank_class.ranks) <= set(group)]
            for group in template.groups
        ]

    def ready_ns(self, shapes: Sequence[BatchShape]) -> NDArray[np.int64]:
        """Return ns from the start of the iteration, shape ``[rank classes, blocks of the stage]``.

        Args:
            shapes: A batch per member; that of the last call of the builder's ``durations_ns``.
        """
        sizes = self._builder.sizes_bytes(shapes)
        steps = [iter(times) for times in self._builder.steps_ns(shapes)]
        clock = [0] * len(steps)
        ready: list[list[int]] = [[] for _ in steps]
        node = 0
        for segment in self._builder.segments:
            for c, times in enumerate(steps):
                clock[c] = _run(segment, times.__next__, clock[c], ready[c])
            node += 1
            for _ in segment.collectives:
                assert sizes is not None
                clock = self._meet(clock, node, sizes)
                node += 1
        return np.array(ready, dtype=np.int64)

    def _meet(self, clock: Sequence[int], node: int, sizes: NDArray[np.int64]) -> list[int]:
        """Let every class pass its collective of a place in the chain."""
        passed = list(clock)
        for c in range(len(clock)):
            own = c * self._nodes_per_class + node
            sharing = self._sharing[self._builder.template.group[own]]
            if sharing[0] == c:
                ends = self._collective_ns(own, int(sizes[own]), [clock[other] for other in sharing])
                for other, end in zip(sharing, ends, strict=True):
                    passed[other] = end
        return passed


def _run(segment: Segment, next_ns: Callable[[], int], start: int, ready: list[int]) -> int:
    """Run the steps of a segment on one rank; note when attentions end."""
    for step in segment.steps:
        start += next_ns()
        if step.operator.kind is OperatorKind.ATTENTION:
            ready.append(start)
    return start
