"""Whatever lies wherever: no byte of the weights is lost, and an iteration loads each that lies elsewhere once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from llmservingsim.config.catalog import ModelFamily, ModelSpec
from llmservingsim.graph import MemoryLocation, NodeType
from llmservingsim.latency import ExpertWork
from llmservingsim.model import ParallelLayout, Placement, layer_names, weight_bytes
from llmservingsim.model.weights import operator_weights
from llmservingsim.shapes import BatchShape
from llmservingsim.trace import FetchPlan, IterationBuilder, Site
from llmservingsim.trace.experts import BalancedRouter, ExpertGeometry, ExpertRouting, place_experts

BLOCKS = 5
TOKENS = 13
SITES = {name: Site(MemoryLocation.CXL, device) for device, name in enumerate(("cxl:0", "cxl:1", "cxl:2"))}
WHERE = st.sampled_from(["npu", *SITES])


class Timeless:
    """Nothing takes time."""

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return 0

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.zeros(work.pairs.shape, dtype=np.int64)

    def provenance(self) -> dict[str, object]:
        return {"source": "timeless"}


def model(experts: int, is_tied: bool) -> ModelSpec:
    return ModelSpec(
        name="acme/any",
        family=ModelFamily.MOE if experts else ModelFamily.DENSE,
        model_type="mixtral" if experts else "llama",
        hidden_size=64,
        num_layers=BLOCKS,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        intermediate_size=128,
        vocab_size=1000,
        max_position_embeddings=4096,
        tie_word_embeddings=is_tied,
        num_experts=experts,
        experts_per_token=2 if experts else 0,
        moe_intermediate_size=32 if experts else 0,
    )


@st.composite
def placements(draw: st.DrawFn) -> Placement:
    spec = model(draw(st.sampled_from([0, 4])), draw(st.booleans()))
    tp, pp = draw(st.sampled_from([1, 2])), draw(st.integers(1, 3))
    layout = ParallelLayout(tp, pp, ep=tp if spec.num_experts and draw(st.booleans()) else 1)
    return Placement(
        spec,
        layout,
        default=draw(WHERE),
        blocks=draw(st.dictionaries(st.integers(0, BLOCKS - 1), WHERE)),
        layers=draw(st.dictionaries(st.sampled_from(layer_names(spec)), WHERE)),
        prefetch_depth=draw(st.integers(0, 6)),
        across_iterations=draw(st.booleans()),
        cached_experts=draw(st.integers(0, 1)) if spec.num_experts else 0,
    )


@settings(max_examples=200, deadline=None)
@given(placement=placements())
def test_what_lies_elsewhere_and_what_is_left_are_all_weights(placement: Placement) -> None:
    spec, layout = placement.model, placement.layout
    for stage in range(layout.pp):
        stored, buffer = sum(placement.stored_bytes(stage).values()), placement.buffer_bytes(stage)
        assert stored >= 0
        assert placement.weight_bytes(spec, layout, stage) - buffer + stored == weight_bytes(spec, layout, stage)
        tied = operator_weights(spec, "lm_head", layout).size_bytes(spec) if spec.tie_word_embeddings else 0
        assert 0 <= buffer <= stored + tied


@settings(max_examples=100, deadline=None)
@given(placement=placements())
def test_an_iteration_loads_once_what_lies_elsewhere_and_rows_instead_of_the_table(placement: Placement) -> None:
    spec, layout = placement.model, placement.layout
    for stage in range(layout.pp):
        routing = None
        if spec.num_experts:
            geometry = ExpertGeometry(tuple(range(BLOCKS)), spec.num_experts, 2)
            held = place_experts("linear", spec.num_experts, layout.ep)
            routing = ExpertRouting(geometry, BalancedRouter(geometry), held)
        fetches = FetchPlan(placement, [SITES])
        built = IterationBuilder(spec, layout, [range(layout.tp)], Timeless(), (), stage, routing, fetches)
        shape = [BatchShape((), TOKENS, 10 * TOKENS, 10, TOKENS)]
        built.durations_ns(shape)
        sizes = built.sizes_bytes(shape)
        loads = np.flatnonzero(built.template.type == NodeType.MEM_LOAD)
        loaded = int(sizes[loads].sum()) if sizes is not None else 0
        expected = sum(placement.stored_bytes(stage).values())
        if stage == 0 and placement.pieces("start", "embedding"):
            expected += -(-TOKENS // layout.tp) * spec.hidden_size * spec.dtype_bytes
            expected -= operator_weights(spec, "embedding", layout).size_bytes(spec)
        if spec.tie_word_embeddings and layout.pp == 1 and placement.pieces("end", "lm_head"):
            expected += operator_weights(spec, "lm_head", layout).size_bytes(spec)
        assert loaded == expected
