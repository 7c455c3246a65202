"""What the devices of an instance did and when: a row per graph that they executed.

Whoever asks afterwards where time and energy went reads it from here; nobody reads it while the run goes on.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.graph import Graph, NodeType
from llmservingsim.shapes import BatchShape

Values = NDArray[np.int64]

_MEMORY = (NodeType.MEM_LOAD, NodeType.MEM_STORE)
_NONE = np.zeros(0, dtype=np.int64)


class Activity(NamedTuple):
    """Graphs that the devices of one pipeline stage of an instance executed, one after another; shapes ``[graphs]``.

    Attributes:
        begin_ns: When the stage was free and the graph there: the later of both.
        end_ns: When the last of its ranks had ended.
        compute_ns: Time that the stage's devices computed, added up over them.
        offload_ns: Time that channels of memories computed, likewise.
        collective_bytes: Message sizes of the collectives, added up over the devices.
        memory_bytes: Loaded from other memories and stored there, likewise.
        prompt_tokens: Tokens of prompt chunks.
        decodes: Sequences that computed one token, drafts apart. Both are 0 where the instance had no batch of its own
            and computed a dummy to keep others in step.
    """

    begin_ns: Values
    end_ns: Values
    compute_ns: Values
    offload_ns: Values
    collective_bytes: Values
    memory_bytes: Values
    prompt_tokens: Values
    decodes: Values


class _Weights(NamedTuple):
    """How many of the devices execute each node, by what the node does; shape ``[nodes]``.

    ``alone`` is that number where the graph has one node, which computes; else 0.
    """

    computes: Values
    offloads: Values | None
    communicates: Values
    accesses: Values
    alone: int


class ActivityLog:
    """Of the devices of one pipeline stage of one instance.

    Args:
        ranks: These devices.
    """

    __slots__ = ("_columns", "_ended_ns", "_ranks", "_template", "_weights", "num_devices")

    def __init__(self, ranks: Sequence[int]) -> None:
        self.num_devices = len(ranks)
        self._ranks = frozenset(ranks)
        self._columns = array("q")
        self._ended_ns = array("q")
        self._template: Graph | None = None
        self._weights = _Weights(_NONE, None, _NONE, _NONE, 0)

    def submitted(
        self, template: Graph, values: tuple[Values, Values | None], shape: BatchShape | None, now_ns: int
    ) -> None:
        """A graph was handed to the backend, to run after those before it.

        Args:
            template: The graph.
            values: Durations of its nodes, and sizes if any has one.
            shape: Of the instance's batch; None for a dummy.
            now_ns: When.
        """
        if template is not self._template:
            self._template, self._weights = template, _weigh(template, self._ranks)
        durations, sizes = values
        weights = self._weights
        offloaded = moved = accessed = tokens = decodes = drafts = 0
        if weights.alone:  # of a lone device, often; thrice as fast
            computed = durations.item() * weights.alone
        else:
            computed = int(weights.computes @ durations)
            if weights.offloads is not None:
                offloaded = int(weights.offloads @ durations)
            if sizes is not None:
                moved, accessed = int(weights.communicates @ sizes), int(weights.accesses @ sizes)
        if shape is not None:
            _, decodes, _, _, tokens, drafts, _ = shape
        self._columns.extend((now_ns, computed, offloaded, moved, accessed, tokens - decodes - drafts, decodes))

    def ended(self, now_ns: int) -> None:
        """The oldest graph under way has ended."""
        self._ended_ns.append(now_ns)

    def activity(self, now_ns: int | None = None) -> Activity:
        """Return what was executed; of what is under way, nothing.

        Args:
            now_ns: If given, graphs under way count, as if they ended then.
        """
        ended = np.array(self._ended_ns, dtype=np.int64)
        columns = np.array(self._columns, dtype=np.int64).reshape(-1, 7).T
        if now_ns is not None:
            ended = np.concatenate([ended, np.full(columns.shape[1] - len(ended), now_ns)])
        submitted, computed, offloaded, moved, accessed, prompt, decodes = columns[:, : len(ended)]
        before = np.concatenate([[0], ended[:-1]])[: len(ended)]
        begun = np.minimum(np.maximum(submitted, before), ended)
        return Activity(begun, ended, computed, offloaded, moved, accessed, prompt, decodes)


def _weigh(template: Graph, ranks: frozenset[int]) -> _Weights:
    """Count the devices of an instance in each class of ranks."""
    share = np.array([len(ranks.intersection(of_class)) for of_class in template.rank_classes], dtype=np.int64)
    devices = share[template.rank_class]

    def of(*types: NodeType) -> Values:
        return np.where(np.isin(template.type, types), devices, 0)

    computes, offloads = of(NodeType.COMP), of(NodeType.PIM_COMP)
    alone = int(computes[0]) if len(template) == 1 else 0
    return _Weights(computes, offloads if offloads.any() else None, of(NodeType.COMM_COLL), of(*_MEMORY), alone)
