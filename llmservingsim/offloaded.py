"""Iterations of an instance of which another device computes a part: their graphs, and whether batches are split."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from llmservingsim.backend import Backend, GraphId
from llmservingsim.instance import Instance
from llmservingsim.serving.batch import Batch
from llmservingsim.serving.kv_groups import HALVES, GroupSums, KvGroups
from llmservingsim.shapes import BatchShape
from llmservingsim.trace import GraphBuilder
from llmservingsim.trace.interleaving import InterleavedBuilder, Piece, predict_ns
from llmservingsim.trace.offloading import ATTENTION, Form, OffloadBuilder
from llmservingsim.units import NS_PER_MS

Interleaving = Literal["never", "always", "auto"]


class _Variant(NamedTuple):
    """A graph and its builder."""

    graph: GraphId
    builder: GraphBuilder


class OffloadedIterations:
    """Chooses the graph of each batch of one instance.

    Args:
        instance: Whose; asks this object about each batch from now on.
        builder: Its builder; those of other forms are made from it.
        backend: Times iterations.
        interleaving: Whether batches are split where they can be: ``auto`` where that is predicted to take less time.

    Attributes:
        groups: Where the requests' keys and values lie; None if attention stays.
        num_split: Iterations that ran in two halves.
        busy_ns: For every iteration, the time that groups of channels computed attention, added up over groups and
            blocks; the graph of a batch that meets no other has the longest group alone.
    """

    def __init__(
        self, instance: Instance, builder: OffloadBuilder, backend: Backend, interleaving: Interleaving
    ) -> None:
        assert builder.offload is not None
        helper = builder.offload.helpers.get(ATTENTION)
        self.groups = KvGroups(helper.device.num_groups, instance.engine.cohort) if helper is not None else None
        self.num_split = 0
        self.busy_ns = array("q")
        self._base = builder
        self._backend = backend
        self._interleaving = interleaving
        self._whole: dict[Form, OffloadBuilder] = {builder.form: builder}
        self._halves: dict[tuple[int, Form], OffloadBuilder] = {}
        self._variants: dict[tuple[Form, ...], _Variant] = {}
        instance.variant = self._choose
        instance.offloading = self._summary

    def _choose(self, batch: Batch) -> tuple[GraphId, GraphBuilder] | None:
        """Return the graph and the builder of a batch; None for those of the instance itself."""
        shape = batch.shape
        sums = self.groups.formed(batch) if self.groups is not None else None
        whole = self._made(self._whole, Form.of(shape), Form.of(shape))
        if sums is not None:
            whole.expect(sums.requests.sum(axis=0), sums.context_tokens.sum(axis=0))
            self.busy_ns.append(int(whole.attention_ns.sum()) * whole.model.num_layers)
            pieces = self._split(shape, sums) if self._interleaving != "never" else []
            if pieces and (self._interleaving == "always" or predict_ns(pieces) < predict_ns([(whole, shape)])):
                return self._interleaved(pieces)
        return None if whole is self._base else self._variant((whole.form,), lambda: whole)

    def _split(self, shape: BatchShape, sums: GroupSums) -> list[Piece]:
        """Cut a batch in two, prompts with the half that has less decode context; nothing if one would be empty."""
        totals = sums.context_tokens.sum(axis=1)
        with_prompts = int(totals.argmin())
        pieces: list[Piece] = []
        for half in range(HALVES):
            decodes, kv_tokens = int(sums.requests[half].sum()), int(totals[half])
            prefills = shape.prefills if half == with_prompts else ()
            tokens = decodes + sum(chunk.query_len for chunk in prefills)
            if not tokens:
                return []
            own = BatchShape(prefills, decodes, kv_tokens, min(shape.max_decode_kv_tokens, kv_tokens), tokens)
            form = Form.of(own)
            builder = self._made(self._halves, (half, form), form)
            builder.expect(sums.requests[half], sums.context_tokens[half])
            pieces.append((builder, own))
        return pieces

    def _interleaved(self, pieces: list[Piece]) -> _Variant:
        (first, one), (second, other) = pieces
        variant = self._variant((first.form, second.form), lambda: InterleavedBuilder(first, second))
        assert isinstance(variant.builder, InterleavedBuilder)
        variant.builder.shapes = (one, other)
        self.num_split += 1
        return variant

    def _made(self, known: dict[Any, OffloadBuilder], key: Any, form: Form) -> OffloadBuilder:
        """Return a builder of a form that is used for one thing alone, made when it is first needed."""
        if key not in known:
            known[key] = self._base.of(form)
            self._base.others.append(known[key])
        return known[key]

    def _variant(self, forms: tuple[Form, ...], make: Callable[[], GraphBuilder]) -> _Variant:
        if forms not in self._variants:
            builder = make()
            self._variants[forms] = _Variant(self._backend.register(builder.template), builder)
        return self._variants[forms]

    def _summary(self) -> dict[str, Any]:
        """Say what runs where, for the run's summary."""
        assert self._base.offload is not None
        return {
            "operators": {name: helper.where for name, helper in sorted(self._base.offload.helpers.items())},
            "devices": {
                helper.where: dict(helper.device.provenance()) for helper in self._base.offload.helpers.values()
            },
            "groups": self.groups.num_groups if self.groups is not None else 0,
            "interleaved_iterations": self.num_split,
            "attention_ms": sum(self.busy_ns) / NS_PER_MS,
        }
