"""A tiny mixture of experts, every duration and message written out by hand.

Two blocks, 4 experts of which a token visits 2, hidden size 8 in two bytes. Members run in lock step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from llmservingsim.backend import MemoryModel, NativeBackend, NetworkModel, SystemModel
from llmservingsim.backend.astra_files import write_memory, write_network, write_system
from llmservingsim.config.catalog import ModelFamily, ModelSpec
from llmservingsim.errors import InvariantError, PluginError
from llmservingsim.graph import CollectiveType, NodeType
from llmservingsim.latency import ExpertWork
from llmservingsim.model import ParallelLayout
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.trace import IterationBuilder
from llmservingsim.trace.chakra import expand, write_comm_groups, write_traces
from llmservingsim.trace.experts import (
    BalancedRouter,
    ExpertGeometry,
    ExpertRouting,
    ExpertSplit,
    place_experts,
)
from llmservingsim.trace.experts.policies import RandomRouter

MODEL = ModelSpec(
    name="acme/tiny-moe",
    family=ModelFamily.MOE,
    model_type="mixtral",
    hidden_size=8,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=2,
    intermediate_size=16,
    vocab_size=64,
    max_position_embeddings=4096,
    num_experts=4,
    experts_per_token=2,
    moe_intermediate_size=16,
)
GEOMETRY = ExpertGeometry((0, 1), 4, 2)
FIXED = {
    "embedding": 1,
    "layernorm": 2,
    "qkv_proj": 3,
    "rotary_emb": 4,
    "o_proj": 5,
    "final_layernorm": 6,
    "lm_head": 7,
    "sampler": 8,
}


class Priced:
    """A fixed time per operator, a key per nanosecond, and for experts 1000 per pair and 7 per activated expert."""

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return shape.decode_kv_tokens if operator == "attention" else FIXED[operator] * 10

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.rint(1000 * work.pairs + 7 * work.activated_experts + work.tokens).astype(np.int64)

    def provenance(self) -> dict[str, object]:
        return {"source": "priced"}


class Uneven:
    """Every token visits experts 0 and 1 in block 0, experts 0 and 3 in block 1."""

    def __init__(self, geometry: ExpertGeometry) -> None:
        self._visits = np.array([[1, 1, 0, 0], [1, 0, 0, 1]])

    def split(self, tokens: int) -> ExpertSplit:
        return ExpertSplit(tokens * self._visits)


def decodes(count: int, kv: int) -> BatchShape:
    return BatchShape((), count, count * kv, kv, count)


def built(
    layout: ParallelLayout, router: type = BalancedRouter, backend: str = "allgather_reducescatter", sizes: tuple = ()
) -> IterationBuilder:
    routing = ExpertRouting(GEOMETRY, router(GEOMETRY), place_experts("linear", 4, layout.ep), backend)
    members = [range(m * layout.tp, (m + 1) * layout.tp) for m in range(layout.dp)]
    return IterationBuilder(MODEL, layout, members, Priced(), sizes, experts=routing)


def chain(builder: IterationBuilder, rank_class: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names of a class's collectives with the ranks they span."""
    graph = builder.template
    return [
        (CollectiveType(node.collective).name, graph.groups[node.group])
        for node in graph.nodes()
        if node.type is NodeType.COMM_COLL and node.rank_class == rank_class
    ]


def test_one_rank_computes_all_pairs() -> None:
    """3 tokens: 6 pairs; an expert is missed with (1 - 2/4)^3 = 1/8, so 4 * 7/8 = 3.5 are activated.

    Block: layernorm 20, qkv 30, rotary 40, attention 3 * 50, o_proj 50, layernorm 20, moe 6000 + 24.5 + 3 = 6027.5,
    rounded to even 6028. Around: 10; 60 + 70 + 80.
    """
    builder = built(ParallelLayout())
    assert builder.durations_ns([decodes(3, 50)]).tolist() == [2 * (20 + 30 + 40 + 150 + 50 + 20 + 6028) + 10 + 210]
    assert builder.sizes_bytes([decodes(3, 50)]) is None


