"""What the mixture-of-experts blocks of an iteration take on each rank class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmservingsim.latency import ExpertLatencySource, ExpertWork
from llmservingsim.model import ParallelLayout
from llmservingsim.trace.bounded import remember
from llmservingsim.trace.experts import ExpertRouting
from llmservingsim.trace.segments import Rows, row_counts

Values = NDArray[np.int64]
Floats = NDArray[np.float64]


class RankClass(NamedTuple):
    """Ranks that do the same work.

    Attributes:
        member: Which of the instances in lock step they belong to.
        ranks: In the network.
        part: Which part of the experts they hold.
    """

    member: int
    ranks: tuple[int, ...]
    part: int


def rank_classes(
    layout: ParallelLayout, member_ranks: Sequence[Sequence[int]], experts: ExpertRouting | None
) -> list[RankClass]:
    """Group each member's ranks by the part of the experts that they hold, if parts are loaded differently.

    As in vLLM, ranks are counted over all members, and neighbours share a part where its experts are sliced.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for member, ranks in enumerate(member_ranks):
        for position, rank in enumerate(ranks):
            part = (member * layout.tp + position) // layout.expert_slices % layout.ep
            split = 0 if experts is None or experts.is_even else part
            found.setdefault((member, split), []).append(rank)
    return [RankClass(member, tuple(ranks), part) for (member, part), ranks in found.items()]


class _Drawn(NamedTuple):
    """What an iteration takes and fetches, shapes ``[classes, layers]``."""

    taken_ns: Values
    fetched: Floats


class ExpertCosts:
    """Prices the blocks of one pipeline stage that route tokens to experts.

    Args:
        routing: Where tokens go.
        source: Prices what that asks of a rank.
        layout: How the model is cut.
        classes: Of the graph.
        rows: Which of the routing's layers are this stage's.
    """

    def __init__(
        self,
        routing: ExpertRouting,
        source: ExpertLatencySource,
        layout: ParallelLayout,
        classes: Sequence[RankClass],
        rows: slice,
    ) -> None:
        self._routing = routing
        self._source = source
        self._tp = layout.tp
        self._rows = rows
        self._classes_of: dict[int, list[int]] = {}
        for index, rank_class in enumerate(classes):
            self._classes_of.setdefault(rank_class.member, []).append(index)
        self._parts = np.array([rank_class.part for rank_class in classes])
        self._expected: dict[tuple[int, ...], _Drawn] = {}
        self._last: tuple[tuple[int, ...], _Drawn] | None = None

    def draw_ns(self, tokens: tuple[int, ...]) -> Values:
        """Return what ``moe`` takes in the next iteration, shape ``[classes, layers]``.

        Args:
            tokens: Of every member, padded.
        """
        known = self._expected.get(tokens)
        if known is None:
            known, is_expectation = self._price(tokens)
            if is_expectation:
                remember(self._expected, tokens, known)
        self._last = (tokens, known)
        return known.taken_ns

    def last_ns(self, tokens: tuple[int, ...]) -> Values:
        """Return the iteration that was drawn last, if it was one of so many tokens; else draw."""
        return self._last_drawn(tokens).taken_ns

    def last_fetched(self, tokens: tuple[int, ...]) -> Floats:
        """Return the experts of the same iteration that get a token and are not on the device."""
        return self._last_drawn(tokens).fetched

    def _last_drawn(self, tokens: tuple[int, ...]) -> _Drawn:
        if self._last is None or self._last[0] != tokens:
            self.draw_ns(tokens)
        assert self._last is not None
        return self._last[1]

    def _price(self, tokens: tuple[int, ...]) -> tuple[_Drawn, bool]:
        is_alone = len(tokens) == 1
        gathered = tokens[0] if is_alone else int(row_counts(tokens, self._tp)[0][Rows.ALL])
        load, is_expectation = self._routing.load(gathered)
        pairs, activated = load.pairs[self._rows], load.activated_experts[self._rows]
        found = np.empty((len(self._parts), len(pairs)), dtype=np.int64)
        for member, classes in self._classes_of.items():
            parts = self._parts[classes]
            work = ExpertWork(tokens[member], gathered, pairs[:, parts], activated[:, parts])
            found[classes] = self._source.moe_latency_ns(work).T
        return _Drawn(found, load.fetched_experts[self._rows][:, self._parts].T), is_expectation
