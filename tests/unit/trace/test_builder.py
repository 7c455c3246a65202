"""A batch becomes a graph: the template that is refilled, and the export with a node per operator."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.backend import NativeBackend, NetworkModel, SystemModel
from llmservingsim.config.catalog import ModelFamily, ModelSpec
from llmservingsim.graph import CollectiveType, Graph, NodeType
from llmservingsim.model import ParallelLayout, model_operators
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.trace import IterationBuilder

BLOCKS = 3
MODEL = ModelSpec(
    name="acme/tiny",
    family=ModelFamily.DENSE,
    model_type="qwen3",
    hidden_size=256,
    num_layers=BLOCKS,
    num_heads=8,
    num_kv_heads=4,
    head_dim=32,
    intermediate_size=512,
    vocab_size=1000,
    max_position_embeddings=4096,
    qk_norm=True,
)
BLOCK = ["layernorm", "qkv_proj", "qk_norm", "rotary_emb", "attention", "o_proj"]
MLP = ["layernorm", "gate_up_proj", "act_fn", "down_proj"]
END = ["final_layernorm", "lm_head", "sampler"]
OPERATORS = sorted({"embedding", *BLOCK, *MLP, *END})


class Priced:
    """A fake source: each operator has its own price, times what its latency may depend on. Counts the questions."""

    def __init__(self, prices: dict[str, int] | None = None) -> None:
        self.prices = prices or {name: 100 + 7 * i for i, name in enumerate(OPERATORS)}
        self.asked: Counter[str] = Counter()

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        self.asked[operator] += 1
        if operator == "attention":
            size = shape.decode_kv_tokens + sum(c.query_len * (c.query_len + c.context_len) for c in shape.prefills)
        else:
            size = shape.num_sequences if operator in ("lm_head", "sampler") else shape.num_tokens
        return self.prices[operator] * size

    def provenance(self) -> dict[str, object]:
        return {"source": "priced"}


def batch(prefills: list[tuple[int, int]], decodes: list[int]) -> BatchShape:
    tokens = sum(query for query, _ in prefills) + len(decodes)
    return BatchShape(tuple(Chunk(*c) for c in prefills), len(decodes), sum(decodes), max(decodes, default=0), tokens)


MIXED = batch([(30, 0), (11, 64)], [100, 20, 7])


def builder(tp: int = 1, source: Priced | None = None, sizes: tuple[int, ...] = ()) -> IterationBuilder:
    return IterationBuilder(MODEL, ParallelLayout(tp=tp), [range(tp)], source or Priced(), sizes)


def types(graph: Graph) -> list[NodeType]:
    return [NodeType(int(kind)) for kind in graph.type]


def comp_total(graph: Graph, durations: np.ndarray | None = None) -> int:
    values = graph.duration_ns if durations is None else durations
    return int(values[graph.type == NodeType.COMP].sum())


def is_chain(graph: Graph) -> bool:
    return [node.data_deps for node in graph.nodes()] == [(), *((i,) for i in range(len(graph) - 1))]


def test_one_rank_runs_an_iteration_as_one_node():
    template = builder().template
    assert types(template) == [NodeType.COMP]
    assert builder().sizes_bytes([MIXED]) is None
    assert template.rank_classes == ((0,),)


def test_two_ranks_sum_their_results_twice_per_block():
    template = builder(tp=2).template
    assert types(template) == [NodeType.COMP, NodeType.COMM_COLL] * (2 * BLOCKS) + [NodeType.COMP]
    assert is_chain(template)
    collectives = [node for node in template.nodes() if node.type is NodeType.COMM_COLL]
    assert {node.collective for node in collectives} == {CollectiveType.ALL_REDUCE}
    assert {template.groups[node.group] for node in collectives} == {(0, 1)}
    assert template.rank_classes == ((0, 1),)


def test_the_ranks_of_a_template_are_those_of_the_instance_and_an_export_counts_from_0():
    built = IterationBuilder(MODEL, ParallelLayout(tp=2), [range(4, 6)], Priced(), ())
    assert built.template.rank_classes == built.template.groups == ((4, 5),)
    assert built.export([MIXED]).rank_classes == built.export([MIXED]).groups == ((0, 1),)


def test_messages_are_padded_tokens_times_hidden_size_times_two_bytes():
    sizes = builder(tp=2, sizes=(1, 2, 4, 48)).sizes_bytes([MIXED])
    assert MIXED.num_tokens == 44
    assert sizes.tolist() == [0, 48 * 256 * 2] * (2 * BLOCKS) + [0]


@pytest.mark.parametrize("tp", [1, 2])
def test_the_total_is_the_sum_over_all_operators(tp):
    source = Priced()
    by_hand = sum(source.latency_ns(operator.name, MIXED) for operator in model_operators(MODEL))
    built = builder(tp, source)
    assert built.durations_ns([MIXED]).sum() == by_hand
    assert comp_total(built.export([MIXED])) == by_hand


def test_each_segment_holds_the_operators_between_two_collectives():
    source = Priced()

    def cost(*names: str) -> int:
        return sum(source.latency_ns(name, MIXED) for name in names)

    expected = [cost("embedding", *BLOCK), 0, cost(*MLP), 0]
    expected += [cost(*BLOCK), 0, cost(*MLP), 0] * (BLOCKS - 1) + [cost(*END)]
    assert builder(2, source).durations_ns([MIXED]).tolist() == expected


def test_an_export_has_a_node_per_operator_named_by_its_place():
    graph = builder(tp=2).export([MIXED])
    first = [f"block0.{name}" for name in BLOCK]
    assert list(graph.names[:8]) == ["start.embedding", *first, "block0.o_proj.all_reduce"]
    assert list(graph.names[-3:]) == [f"end.{name}" for name in END]
    assert types(graph).count(NodeType.COMP) == len(model_operators(MODEL))
    assert types(graph).count(NodeType.COMM_COLL) == 2 * BLOCKS
    assert is_chain(graph)


def test_an_export_leaves_out_what_takes_no_time():
    prices = dict.fromkeys(OPERATORS, 5) | {"rotary_emb": 0, "embedding": 0}
    graph = builder(tp=2, source=Priced(prices)).export([MIXED])
    assert not [name for name in graph.names if "rotary" in name or "embedding" in name]


def test_a_segment_that_takes_no_time_keeps_its_collective():
    prices = dict.fromkeys(OPERATORS, 0) | {"sampler": 3}
    built = builder(tp=2, source=Priced(prices))
    graph = built.export([MIXED])
    assert types(graph) == types(built.template)
    assert (graph.duration_ns == built.durations_ns([MIXED])).all()


def test_dense_operators_see_padded_tokens_up_to_the_largest_captured_size():
    source, sizes = Priced(), (1, 2, 4, 8)
    small, exact, large = (batch([], [50] * n) for n in (5, 8, 9))

    def dense(shape: BatchShape) -> int:
        other = BLOCKS * source.latency_ns("attention", shape)
        other += source.latency_ns("lm_head", shape) + source.latency_ns("sampler", shape)
        return int(builder(1, source, sizes).durations_ns([shape]).sum()) - other

    assert dense(small) == dense(exact)
    assert dense(large) * 8 == dense(exact) * 9


def test_captured_sizes_may_come_in_any_order():
    shuffled, ordered = (builder(1, sizes=sizes) for sizes in ((8, 4, 2, 1), (1, 2, 4, 8)))
    shape = batch([], [50] * 3)
    assert shuffled.durations_ns([shape]) == ordered.durations_ns([shape])


def test_dense_operators_are_asked_once_per_number_of_tokens():
    """Batches differ in their contexts at every step; only attention depends on them."""
    source = Priced()
    built = builder(source=source)
    for kv in range(10, 20):
        built.durations_ns([batch([], [kv] * 4)])
    assert source.asked["qkv_proj"] == source.asked["lm_head"] == 1
    assert source.asked["attention"] == 10


def test_what_is_returned_may_be_changed_by_the_caller():
    built = builder(tp=2)
    before = built.durations_ns([MIXED]).tolist()
    built.durations_ns([MIXED])[:] = 0
    built.sizes_bytes([MIXED])[:] = 0
    assert built.durations_ns([MIXED]).tolist() == before
    assert built.sizes_bytes([MIXED]).any()


CHUNKS = st.lists(st.tuples(st.integers(2, 600), st.integers(0, 4000)), max_size=3)
BATCHES = st.builds(batch, CHUNKS, st.lists(st.integers(1, 4000), max_size=40)).filter(lambda s: s.num_tokens)
PRICES = st.fixed_dictionaries({name: st.sampled_from([0, 0, 1, 13, 999]) for name in OPERATORS})


@settings(max_examples=80, deadline=None)
@given(shape=BATCHES, prices=PRICES, tp=st.sampled_from([1, 2, 4]), sizes=st.sampled_from([(), (1, 8, 64, 512)]))
def test_export_and_template_agree_for_any_batch(shape, prices, tp, sizes):
    """The same work between the same collectives, whatever takes no time."""
    built = builder(tp, Priced(prices), sizes)
    graph = built.export([shape])
    durations = built.durations_ns([shape])
    assert comp_total(graph) == comp_total(built.template, durations)
    sent = graph.size_bytes[graph.type == NodeType.COMM_COLL].tolist()
    assert len(sent) == (2 * BLOCKS if tp > 1 else 0)
    if tp > 1:
        assert sent == [size for size in built.sizes_bytes([shape]).tolist() if size]
    assert segments(graph, graph.duration_ns) == segments(built.template, durations)


def segments(graph: Graph, durations: np.ndarray) -> list[int]:
    """Work between the collectives."""
    sums = [0]
    for kind, duration in zip(types(graph), durations.tolist(), strict=True):
        if kind is NodeType.COMM_COLL:
            sums.append(0)
        sums[-1] += duration
    return sums


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("shape", [MIXED, batch([], [700] * 9), batch([(513, 0)], [])])
@pytest.mark.parametrize("zero_ns", [0, 1])
def test_the_backend_times_template_and_export_alike_to_the_nanosecond(tp, shape, zero_ns):
    built = builder(tp, sizes=(1, 2, 4, 8, 16))
    network = NetworkModel(["Ring"], [tp], [16.0], [20_000.0])
    system = SystemModel(local_mem_bw_gbps=1000, zero_duration_ns=zero_ns)
    ends = []
    for graph, durations, sizes in (
        (built.template, built.durations_ns([shape]), built.sizes_bytes([shape])),
        (built.export([shape]), None, None),
    ):
        backend = NativeBackend(network, system)
        ticket = backend.submit(backend.register(graph), durations, sizes)
        assert backend.advance(2**62) == [ticket]
        ends.append(backend.now_ns)
    total = int(built.durations_ns([shape]).sum())
    assert ends[0] == ends[1]
    assert ends[0] == total if tp == 1 else ends[0] > total