def test_tensor_parallel_ranks_with_half_of_the_experts_each_sum_their_results() -> None:
    """As vLLM in one instance: the ranks see the same 4 tokens, so nothing is dispatched.

    8 pairs over 2 parts are 4 each; 2 * (1 - 1/16) = 1.875 experts: 4000 + 13.125 + 4 -> 4017. Messages
    are 4 * 8 * 2 bytes.
    """
    builder = built(ParallelLayout(tp=2, ep=2))
    shape = [decodes(4, 10)]
    first, mlp = 10 + 20 + 30 + 40 + 40 + 50, 20 + 4017
    assert builder.template.rank_classes == ((0, 1),)
    assert builder.durations_ns(shape).tolist() == [first, 0, mlp, 0, first - 10, 0, mlp, 0, 210]
    assert builder.sizes_bytes(shape).tolist() == [0, 64, 0, 64, 0, 64, 0, 64, 0]
    assert {name for name, _ in chain(builder, 0)} == {"ALL_REDUCE"}


def test_two_instances_that_share_experts_gather_tokens_and_scatter_results() -> None:
    """Captured sizes 1, 2, 4, 8: members with 3 and 5 tokens both pad to 8, so the experts see 16.

    Each rank has 16 * 2 / 2 = 16 pairs and 2 * (1 - 2^-16) = 1.99997 experts: 16000 + 13.99979 + 8 -> 16022.
    All-gather: 8 tokens * (8 hidden + 4 logits) * 2 bytes = 192 per rank; reduce-scatter: 16 * 8 * 2 = 256 in full.
    """
    builder = built(ParallelLayout(ep=2, dp=2), sizes=(1, 2, 4, 8))
    shapes = [decodes(3, 50), decodes(5, 10)]
    assert builder.template.rank_classes == ((0,), (1,))
    before = [20 + 30 + 40 + kv + 50 + 20 for kv in (150, 50)]
    expected = [[10 + b, 0, 16022, 0, b, 0, 16022, 0, 210] for b in before]
    assert builder.durations_ns(shapes).tolist() == [*expected[0], *expected[1]]
    assert builder.sizes_bytes(shapes).tolist() == [0, 192, 0, 256, 0, 192, 0, 256, 0] * 2
    for rank_class in (0, 1):
        assert chain(builder, rank_class) == [("ALL_GATHER", (0, 1)), ("REDUCE_SCATTER", (0, 1))] * 2


def test_members_without_graphs_keep_their_own_tokens() -> None:
    """3 and 5 tokens, 8 gathered. A rank puts in (3 + 5) / 2 = 4 tokens on average: 4 * 24 = 96 bytes; 8 * 16 = 128.

    8 pairs, 2 * (1 - 1/256) = 1.992 experts: 8000 + 13.945 + own tokens.
    """
    builder = built(ParallelLayout(ep=2, dp=2))
    shapes = [decodes(3, 50), decodes(5, 10)]
    assert builder.sizes_bytes(shapes).tolist() == [0, 96, 0, 128, 0, 96, 0, 128, 0] * 2
    assert builder.durations_ns(shapes)[[2, 11]].tolist() == [8017, 8019]


def test_a_prompt_beyond_the_captured_sizes_leaves_every_member_with_its_own_padding() -> None:
    builder = built(ParallelLayout(ep=2, dp=2), sizes=(1, 2, 4, 8))
    shapes = [BatchShape((Chunk(9, 0),), 0, 0, 0, 9), decodes(3, 10)]
    assert builder.sizes_bytes(shapes)[3] == (9 + 4) * 16


def test_a_loaded_rank_works_longer_and_forms_a_class_of_its_own() -> None:
    """4 tokens, all pairs of block 0 on the first rank; in block 1 one expert on either.

    First: 8000 + 14 + 4, then 4000 + 7 + 4. Second: nothing but its own 4 tokens, then 4011.
    """
    builder = built(ParallelLayout(tp=2, ep=2), Uneven)
    assert builder.template.rank_classes == ((0,), (1,))
    found = builder.durations_ns([decodes(4, 10)]).reshape(2, -1)
    assert (found[:, 2] - 20).tolist() == [8018, 4]
    assert (found[:, 6] - 20).tolist() == [4011, 4011]
    assert (np.delete(found, [2, 6], axis=1)[0] == np.delete(found, [2, 6], axis=1)[1]).all()
    assert chain(builder, 0) == chain(builder, 1) == [("ALL_REDUCE", (0, 1))] * 4


