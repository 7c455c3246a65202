"""Weights off the device: what an iteration loads, when, and how long it then takes, to the nanosecond.

The other memory moves a byte per nanosecond, so that a load takes as many nanoseconds as it has bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.backend import (
    MemoryLevelModel,
    MemoryModel,
    MemoryRateModel,
    NativeBackend,
    NetworkModel,
    SystemModel,
)
from llmservingsim.config.catalog import ModelFamily, ModelSpec
from llmservingsim.graph import Graph, MemoryLocation, NodeType
from llmservingsim.model import (
    ParallelLayout,
    Placement,
    block_operators,
    end_operators,
    start_operators,
)
from llmservingsim.model.weights import operator_weights
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.trace import FetchPlan, IterationBuilder, Site

BLOCKS = 4
MODEL = ModelSpec(
    name="acme/tiny",
    family=ModelFamily.DENSE,
    model_type="llama",
    hidden_size=64,
    num_layers=BLOCKS,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=1024,
    max_position_embeddings=4096,
)
BLOCK_BYTES = sum(operator_weights(MODEL, op.name).size_bytes(MODEL) for op in block_operators(MODEL))
HEAD_BYTES = sum(operator_weights(MODEL, op.name).size_bytes(MODEL) for op in end_operators())
SITES = {
    "cpu": Site(MemoryLocation.REMOTE, 0),
    "cxl": Site(MemoryLocation.CXL, -1),
    "cxl:1": Site(MemoryLocation.CXL, 1),
}
ONE_TOKEN = BatchShape((), 1, 101, 101, 1)


class Priced:
    """Every operator has a price, whatever the batch."""

    def __init__(self, prices: Mapping[str, int]) -> None:
        self.prices = prices

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return self.prices.get(operator, 0)

    def provenance(self) -> dict[str, object]:
        return {"source": "priced"}


def devices(count: int, bandwidth: float = 1.0, latency_ns: int = 0) -> MemoryLevelModel:
    rates = [MemoryRateModel(latency_ns, bandwidth)] * count
    return MemoryLevelModel("MEMORY_DEVICES", num_devices=count, discipline="shared", rates=rates)


def backend(ranks: int = 1, latency_ns: int = 0) -> NativeBackend:
    network = NetworkModel(["FullyConnected"], [ranks], [1000.0], [0.0])
    memory = MemoryModel(remote=devices(1, latency_ns=latency_ns), cxl=devices(2, latency_ns=latency_ns))
    return NativeBackend(network, SystemModel(endpoint_delay_ns=0, dialect="llmservingsim"), memory)


def builder(placement: Placement | None, prices: Mapping[str, int], tp: int = 1, kv: int = 0) -> IterationBuilder:
    fetches = FetchPlan(placement, [SITES], kv) if placement is not None else None
    return IterationBuilder(MODEL, ParallelLayout(tp=tp), [range(tp)], Priced(prices), (), fetches=fetches)


def placed(tp: int = 1, **keys: Any) -> Placement:
    return Placement(MODEL, ParallelLayout(tp=tp), **keys)


def time_ns(built: IterationBuilder, shape: BatchShape = ONE_TOKEN, clock: NativeBackend | None = None) -> int:
    clock = clock or backend(len(built.ranks))
    durations, sizes = built.durations_ns([shape]), built.sizes_bytes([shape])
    start = clock.now_ns
    assert clock.submit(clock.register(built.template), durations, sizes) in clock.advance(2**62)
    return clock.now_ns - start


def kinds(graph: Graph) -> list[str]:
    return [f"{NodeType(int(t)).name} {n}" for t, n in zip(graph.type, graph.names, strict=True)]


ALL_BLOCKS = dict.fromkeys(range(BLOCKS), "cpu")


def test_loads_longer_than_computation_hide_it_but_for_the_last_block() -> None:
    """Four loads one after another; what is computed behind the last of them is one block and the head."""
    built = builder(placed(blocks=ALL_BLOCKS), {"attention": 100, "lm_head": 7})
    assert time_ns(built) == 4 * BLOCK_BYTES + 100 + 7


def test_loads_shorter_than_computation_hide_but_for_the_first() -> None:
    block_ns = 3 * BLOCK_BYTES
    built = builder(placed(blocks=ALL_BLOCKS), {"attention": block_ns, "lm_head": 7})
    assert time_ns(built) == BLOCK_BYTES + 4 * block_ns + 7


def test_without_prefetching_nothing_overlaps() -> None:
    built = builder(placed(blocks=ALL_BLOCKS, prefetch_depth=0), {"attention": 100, "lm_head": 7})
    assert time_ns(built) == 4 * (BLOCK_BYTES + 100) + 7


def test_a_load_waits_for_a_buffer() -> None:
    """Block 0 computes for long. With one block ahead only block 1 is loaded meanwhile; with three, all are.

    The first operator of block 0 needs its weights, so nothing is computed before they are there.
    """
    long_ns = 10 * BLOCK_BYTES
    for depth, behind in ((1, 3 * BLOCK_BYTES), (3, BLOCK_BYTES)):
        built = builder(placed(blocks=ALL_BLOCKS, prefetch_depth=depth), {"embedding": 5})
        durations, sizes = built.durations_ns([ONE_TOKEN]), built.sizes_bytes([ONE_TOKEN])
        durations[built.template.names.index("block0")] += long_ns
        clock = backend()
        clock.submit(clock.register(built.template), durations, sizes)
        clock.advance(2**62)
        assert clock.now_ns == BLOCK_BYTES + long_ns + behind - BLOCK_BYTES, depth


def test_only_the_blocks_that_lie_elsewhere_are_loaded() -> None:
    built = builder(placed(blocks={1: "cpu", 3: "cxl:1"}), {})
    loads = [node for node in built.template.nodes() if node.type is NodeType.MEM_LOAD]
    assert [(n.name, n.location, n.device, n.size_bytes) for n in loads] == [
        ("block1.weights.cpu", MemoryLocation.REMOTE, 0, BLOCK_BYTES),
        ("block3.weights.cxl:1", MemoryLocation.CXL, 1, BLOCK_BYTES),
    ]
    assert kinds(built.template) == [
        "MEM_LOAD block1.weights.cpu",
        "MEM_LOAD block3.weights.cxl:1",
        "COMP block0",
        "COMP block1",
        "COMP block2",
        "COMP block3",
        "COMP end",
    ]


def test_an_operator_that_lies_elsewhere_is_waited_for_by_itself() -> None:
    """``down_proj`` of block 0 is loaded while what comes before it is computed: 1000 ns, of which its load hides."""
    down = operator_weights(MODEL, "down_proj").size_bytes(MODEL)
    rule = {"down_proj": "cpu"}
    built = builder(placed(layers=rule), {"attention": down + 1000, "down_proj": 10})
    assert time_ns(built) == 4 * (down + 1000 + 10)
    built = builder(placed(layers=rule), {"attention": down - 50, "down_proj": 10})
    assert time_ns(built) == 4 * down + 10


def test_a_stripe_over_two_devices_is_twice_as_fast() -> None:
    built = builder(placed(blocks=dict.fromkeys(range(BLOCKS), "cxl")), {})
    assert time_ns(built) == 4 * BLOCK_BYTES // 2


def test_the_embedding_brings_the_rows_of_the_batch_alone() -> None:
    built = builder(placed(layers={"embedding": "cpu"}), {"embedding": 3})
    shape = BatchShape((Chunk(20, 0),), 2, 50, 30, 22)
    row = MODEL.hidden_size * MODEL.dtype_bytes
    assert built.sizes_bytes([shape]).tolist() == [22 * row, 0]
    assert time_ns(built, shape) == 22 * row + 3


def test_ranks_load_their_own_shards_and_share_the_memory() -> None:
    """Two ranks ask for half a block each, at half the bandwidth: as long as one rank for all of it, norms twice."""
    norm = operator_weights(MODEL, "layernorm").size_bytes(MODEL)
    built = builder(placed(tp=2, blocks=ALL_BLOCKS), {}, tp=2)
    clock = backend(2)
    collectives = time_ns(builder(None, {}, tp=2), clock=backend(2)) // (2 * BLOCKS)
    assert time_ns(built, clock=clock) == 4 * (BLOCK_BYTES + 2 * norm) + 2 * collectives
    assert clock.memory_use()["remote"].bytes_loaded == 4 * (BLOCK_BYTES + 2 * norm)


def test_a_rank_loads_while_it_communicates() -> None:
    """Where loads occupied the slot of collectives, all-reduces of block 0 would wait for the load of block 1."""
    names = builder(placed(tp=2, blocks=ALL_BLOCKS), {}, tp=2).template
    clock = NativeBackend(
        NetworkModel(["FullyConnected"], [2], [1000.0], [0.0]),
        SystemModel(endpoint_delay_ns=0, dialect="llmservingsim", record_nodes=True),
        MemoryModel(remote=devices(1)),
    )
    built = builder(placed(tp=2, blocks=ALL_BLOCKS), {}, tp=2)
    ticket = clock.submit(
        clock.register(built.template), built.durations_ns([ONE_TOKEN]), built.sizes_bytes([ONE_TOKEN])
    )
    clock.advance(2**62)
    times = clock.node_times(ticket)
    found = {name: (start, end) for name, start, end in zip(names.names, *times, strict=False)}
    assert found["block0.all_reduce"][1] < found["block1.weights.cpu"][1]


def test_kv_elsewhere_is_read_before_attention_and_stored_from_then_on() -> None:
    """8 bytes per token: a chunk of 20 after 30, two decodes with 49 and 99 cached tokens; 22 new tokens."""
    built = builder(placed(kv={2: "cpu"}), {"attention": 11, "o_proj": 5}, kv=8)
    shape = BatchShape((Chunk(20, 30),), 2, 150, 100, 22)
    named = dict(zip(built.template.names, built.sizes_bytes([shape]).tolist(), strict=True))
    assert named["block2.kv_load.cpu"] == 8 * (30 + 49 + 99)
    assert named["block2.kv_store.cpu"] == 8 * 22
    both = 2 * 8 * 22  # the store shares the memory until it has ended
    assert time_ns(built, shape) == 4 * (11 + 5) + both + 8 * (30 + 49 + 99 - 22)


PRICES = st.fixed_dictionaries(
    {name: st.integers(0, 2 * BLOCK_BYTES) for name in ("embedding", "layernorm", "attention", "down_proj", "lm_head")}
)
WHERE = st.sampled_from(["npu", "cpu", "cxl:1"])


@settings(max_examples=150, deadline=None)
@given(
    prices=PRICES,
    default=WHERE,
    blocks=st.dictionaries(st.integers(0, BLOCKS - 1), WHERE),
    layers=st.dictionaries(st.sampled_from(["embedding", "qkv_proj", "layernorm", "down_proj", "lm_head"]), WHERE),
    depth=st.integers(0, 4),
    latency_ns=st.integers(0, 500),
)
def test_an_iteration_takes_what_its_loads_and_operators_take_by_hand(
    prices: dict[str, int],
    default: str,
    blocks: dict[int, str],
    layers: dict[str, str],
    depth: int,
    latency_ns: int,
) -> None:
    placement = placed(default=default, blocks=blocks, layers=layers, prefetch_depth=depth)
    built = builder(placement, prices)
    expected = by_hand(prices, lambda block, name: layers.get(name, blocks.get(block, default)), depth, latency_ns)
    assert time_ns(built, clock=backend(latency_ns=latency_ns)) == expected
    clock = backend(latency_ns=latency_ns)
    clock.submit(clock.register(built.export([ONE_TOKEN])))
    clock.advance(2**62)
    assert clock.now_ns == expected


def by_hand(prices: Mapping[str, int], where: Callable[[int, str], str], depth: int, latency_ns: int) -> int:
    """One operator after another; loads one after another, each when its buffer is free."""
    steps = [(-1, op.name) for op in start_operators()]
    steps += [(block, op.name) for block in range(BLOCKS) for op in block_operators(MODEL, block)]
    steps += [(BLOCKS, op.name) for op in end_operators()]
    now = copier = 0
    released: list[int] = []  # ends of the units that had a buffer
    for block, unit in groupby(steps, key=lambda step: step[0]):
        names = [name for _, name in unit]
        loads: dict[str, int] = {}
        for name in names:
            size = operator_weights(MODEL, name).size_bytes(MODEL)
            if where(block, name) != "npu" and size:
                row = MODEL.hidden_size * MODEL.dtype_bytes
                loads[where(block, name)] = loads.get(where(block, name), 0) + (row if name == "embedding" else size)
        buffered = bool(loads) and block >= 0
        free = released[len(released) - 1 - depth] if buffered and len(released) > depth else 0
        end_of_last = None
        for name in names:
            memory = where(block, name)
            if memory in loads and operator_weights(MODEL, name).size_bytes(MODEL):
                copier = max(copier, free) + latency_ns + loads.pop(memory)
                now = max(now, copier)
            now += prices.get(name, 0)
            if buffered and memory != "npu" and operator_weights(MODEL, name).size_bytes(MODEL):
                end_of_last = now
        if end_of_last is not None:
            released.append(end_of_last)
    return now


@pytest.mark.parametrize("tp", [1, 2])
def test_an_iteration_without_placement_is_what_it_was(tp: int) -> None:
    built = builder(None, {"attention": 9}, tp=tp)
    assert set(built.template.type.tolist()) <= {NodeType.COMP, NodeType.COMM_COLL}
    assert len(built.template) == (1 if tp == 1 else 4 * BLOCKS + 1)
    assert np.all(np.diff(built.template.data_offsets)[1:] == 1)
