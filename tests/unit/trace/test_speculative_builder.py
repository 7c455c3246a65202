"""Behind the model's nodes stand those of the drafter: one forward step per draft, on the same ranks."""

from __future__ import annotations

import numpy as np
import pytest

from llmservingsim.config.catalog import ModelFamily, ModelSpec, find_accelerator
from llmservingsim.graph import Graph, NodeType
from llmservingsim.latency import RooflineSource
from llmservingsim.model import ParallelLayout
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.trace import DrafterBuilder, IterationBuilder, SpeculativeBuilder, verification_sizes
from llmservingsim.trace.experts import EXPERT_ROUTERS, ExpertGeometry, ExpertRouting, place_experts

BLOCKS, DRAFTS = 3, 2
MODEL = ModelSpec(
    name="acme/tiny",
    family=ModelFamily.DENSE,
    model_type="llama",
    hidden_size=256,
    num_layers=BLOCKS,
    num_heads=8,
    num_kv_heads=4,
    head_dim=32,
    intermediate_size=512,
    vocab_size=1000,
    max_position_embeddings=4096,
)
BLOCK = ["layernorm", "qkv_proj", "rotary_emb", "attention", "o_proj"]
MLP = ["layernorm", "gate_up_proj", "act_fn", "down_proj"]
SMALL = ModelSpec(**{f: getattr(MODEL, f) for f in MODEL.__struct_fields__} | {"name": "acme/head", "num_layers": 1})
VERIFYING = BatchShape((Chunk(30, 10),), 2, 200, 120, 36, 4, 394)
"""A chunk of 30 tokens, and two decodes that verify two drafts each."""


