"""Which weights and caches of a model lie off its devices, and how many bytes of each.

Places of operators are named as in graphs: ``start``, ``block3``, ``end``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import groupby
from typing import NamedTuple

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.model.layout import ParallelLayout, stage_range
from llmservingsim.model.memory import weight_bytes as all_weight_bytes
from llmservingsim.model.operators import (
    Operator,
    OperatorKind,
    block_operators,
    end_operators,
    start_operators,
)
from llmservingsim.model.weights import WeightCount, expert_weights, operator_weights

NPU = "npu"
EXPERTS = "experts"
"""What rules call the routed experts of ``moe``."""


class PieceKind(Enum):
    """How much of a piece an iteration needs."""

    WEIGHTS = "weights"
    """All of it."""
    ROWS = "rows"
    """A row per token: of the embedding."""
    EXPERTS = "experts"
    """The experts that tokens visit."""


class Piece(NamedTuple):
    """Weights of one operator, or a part of them, that lie together.

    Attributes:
        where: Name of a memory.
        kind: How much an iteration needs of it.
        num_bytes: On one rank.
        unit_bytes: Of a row or an expert.
    """

    where: str
    kind: PieceKind
    num_bytes: int
    unit_bytes: int = 0


@dataclass(frozen=True)
class Placement:
    """Where the weights and the KV cache of a model lie.

    Attributes:
        model: Whose.
        layout: How it is cut.
        default: Where weights lie of which nothing else is said.
        blocks: Where those of some blocks lie.
        layers: Where those of some operators, and ``experts``, lie; comes before `blocks`.
        kv: Where the keys and values of some blocks lie; those of the others lie on the device.
        prefetch_depth: Blocks that are fetched ahead.
        across_iterations: Whether the first ones are fetched while the iteration before runs.
        on_demand: Whether experts are fetched when the router has chosen them.
        cached_experts: Experts of each block that stay on the device.
    """

    model: ModelSpec
    layout: ParallelLayout
    default: str = NPU
    blocks: Mapping[int, str] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)
    kv: Mapping[int, str] = field(default_factory=dict)
    prefetch_depth: int = 1
    across_iterations: bool = False
    on_demand: bool = False
    cached_experts: int = 0

    def pieces(self, place: str, operator: str) -> tuple[Piece, ...]:
        """Return the weights of an operator that lie off the device."""
        found = [piece for piece in self._all_pieces(place, operator) if piece.where != NPU and piece.num_bytes]
        return tuple(found)

    def stored_bytes(self, stage: int) -> dict[str, int]:
        """Return what one rank of a stage keeps in each memory but the device's."""
        found: dict[str, int] = {}
        for place, operator in self._operators(stage):
            if self._is_tied_head(operator.name):
                continue  # the embedding's table, which is there once
            for piece in self.pieces(place, operator.name):
                found[piece.where] = found.get(piece.where, 0) + piece.num_bytes
        return found

    def buffer_bytes(self, stage: int) -> int:
        """Return what one rank of a stage keeps free for weights that it fetches.

        Prefetched units have a buffer each, as many as are fetched ahead and one for that which is computed; experts on
        demand one for those of a block. Rows of the embedding come as hidden states.
        """
        units = [sum(p.num_bytes for p in pieces if self.is_prefetched(p)) for pieces in self.units(stage)]
        units = [size for size in units if size]
        count = min(self.prefetch_depth + 1, len(units))
        row = units + (units[: count - 1] if self.across_iterations else [])
        ahead = max((sum(row[k : k + count]) for k in range(len(units))), default=0)
        experts = [p.num_bytes for pieces in self.units(stage) for p in pieces if self.is_on_demand(p)]
        return ahead + max(experts, default=0)

    def weight_bytes(self, _: ModelSpec, layout: ParallelLayout, stage: int) -> int:
        """Return what weights and their buffers take on the device of one rank."""
        own = self if layout == self.layout else replace(self, layout=layout)
        return (
            all_weight_bytes(self.model, layout, stage)
            - sum(own.stored_bytes(stage).values())
            + own.buffer_bytes(stage)
        )

    def kv_layers(self, _: ModelSpec, layout: ParallelLayout, stage: int) -> int:
        """Return the blocks of a stage whose keys and values lie on the device."""
        blocks = stage_range(self.model.num_layers, layout.pp, stage)
        return sum(self.kv.get(block, NPU) == NPU for block in blocks if self.model.keeps_kv(block))

    def kv_stored_layers(self, stage: int) -> dict[str, int]:
        """Return how many blocks of a stage keep keys and values in each memory but the device's."""
        blocks = stage_range(self.model.num_layers, self.layout.pp, stage)
        return dict(Counter(where for block in blocks if (where := self.kv.get(block, NPU)) != NPU))

    def units(self, stage: int) -> list[list[Piece]]:
        """Return what lies off the device of a stage, by its places, in order."""
        steps = self._operators(stage)
        return [
            [piece for _, operator in group for piece in self.pieces(place, operator.name)]
            for place, group in groupby(steps, key=lambda step: step[0])
        ]

    @property
    def keeps_kv(self) -> bool:
        """Whether keys and values of some block lie off the device."""
        return any(where != NPU for where in self.kv.values())

    def memories(self) -> set[str]:
        """Return the names of all memories that hold something, the device's apart."""
        weights = {where for stage in range(self.layout.pp) for where in self.stored_bytes(stage)}
        return (weights | set(self.kv.values())) - {NPU}

    def local_experts(self) -> int:
        """Experts of a block that a rank fetches if it fetches all."""
        return max(0, self.layout.local_experts(self.model) - self.cached_experts)

    def is_on_demand(self, piece: Piece) -> bool:
        """Whether a piece is fetched when its block has been reached."""
        return piece.kind is PieceKind.EXPERTS and self.on_demand

    def is_prefetched(self, piece: Piece) -> bool:
        """Whether a piece is fetched ahead into a buffer."""
        return piece.kind is not PieceKind.ROWS and not self.is_on_demand(piece)

    def _all_pieces(self, place: str, operator: str) -> Iterator[Piece]:
        total = operator_weights(self.model, operator, self.layout).size_bytes(self.model)
        where = self._where(place, operator)
        if operator == "embedding":
            yield Piece(where, PieceKind.ROWS, total, self.model.hidden_size * self.model.dtype_bytes)
        elif operator == "moe":
            expert = WeightCount(experts=expert_weights(self.model, self.layout)).size_bytes(self.model)
            experts = self.layout.local_experts(self.model) * expert
            yield Piece(where, PieceKind.WEIGHTS, total - experts)
            where = self.layers.get(EXPERTS, where)
            yield Piece(where, PieceKind.EXPERTS, self.local_experts() * expert, expert)
        else:
            yield Piece(where, PieceKind.WEIGHTS, total)

    def _where(self, place: str, operator: str) -> str:
        if self._is_tied_head(operator):
            place, operator = "start", "embedding"
        block = int(place.removeprefix("block")) if place.startswith("block") else -1
        return self.layers.get(operator, self.blocks.get(block, self.default))

    def _is_tied_head(self, operator: str) -> bool:
        return operator == "lm_head" and self.model.tie_word_embeddings and self.layout.pp == 1

    def _operators(self, stage: int) -> Sequence[tuple[str, Operator]]:
        """The operators of a stage with their places."""
        found = [("start", operator) for operator in start_operators()] if stage == 0 else []
        for block in stage_range(self.model.num_layers, self.layout.pp, stage):
            found += [(f"block{block}", operator) for operator in block_operators(self.model, block)]
        if stage == self.layout.pp - 1:
            found += [("end", operator) for operator in end_operators()]
        return found


def layer_names(model: ModelSpec) -> list[str]:
    """Return the names of what rules of layers may name: operators with weights, and the experts."""
    operators = [*start_operators(), *end_operators()]
    for block in range(model.num_layers):
        operators += block_operators(model, block)
    weighty = dict.fromkeys(op.name for op in operators if sum(operator_weights(model, op.name)))
    return [*weighty, *([EXPERTS] if any(op.kind is OperatorKind.MOE for op in operators) else [])]