def test_instances_of_two_ranks_slice_their_tokens() -> None:
    """tp 2, two members, ep 4: a rank puts in 3 of 5 tokens (rounded up), the experts see 4 * 3 = 12.

    All-gather over 4 ranks 3 * 24 = 72; reduce-scatter 12 * 16 = 192; all-gather over the member's two 3 * 16 = 48.
    """
    builder = built(ParallelLayout(tp=2, ep=4, dp=2))
    shapes = [decodes(5, 10)] * 2
    assert builder.sizes_bytes(shapes).tolist() == [0, 80, 0, 72, 0, 192, 48, 0, 80, 0, 72, 0, 192, 48, 0] * 2
    everyone = (0, 1, 2, 3)
    block = [("ALL_REDUCE", (2, 3)), ("ALL_GATHER", everyone), ("REDUCE_SCATTER", everyone), ("ALL_GATHER", (2, 3))]
    assert chain(builder, 1) == block * 2


@pytest.mark.parametrize(
    ("backend", "copies"), [("deepep_high_throughput", 2 * (1 - 1 / 6)), ("deepep_low_latency", 2)]
)
def test_an_all_to_all_sends_a_token_to_the_ranks_of_its_experts(backend: str, copies: float) -> None:
    """6 ways to choose 2 of 4 experts, one of which misses a rank's two: 5/6 of 2 ranks; or once per expert, 2."""
    builder = built(ParallelLayout(ep=2, dp=2), backend=backend)
    assert {name for name, _ in chain(builder, 0)} == {"ALL_TO_ALL"}
    assert builder.sizes_bytes([decodes(6, 10)] * 2).tolist()[:4] == [0, 6 * 16 * copies, 0, 6 * 16 * copies]


def test_stages_hold_their_own_blocks_and_the_ends_their_operators() -> None:
    layout = ParallelLayout(pp=2)
    stages = []
    for stage in (0, 1):
        routing = ExpertRouting(GEOMETRY, Uneven(GEOMETRY), place_experts("linear", 4, 1))
        stages.append(IterationBuilder(MODEL, layout, [[stage]], Priced(), (), stage, routing))
    (first,), (last,) = (builder.durations_ns([decodes(4, 10)]) for builder in stages)
    block = 20 + 30 + 40 + 40 + 50 + 20 + 8000 + 14 + 4
    assert (first, last) == (10 + block, block + 210)
    assert stages[1].export([decodes(4, 10)]).names[:2] == ("block1.layernorm", "block1.qkv_proj")


def test_ranks_of_a_stage_without_experts_do_the_same_work_however_experts_are_loaded() -> None:
    """Block 0 has none here: 20 + 30 + 40 + kv + 50 and an all-reduce, 20 + 60 + 30 + 70 and another, per member."""
    model = msgspec.structs.replace(MODEL, first_dense_layers=1)
    geometry = ExpertGeometry((1,), 4, 2)
    routing = ExpertRouting(geometry, RandomRouter(geometry), place_experts("linear", 4, 4))
    layout = ParallelLayout(tp=2, pp=2, ep=4, dp=2)
    first, last = (IterationBuilder(model, layout, [[0, 1], [4, 5]], Dense(), (), stage, routing) for stage in range(2))
    assert first.template.rank_classes == ((0, 1), (4, 5))
    assert last.template.rank_classes == ((0,), (1,), (4,), (5,))
    found = first.durations_ns([decodes(4, 10), decodes(2, 10)]).tolist()
    assert found == [10 + 140 + 40, 0, 180, 0, 10 + 140 + 20, 0, 180, 0]


class Dense(Priced):
    """Times a dense block's operators too."""

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        dense = {"gate_up_proj": 60, "act_fn": 30, "down_proj": 70}
        return dense[operator] if operator in dense else super().latency_ns(operator, shape)


def test_a_stage_that_ends_with_a_collective_has_nothing_behind_it() -> None:
    routing = ExpertRouting(GEOMETRY, Uneven(GEOMETRY), place_experts("linear", 4, 1))
    builder = IterationBuilder(MODEL, ParallelLayout(tp=2, pp=2), [[0, 1]], Priced(), (), 0, routing)
    assert builder.template.type[-1] == NodeType.COMM_COLL


