"""Experts off the device: on demand only those that tokens visit are loaded, and cached ones never."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmservingsim.backend import MemoryLevelModel, MemoryModel, NativeBackend, NetworkModel, SystemModel
from llmservingsim.config.catalog import ModelFamily, ModelSpec
from llmservingsim.errors import PluginError
from llmservingsim.graph import MemoryLocation
from llmservingsim.latency import ExpertWork
from llmservingsim.model import ParallelLayout, Placement, weight_bytes
from llmservingsim.shapes import BatchShape
from llmservingsim.trace import FetchPlan, IterationBuilder, Site
from llmservingsim.trace.experts import (
    EXPERT_ROUTERS,
    BalancedRouter,
    ExpertGeometry,
    ExpertRouting,
    ExpertSplit,
    cache_experts,
    place_experts,
)

MODEL = ModelSpec(
    name="acme/experts",
    family=ModelFamily.MOE,
    model_type="mixtral",
    hidden_size=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=1024,
    max_position_embeddings=4096,
    num_experts=8,
    experts_per_token=2,
    moe_intermediate_size=32,
)
EXPERT_BYTES = 3 * 64 * 32 * 2
ROUTER_BYTES = 64 * 8 * 2
SITE = {"cpu": Site(MemoryLocation.REMOTE, 0)}


class Recorded:
    """Layer 0 sends all tokens to experts 0 and 1; layer 1 sends one to 1 and 2, the others to 6 and 7."""

    def __init__(self, geometry: ExpertGeometry) -> None:
        self._geometry = geometry

    def split(self, tokens: int) -> ExpertSplit:
        pairs = np.zeros(self._geometry.shape, dtype=np.int64)
        pairs[0, [0, 1]] = tokens
        pairs[1, [1, 2]] = 1
        pairs[1, [6, 7]] = tokens - 1
        return ExpertSplit(pairs)

    def shares(self) -> NDArray[np.float64]:
        """Experts 7 and 1 are the most popular ones in the long run, others alike."""
        shares = np.ones(self._geometry.shape)
        shares[:, 7], shares[:, 1] = 5, 3
        return shares


class Priced:
    """The experts take 1000 ns, attention 300; nothing else takes time."""

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return 300 if operator == "attention" else 0

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.full(work.pairs.shape, 1000, dtype=np.int64)

    def provenance(self) -> dict[str, object]:
        return {"source": "priced"}


def builder(tp: int = 1, ep: int = 1, router: Any = Recorded, **keys: Any) -> IterationBuilder:
    layout = ParallelLayout(tp=tp, ep=ep)
    geometry = ExpertGeometry((0, 1), 8, 2)
    routing = ExpertRouting(geometry, router(geometry), place_experts("linear", 8, ep))
    placement = Placement(MODEL, layout, **({"layers": {"experts": "cpu"}, "on_demand": True} | keys))
    if placement.cached_experts:
        routing.keep_popular(placement.cached_experts)
    return IterationBuilder(
        MODEL, layout, [range(tp)], Priced(), (), experts=routing, fetches=FetchPlan(placement, [SITE])
    )


def tokens(count: int) -> BatchShape:
    return BatchShape((), count, 10 * count, 10, count)


def loads(built: IterationBuilder, count: int) -> list[Mapping[str, int]]:
    """What each rank class loads, by name."""
    shape = [tokens(count)]
    built.durations_ns(shape)
    sizes = built.sizes_bytes(shape)
    assert sizes is not None
    template = built.template
    found: list[dict[str, int]] = [{} for _ in template.rank_classes]
    for name, kind, index, size in zip(
        template.names, template.type.tolist(), template.rank_class.tolist(), sizes.tolist(), strict=True
    ):
        if kind == 2:
            found[index][name] = size
    return list(found)


def time_ns(built: IterationBuilder, count: int) -> int:
    ranks = len(built.ranks)
    level = MemoryLevelModel("MEMORY_DEVICES", bandwidth_gbps=1.0, discipline="shared")
    clock = NativeBackend(
        NetworkModel(["FullyConnected"], [ranks], [1000.0], [0.0]),
        SystemModel(endpoint_delay_ns=0, dialect="llmservingsim"),
        MemoryModel(remote=level),
    )
    durations, sizes = built.durations_ns([tokens(count)]), built.sizes_bytes([tokens(count)])
    clock.submit(clock.register(built.template), durations, sizes)
    clock.advance(2**62)
    return clock.now_ns


def test_on_demand_the_experts_that_tokens_visit_are_loaded() -> None:
    (found,) = loads(builder(), 5)
    assert found == {"block0.experts.cpu": 2 * EXPERT_BYTES, "block1.experts.cpu": 4 * EXPERT_BYTES}
    (found,) = loads(builder(), 1)
    assert found == {"block0.experts.cpu": 2 * EXPERT_BYTES, "block1.experts.cpu": 2 * EXPERT_BYTES}


def test_on_demand_nothing_overlaps_with_what_the_router_waits_for() -> None:
    """Each block: attention, the load of its experts, the experts."""
    assert time_ns(builder(), 5) == (300 + 2 * EXPERT_BYTES + 1000) + (300 + 4 * EXPERT_BYTES + 1000)


def test_all_experts_are_loaded_ahead() -> None:
    """Block 0 hides nothing but its attention; block 1 is loaded behind it."""
    built = builder(on_demand=False)
    assert loads(built, 5) == [{"block0.weights.cpu": 8 * EXPERT_BYTES, "block1.weights.cpu": 8 * EXPERT_BYTES}]
    assert time_ns(built, 5) == 2 * 8 * EXPERT_BYTES + 1000


def test_popular_experts_stay_on_the_device() -> None:
    """With two cached, 7 and 1, layer 0 misses expert 0 of (0, 1) and layer 1 misses 2 and 6 of (1, 2, 6, 7)."""
    built = builder(cached_experts=2)
    assert loads(built, 5) == [{"block0.experts.cpu": EXPERT_BYTES, "block1.experts.cpu": 2 * EXPERT_BYTES}]
    (found,) = loads(builder(cached_experts=2, on_demand=False), 5)
    assert set(found.values()) == {6 * EXPERT_BYTES}


def test_ranks_load_the_experts_that_they_hold() -> None:
    """Of two parts the first holds experts 0 to 3, the second 4 to 7, of which it caches 7 with one each."""
    first, second = loads(builder(tp=2, ep=2, cached_experts=1), 5)
    assert first == {"block0.experts.cpu": EXPERT_BYTES, "block1.experts.cpu": EXPERT_BYTES}
    assert second == {"block0.experts.cpu": 0, "block1.experts.cpu": EXPERT_BYTES}


def test_the_expected_number_of_experts_may_be_a_fraction() -> None:
    """Three tokens that visit 2 of 8 experts miss one with (6/8)^3."""
    (found,) = loads(builder(router=BalancedRouter), 3)
    assert set(found.values()) == {round(8 * (1 - 0.75**3) * EXPERT_BYTES)}


@pytest.mark.parametrize("routing", ["random", "skewed", "round_robin"])
def test_what_is_loaded_belongs_to_the_experts_that_were_timed(routing: str) -> None:
    """The source sees as many activated experts as are loaded."""
    built = builder(router=EXPERT_ROUTERS[routing])
    seen: list[NDArray[np.float64]] = []

    class Watching(Priced):
        def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
            seen.append(work.activated_experts)
            return super().moe_latency_ns(work)

    built = IterationBuilder(
        MODEL, built.layout, [range(1)], Watching(), (), experts=built.experts, fetches=built.fetches
    )
    for count in (1, 4, 9):
        (found,) = loads(built, count)
        assert list(found.values()) == [round(EXPERT_BYTES * a) for a in seen[-1][:, 0]]


def test_the_router_stays_when_only_experts_are_elsewhere_and_buffers_hold_one_block_on_demand() -> None:
    every = weight_bytes(MODEL)
    on_demand = Placement(MODEL, ParallelLayout(), layers={"experts": "cpu"}, on_demand=True, cached_experts=3)
    assert on_demand.stored_bytes(0) == {"cpu": 2 * 5 * EXPERT_BYTES}
    assert on_demand.weight_bytes(MODEL, ParallelLayout(), 0) == every - 2 * 5 * EXPERT_BYTES + 5 * EXPERT_BYTES
    whole = Placement(MODEL, ParallelLayout(), layers={"moe": "cpu"})
    assert whole.stored_bytes(0) == {"cpu": 2 * (8 * EXPERT_BYTES + ROUTER_BYTES)}


def test_the_most_popular_of_each_part_are_cached() -> None:
    held = place_experts("linear", 4, 2)
    shares = np.array([[1.0, 2.0, 9.0, 3.0], [4.0, 4.0, 1.0, 2.0]])
    found = cache_experts(held, shares, 1)
    assert found[0].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    assert found[1].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]


def test_a_router_that_knows_no_popularity_cannot_choose_what_is_cached() -> None:
    class Plain:
        def __init__(self, geometry: ExpertGeometry) -> None:
            pass

    with pytest.raises(PluginError, match=r"Plain: placement.cached_experts needs its method 'shares'"):
        builder(router=Plain, cached_experts=1)
