"""A pipeline stage cut at its collectives.

::

    embedding | block 0: layernorm .. o_proj (all-reduce) layernorm .. down_proj (all-reduce) | block 1 ... | final
    norm, lm_head, sampler

The embedding is the first stage's, what follows the last block the last stage's. In a mixture-of-experts block ``moe``
stands for the MLP. Within one instance it ends with an all-reduce too, because all tensor-parallel ranks see the same
tokens, however the experts are divided among them. Instances that share experts gather their tokens before ``moe`` and
scatter the results behind it:

    layernorm (dispatch) moe (combine, all-gather over the tensor-parallel ranks if there are several)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import comb
from typing import NamedTuple

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.graph import CollectiveType
from llmservingsim.model import (
    EH_PROJ,
    Operator,
    OperatorKind,
    ParallelLayout,
    block_operators,
    end_operators,
    stage_range,
    start_operators,
)


class Rows(IntEnum):
    """Tokens whose vectors a collective moves; index of a column of `row_counts`."""

    MEMBER = 0
    """All tokens of the member."""
    MEMBER_SLICE = 1
    """One tensor-parallel rank's share of them, rounded up."""
    ALL = 2
    """The slices of all ranks of all members."""
    MEAN_SLICE = 3
    """One rank's share of these."""


def row_counts(tokens: Sequence[int], tp: int) -> list[list[float]]:
    """Return the rows of each kind for members that compute so many tokens, shape ``[members, kinds]``."""
    slices = [-(-t // tp) for t in tokens]
    everything = sum(slices) * tp
    mean = everything / (tp * len(tokens))
    return [[t, s, everything, mean] for t, s in zip(tokens, slices, strict=True)]


@dataclass(frozen=True, slots=True)
class Collective:
    """A collective behind a segment.

    Attributes:
        label: What it is for.
        type: Chakra's.
        rows: Which tokens it moves.
        bytes_per_row: Of each token; the message size is ASTRA-sim's ``comm_size``, what one rank puts in.
        is_shared: It spans the ranks of all members, instead of those of each.
    """

    label: str
    type: CollectiveType
    rows: Rows
    bytes_per_row: float
    is_shared: bool = False


class Step(NamedTuple):
    """An operator at its place.

    Attributes:
        place: Such as ``block3``.
        operator: What runs.
        expert_layer: Which of the stage's mixture-of-experts blocks ``moe`` belongs to, counted from 0; else -1.
    """

    place: str
    operator: Operator
    expert_layer: int = -1


@dataclass(frozen=True, slots=True)
class Segment:
    """Operators without communication between them, and the collectives that follow, one after another."""

    steps: tuple[Step, ...]
    collectives: tuple[Collective, ...] = ()

    def count(self, operator: str) -> int:
        """How often an operator of this name runs in the segment."""
        return sum(step.operator.name == operator for step in self.steps)


def cut_stage(model: ModelSpec, layout: ParallelLayout, stage: int, all2all_backend: str) -> list[Segment]:
    """Cut the operators of a pipeline stage before and behind collectives."""
    return _cut(stage_steps(model, layout, stage), _Exchange(model, layout, all2all_backend))


def cut_drafter(
    model: ModelSpec, layout: ParallelLayout, all2all_backend: str, *, joins_hidden_states: bool
) -> list[Segment]:
    """Cut the operators of a drafter's forward step, which ends with the head: it takes the likeliest token.

    Args:
        model: The drafter.
        layout: How it is cut.
        all2all_backend: As in `cut_stage`.
        joins_hidden_states: It begins with the model's hidden states, which it joins with the embedding of the token.
    """
    start = (*start_operators(), *([EH_PROJ] if joins_hidden_states else []))
    end = [operator for operator in end_operators() if operator.kind is not OperatorKind.SAMPLER]
    steps = [Step("start", operator) for operator in start]
    steps += _block_steps(model, range(model.num_layers))
    steps += [Step("end", operator) for operator in end]
    return _cut(steps, _Exchange(model, layout, all2all_backend))


def _cut(steps: Iterable[Step], exchange: _Exchange) -> list[Segment]:
    segments: list[Segment] = []
    current: list[Step] = []
    for step in steps:
        dispatch, after = exchange.around(step.operator)
        if dispatch:
            segments.append(Segment(tuple(current), dispatch))
            current = []
        current.append(step)
        if after:
            segments.append(Segment(tuple(current), after))
            current = []
    return [*segments, Segment(tuple(current))] if current else segments


def stage_steps(model: ModelSpec, layout: ParallelLayout, stage: int) -> Iterator[Step]:
    """Yield the operators of a pipeline stage at their places, in order."""
    if stage == 0:
        yield from (Step("start", operator) for operator in start_operators())
    yield from _block_steps(model, stage_range(model.num_layers, layout.pp, stage))
    if stage == layout.pp - 1:
        yield from (Step("end", operator) for operator in end_operators())


def _block_steps(model: ModelSpec, blocks: Iterable[int]) -> Iterator[Step]:
    expert_layer = 0
    for block in blocks:
        for operator in block_operators(model, block):
            is_moe = operator.kind is OperatorKind.MOE
            yield Step(f"block{block}", operator, expert_layer if is_moe else -1)
            expert_layer += is_moe


class _Exchange:
    """The collectives around an operator."""

    def __init__(self, model: ModelSpec, layout: ParallelLayout, all2all_backend: str) -> None:
        self._tp, self._members = layout.tp, layout.dp
        hidden = model.hidden_size * model.dtype_bytes
        self._all_reduce = Collective("all_reduce", CollectiveType.ALL_REDUCE, Rows.MEMBER, hidden)
        self._gather_slices = Collective("all_gather", CollectiveType.ALL_GATHER, Rows.MEMBER_SLICE, hidden)
        if layout.ep > 1 and all2all_backend != "allgather_reducescatter":
            to_each = _copies_sent(model, layout, all2all_backend) * hidden
            there, back = (
                Collective(label, CollectiveType.ALL_TO_ALL, Rows.MEAN_SLICE, to_each, is_shared=True)
                for label in ("dispatch", "combine")
            )
        else:
            routed = hidden + model.num_experts * model.dtype_bytes
            there = Collective("dispatch", CollectiveType.ALL_GATHER, Rows.MEAN_SLICE, routed, is_shared=True)
            back = Collective("combine", CollectiveType.REDUCE_SCATTER, Rows.ALL, hidden, is_shared=True)
        self._dispatch, self._combine = there, back

    def around(self, operator: Operator) -> tuple[tuple[Collective, ...], tuple[Collective, ...]]:
        """Return what comes before and what behind."""
        if operator.kind is OperatorKind.MOE and self._members > 1:
            return (self._dispatch,), (self._combine, *([self._gather_slices] if self._tp > 1 else []))
        return (), (self._all_reduce,) if operator.all_reduce and self._tp > 1 else ()


def _copies_sent(model: ModelSpec, layout: ParallelLayout, all2all_backend: str) -> float:
    """How many ranks an all-to-all brings a token's vector to, its own included, when all choices are alike.

    ``deepep_low_latency`` sends one per expert that the token visits; ``deepep_high_throughput`` one per rank with such
    an expert, which are ``1 - C(E - E/ep, k) / C(E, k)`` of the ranks.
    """
    experts, k = model.num_experts, model.experts_per_token
    if all2all_backend == "deepep_low_latency":
        return float(k * layout.expert_slices)
    missed = comb(experts - experts // layout.ep, k) / comb(experts, k)
    return layout.tp * layout.dp * (1.0 - missed)