class Priced:
    """A nanosecond per token, row, or key of attention; notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, BatchShape]] = []

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        self.asked.append((operator, shape))
        if operator == "attention":
            return shape.decode_kv_tokens + sum(c.query_len + c.context_len for c in shape.prefills)
        return shape.num_sequences if operator in ("lm_head", "sampler") else shape.num_tokens

    def provenance(self) -> dict[str, object]:
        return {"source": "priced"}


def target(tp: int = 1, ranks: range | None = None) -> IterationBuilder:
    return IterationBuilder(MODEL, ParallelLayout(tp=tp), [ranks or range(tp)], Priced(), ())


def drafter(tp: int = 1, ranks: range | None = None, draft_tp: int | None = None, **keys: object) -> DrafterBuilder:
    layout = ParallelLayout(tp=tp if draft_tp is None else draft_tp)
    return DrafterBuilder(SMALL, layout, [ranks or range(tp)], Priced(), (), num_passes=DRAFTS, **keys)  # type: ignore[arg-type]


def built(tp: int = 1, draft_tp: int | None = None, **keys: object) -> SpeculativeBuilder:
    return SpeculativeBuilder(target(tp), drafter(tp, None, draft_tp, **keys))


def is_chain(graph: Graph) -> bool:
    return [node.data_deps for node in graph.nodes()] == [(), *((i,) for i in range(len(graph) - 1))]


def test_a_drafters_first_step_computes_the_batch_and_the_others_a_token_per_sequence() -> None:
    first, second = drafter().passes(VERIFYING)
    assert first == VERIFYING._replace(num_drafts=0)
    assert first.num_sequences == 3  # a head for the last token of each
    assert second == BatchShape((), 3, 200 + 40 + 3, 121, 3)
    assert drafter(num_extra_tokens=1).passes(VERIFYING)[0].num_tokens == 36 + 3


def test_its_time_is_that_of_its_operators_without_a_sampler() -> None:
    part = drafter()
    (total,) = part.durations_ns((VERIFYING,))
    asked = {name for name, _ in part.source.asked}  # type: ignore[attr-defined]
    assert asked == {"embedding", *BLOCK, *MLP, "final_layernorm", "lm_head"}
    dense = len(["embedding", *BLOCK, *MLP, "final_layernorm"]) - 1
    assert total == dense * 36 + (200 + 40) + (3 + 4)  # the head of this shape still has its four drafts
    joined = drafter(joins_hidden_states=True)
    assert joined.durations_ns((VERIFYING,))[0] == total + 36


def test_an_iteration_is_the_models_chain_and_a_chain_per_draft() -> None:
    builder = built(tp=2)
    template = builder.template
    own = 2 * (2 * BLOCKS) + 1
    step = 2 * 2 + 1
    assert len(template) == own + DRAFTS * step
    assert is_chain(template)
    assert template.names[own].startswith("draft0.")
    assert template.names[-1] == "draft1.end"
    durations = builder.durations_ns((VERIFYING,))
    first, second = drafter(2).passes(VERIFYING)
    expected = [
        target(2).durations_ns((VERIFYING,)),
        drafter(2).durations_ns((first,)),
        drafter(2).durations_ns((second,)),
    ]
    assert durations.tolist() == np.concatenate(expected).tolist()


def test_messages_of_a_drafter_are_those_of_the_tokens_of_its_step() -> None:
    sizes = built(tp=2).sizes_bytes((VERIFYING,))
    assert sizes is not None
    row = 256 * 2
    own = [0, 36 * row] * (2 * BLOCKS) + [0]
    assert sizes.tolist() == own + ([0, 36 * row] * 2 + [0]) + ([0, 3 * row] * 2 + [0])


def test_a_drafter_on_one_rank_each_sends_nothing() -> None:
    builder = built(tp=2, draft_tp=1)
    tail = builder.template.type[2 * (2 * BLOCKS) + 1 :]
    assert tail.tolist() == [NodeType.COMP] * DRAFTS
    sizes = builder.sizes_bytes((VERIFYING,))
    assert sizes is not None
    assert sizes[-DRAFTS:].tolist() == [0, 0]
    assert builder.template.rank_classes == ((0, 1),)


def test_without_communication_there_are_no_sizes() -> None:
    assert built().sizes_bytes((VERIFYING,)) is None


@pytest.mark.parametrize("tp", [1, 2])
def test_an_export_takes_as_long_and_sends_as_much(tp: int) -> None:
    builder = built(tp, joins_hidden_states=True)
    exported = builder.export((VERIFYING,))
    assert is_chain(exported)
    assert exported.duration_ns.sum() == builder.durations_ns((VERIFYING,)).sum()
    sizes = builder.sizes_bytes((VERIFYING,))
    assert exported.size_bytes.sum() == (0 if sizes is None else sizes.sum())
    names = [name for name in exported.names if name.startswith("draft1.")]
    assert names[:2] == ["draft1.start.embedding", "draft1.start.eh_proj"]
    assert names[-1] == "draft1.end.lm_head"


def test_a_search_is_one_node_of_its_time_and_none_if_it_takes_none() -> None:
    builder = SpeculativeBuilder(target(2), None, 700)
    assert builder.template.names[-1] == "draft0.search"
    assert builder.durations_ns((VERIFYING,))[-1] == 700
    assert builder.export((VERIFYING,)).duration_ns[-1] == 700
    free = SpeculativeBuilder(target(2), None)
    assert free.template.names == target(2).template.names
    assert free.durations_ns((VERIFYING,)).tolist() == target(2).durations_ns((VERIFYING,)).tolist()


def test_ranks_that_hold_other_experts_all_run_the_drafter() -> None:
    """Round-robin routing tells four rank classes apart; the drafter, which is dense, has one."""
    keys = {f: getattr(MODEL, f) for f in MODEL.__struct_fields__}
    keys |= {"family": ModelFamily.MOE, "num_experts": 8, "experts_per_token": 2, "moe_intermediate_size": 512}
    model = ModelSpec(**keys)
    geometry = ExpertGeometry((0, 1, 2), 8, 2, 0)
    held = place_experts("linear", 8, 4)
    routing = ExpertRouting(geometry, EXPERT_ROUTERS["round_robin"](geometry), held, "allgather_reducescatter")
    layout = ParallelLayout(tp=4, ep=4)
    moe = IterationBuilder(
        model, layout, [range(4)], RooflineSource(model, layout, find_accelerator("H100")), (), experts=routing
    )
    builder = SpeculativeBuilder(moe, drafter(4))
    template = builder.template
    assert len(template.rank_classes) == 4
    assert len(template) == len(moe.template) + 4 * DRAFTS * (2 * 2 + 1)
    durations = builder.durations_ns((VERIFYING,)).reshape(4, -1)
    sizes = builder.sizes_bytes((VERIFYING,))
    assert sizes is not None
    own = len(moe.template) // 4
    assert (durations[:, own:] == durations[0, own:]).all()
    assert (sizes.reshape(4, -1)[:, own:] == sizes.reshape(4, -1)[0, own:]).all()
    assert durations[:, :own].ravel().tolist() == moe.durations_ns((VERIFYING,)).tolist()
    for index in range(4):
        chain = [node for node in template.nodes() if node.rank_class == index]
        assert [n.name for n in chain[own:]] == [n.name for n in template.nodes()[own : own + DRAFTS * 5]]


@pytest.mark.parametrize(
    ("sizes", "query_len", "expected"),
    [
        ((1, 2, 4, 8, 16), 1, (1, 2, 4, 8, 16)),
        ((1, 2, 4, 8, 16), 4, (4, 8, 16)),
        ((1, 2, 4, 8, 16), 3, (3, 6, 9)),
        ((1, 2, 4), 3, (3,)),
        ((), 4, ()),
        ((1, 2), 5, ()),
    ],
)
def test_graphs_are_captured_for_whole_verifications(
    sizes: tuple[int, ...], query_len: int, expected: tuple[int, ...]
) -> None:
    assert verification_sizes(sizes, query_len) == expected