def test_a_source_that_knows_no_experts_is_refused() -> None:
    class Dense:
        def latency_ns(self, operator: str, shape: BatchShape) -> int:
            return 1

        def provenance(self) -> dict[str, object]:
            return {}

    routing = ExpertRouting(GEOMETRY, BalancedRouter(GEOMETRY), place_experts("linear", 4, 1))
    with pytest.raises(PluginError, match="'Dense' has no method 'moe_latency_ns', which acme/tiny-moe"):
        IterationBuilder(MODEL, ParallelLayout(), [[0]], Dense(), (), experts=routing)


def test_experts_that_nobody_routes_to_are_a_broken_law_and_not_free() -> None:
    with pytest.raises(InvariantError, match=r"acme/tiny-moe: .* needs experts and layout\.dp = 1 members"):
        IterationBuilder(MODEL, ParallelLayout(), [[0]], Priced(), ())
    routing = ExpertRouting(GEOMETRY, BalancedRouter(GEOMETRY), place_experts("linear", 4, 2))
    with pytest.raises(InvariantError, match=r"layout\.dp = 2 members, got 1"):
        IterationBuilder(MODEL, ParallelLayout(ep=2, dp=2), [[0]], Priced(), (), experts=routing)


LAYOUTS = [
    ParallelLayout(),
    ParallelLayout(tp=2),
    ParallelLayout(tp=2, ep=2),
    ParallelLayout(tp=4, ep=2),
    ParallelLayout(ep=2, dp=2),
    ParallelLayout(tp=2, ep=4, dp=2),
    ParallelLayout(tp=2, ep=2, dp=2),
    ParallelLayout(ep=4, dp=4),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("router", [BalancedRouter, Uneven])
@pytest.mark.parametrize("backend", ["allgather_reducescatter", "deepep_low_latency"])
def test_classes_single_ranks_and_exports_take_the_same_time(
    layout: ParallelLayout, router: type, backend: str
) -> None:
    builder = built(layout, router, backend)
    shapes = [decodes(3 + m, 40 + 7 * m) for m in range(layout.dp)]
    template = builder.template
    durations, sizes = builder.durations_ns(shapes), builder.sizes_bytes(shapes)
    template.duration_ns[:] = durations
    template.size_bytes[:] = 0 if sizes is None else sizes
    ranks = layout.tp * layout.dp
    network = NetworkModel(["Ring"], [ranks], [16.0], [500.0])
    ends = []
    for graph in (template, expand(template), builder.export(shapes)):
        backend_ = NativeBackend(network, SystemModel(local_mem_bw_gbps=1000))
        ticket = backend_.submit(backend_.register(graph))
        assert backend_.advance(2**62) == [ticket]
        ends.append(backend_.rank_finish_ns(ticket).tolist())
    assert ends[0] == ends[1] == ends[2]
    assert max(ends[0]) >= durations.reshape(len(template.rank_classes), -1).sum(axis=1).max()


@pytest.mark.parametrize("layout", [ParallelLayout(ep=2, dp=2), ParallelLayout(tp=2, ep=4, dp=2)], ids=str)
@pytest.mark.parametrize("router", [BalancedRouter, Uneven])
def test_members_in_lock_step_take_as_long_in_their_traces(
    layout: ParallelLayout, router: type, tmp_path: Path, cli: Callable[..., Any]
) -> None:
    builder = built(layout, router)
    graph = builder.export([decodes(3, 40), decodes(5, 70)])
    ranks = layout.tp * layout.dp
    network, system = NetworkModel(["Ring"], [ranks], [16.0], [500.0]), SystemModel(local_mem_bw_gbps=1000)
    backend = NativeBackend(network, system)
    ticket = backend.submit(backend.register(graph))
    backend.advance(2**62)
    write_traces(graph, tmp_path / "step")
    write_comm_groups(graph, tmp_path / "groups.json")
    write_network(tmp_path / "network.yml", network)
    write_system(tmp_path / "system.json", system)
    write_memory(tmp_path / "memory.json", MemoryModel(), ranks)
    files = {
        "workload": "step",
        "system": "system.json",
        "network": "network.yml",
        "remote-memory": "memory.json",
        "comm-group": "groups.json",
    }
    options = [part for kind, name in files.items() for part in (f"--{kind}-configuration", tmp_path / name)]
    answer = cli("astra", *options, "--json")
    assert answer.code == 0, answer.err
    found = {rank["rank"]: rank["finish_ns"] for rank in json.loads(answer.out)["ranks"]}
    assert found == dict(enumerate(backend.rank_finish_ns(ticket).tolist()))
