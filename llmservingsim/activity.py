"""What the devices of an instance did and when: a row per graph that they executed.

Whoever asks afterwards where time and energy went reads it from here; nobody reads it while the run goes on.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from llmservingsim.graph import Graph, NodeType
from llmservingsim.shapes import BatchShape

Values = NDArray[np.int64]

_MEMORY = (NodeType.MEM_LOAD, NodeType.MEM_STORE)
_NONE = np.zeros(0, dtype=np.int64)

UNKNOWN = -1
"""What nobody can tell."""


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
        kv_tokens: Keys that these decodes attended to.
        started_ns: When the graph itself began: after ``begin_ns`` where keys and values were moved in between.
        messages_ns: For how long the devices computed nothing and waited for collectives, added up over them. This
            and what follows is `UNKNOWN` where the backend cannot tell.
        access_ns: Likewise for loads and stores.
        awaited_offload_ns: Likewise for memories that compute.
        skew_ns: Of ``messages_ns``, what they waited beyond the rank of the graph that waited least: for slower ranks.
    """

    begin_ns: Values
    end_ns: Values
    compute_ns: Values
    offload_ns: Values
    collective_bytes: Values
    memory_bytes: Values
    prompt_tokens: Values
    decodes: Values
    kv_tokens: Values
    started_ns: Values
    messages_ns: Values
    access_ns: Values
    awaited_offload_ns: Values
    skew_ns: Values


class Times(Protocol):
    """What the tickets of one graph waited for, see `llmservingsim.backend.times.GraphTimes`."""

    begin_ns: Values
    messages_ns: Values
    offload_ns: Values
    access_ns: Values
    lanes: Sequence[Sequence[int]]


class _Weights(NamedTuple):
    """How many of the devices execute each node, by what the node does; shape ``[nodes]``.

    ``alone`` is that number where the graph has one node, which computes; else 0.
    """

    computes: Values
    offloads: Values | None
    communicates: Values
    accesses: Values
    alone: int


_COLUMNS = 8


class ActivityLog:
    """Of the devices of one pipeline stage of one instance.

    Args:
        ranks: These devices.
        times_of: Tells what the tickets of a graph waited for, of a backend that can; None for a graph of one node.
    """

    __slots__ = (
        "_columns",
        "_ended_ns",
        "_known",
        "_ranks",
        "_template",
        "_times_of",
        "_turns",
        "_weights",
        "num_devices",
    )

    def __init__(self, ranks: Sequence[int], times_of: Callable[[Graph], Times | None] | None = None) -> None:
        self.num_devices = len(ranks)
        self._ranks = frozenset(ranks)
        self._columns = array("q")
        self._ended_ns = array("q")
        self._times_of = times_of
        self._template: Graph | None = None
        self._turns: list[tuple[int, Graph]] = []  # rows from which on each template was submitted
        self._known: dict[int, _Weights] = {}  # by the template's id
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
            self._turn_to(template)
        durations, sizes = values
        weights = self._weights
        offloaded = moved = accessed = tokens = decodes = drafts = kv_tokens = 0
        if weights.alone:  # of a lone device, often; thrice as fast
            computed = durations.item() * weights.alone
        else:
            computed = int(weights.computes @ durations)
            if weights.offloads is not None:
                offloaded = int(weights.offloads @ durations)
            if sizes is not None:
                moved, accessed = int(weights.communicates @ sizes), int(weights.accesses @ sizes)
        if shape is not None:
            _, decodes, kv_tokens, _, tokens, drafts, _ = shape
        prompt_tokens = tokens - decodes - drafts
        self._columns.extend((now_ns, computed, offloaded, moved, accessed, prompt_tokens, decodes, kv_tokens))

    def ended(self, now_ns: int) -> None:
        """The oldest graph under way has ended."""
        self._ended_ns.append(now_ns)

    def activity(self, now_ns: int | None = None) -> Activity:
        """Return what was executed; of what is under way, nothing.

        Args:
            now_ns: If given, graphs under way count, as if they ended then.
        """
        ended = np.array(self._ended_ns, dtype=np.int64)
        columns = np.array(self._columns, dtype=np.int64).reshape(-1, _COLUMNS).T
        if now_ns is not None:
            ended = np.concatenate([ended, np.full(columns.shape[1] - len(ended), now_ns)])
        submitted, computed, offloaded, moved, accessed, prompt, decodes, kv_tokens = columns[:, : len(ended)]
        before = np.concatenate([[0], ended[:-1]])[: len(ended)]
        begun = np.minimum(np.maximum(submitted, before), ended)
        done = Activity(
            begun, ended, computed, offloaded, moved, accessed, prompt, decodes, kv_tokens,
            *(np.full(len(ended), UNKNOWN) for _ in range(5)),
        )  # fmt: skip
        for template, rows in self._by_template(len(ended)):
            self._fill_in(done, template, rows)
        return done

    def _turn_to(self, template: Graph) -> None:
        """From now on it is this that is submitted."""
        if id(template) not in self._known:
            self._known[id(template)] = _weigh(template, self._ranks)
        self._template, self._weights = template, self._known[id(template)]
        self._turns.append((len(self._columns) // _COLUMNS, template))

    def _by_template(self, num_rows: int) -> Iterator[tuple[Graph, Values]]:
        """Yield every template and its rows."""
        starts = np.array([first for first, _ in self._turns], dtype=np.int64)
        turn_of = np.searchsorted(starts, np.arange(num_rows), side="right") - 1
        templates = {id(template): template for _, template in self._turns}
        which = np.array([id(template) for _, template in self._turns], dtype=np.int64)
        for key, template in templates.items():
            yield template, np.flatnonzero(which[turn_of] == key)

    def _fill_in(self, done: Activity, template: Graph, rows: Values) -> None:
        """Put down what the tickets of a template waited for; rows and tickets are in the same order."""
        done.started_ns[rows] = done.begin_ns[rows]
        times = self._times_of(template) if self._times_of is not None else None
        waits = (done.messages_ns, done.access_ns, done.awaited_offload_ns, done.skew_ns)
        if len(template) == 1:
            computed = done.compute_ns[rows] // self.num_devices
            done.started_ns[rows] = np.maximum(done.end_ns[rows] - computed, done.begin_ns[rows])
            for column in waits:
                column[rows] = 0
        if times is None:
            return
        rows = rows[: len(times.begin_ns)]
        own = np.array([len(self._ranks.intersection(lane)) for lane in times.lanes], dtype=np.int64)
        told = slice(len(rows))
        done.started_ns[rows] = times.begin_ns[told]
        skews = times.messages_ns - times.messages_ns.min(axis=1, keepdims=True)
        for column, per_lane in zip(waits, (times.messages_ns, times.access_ns, times.offload_ns, skews), strict=True):
            column[rows] = per_lane[told] @ own


def _weigh(template: Graph, ranks: frozenset[int]) -> _Weights:
    """Count the devices of an instance in each class of ranks."""
    share = np.array([len(ranks.intersection(of_class)) for of_class in template.rank_classes], dtype=np.int64)
    devices = share[template.rank_class]

    def of(*types: NodeType) -> Values:
        return np.where(np.isin(template.type, types), devices, 0)

    computes, offloads = of(NodeType.COMP), of(NodeType.PIM_COMP)
    alone = int(computes[0]) if len(template) == 1 else 0
    return _Weights(computes, offloads if offloads.any() else None, of(NodeType.COMM_COLL), of(*_MEMORY), alone)
