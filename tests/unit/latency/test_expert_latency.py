"""Times of mixture-of-experts blocks, from tables and from a roofline, against sums done by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic_bundle import write_csv
from test_roofline import DEVICE

from llmservingsim.config.catalog import ModelFamily, ModelSpec
from llmservingsim.errors import ProfileError
from llmservingsim.latency import BundleSource, ExpertLatencySource, ExpertWork, RooflineSource
from llmservingsim.model import ParallelLayout

HEADER = "tokens,activated_experts,time_us"
PROFILES = Path(__file__).parents[4] / "shared/data/profiles"
MEASURED = PROFILES / "RTXPRO6000/Qwen/Qwen3-30B-A3B-Instruct-2507/bf16"


def work(pairs: list[list[float]], activated: list[list[float]], tokens: int = 4, gathered: int = 4) -> ExpertWork:
    return ExpertWork(tokens, gathered, np.array(pairs, dtype=float), np.array(activated, dtype=float))


def measured_us(tokens: float, experts: float) -> float:
    return 10 + 5 * experts + 0.5 * tokens


@pytest.fixture
def folder(tp_folder: Path) -> Path:
    """A bundle of a model whose tokens visit two experts."""
    rows = [(t, e, measured_us(t, e)) for e in (2, 4, 8) for t in (1, 2, 4, 16, 64) if 2 * t >= e]
    write_csv(tp_folder / "moe.csv", HEADER, rows)
    return tp_folder


def test_a_rank_is_timed_by_its_pairs_and_its_distinct_experts(folder: Path) -> None:
    """Tokens visit two experts, so 24 pairs are 12 tokens; between the points all is linear: 10 + 5 * 5 + 0.5 * 12."""
    source = BundleSource(folder, experts_per_token=2)
    found = source.moe_latency_ns(work([[24, 8], [32, 128]], [[5, 4], [8, 8]]))
    assert found.tolist() == [[41_000, 32_000], [58_000, 82_000]]
    assert source.provenance()["extrapolated_shapes"] == {}


def test_below_the_fewest_experts_the_kernel_has_its_floor_and_above_the_most_the_slope_goes_on(folder: Path) -> None:
    source = BundleSource(folder, experts_per_token=2)
    assert source.moe_latency_ns(work([[0, 1]], [[0, 1]])).tolist() == [[20_500, 20_500]]
    assert source.provenance()["extrapolated_shapes"] == {"moe": 1}
    assert source.moe_latency_ns(work([[40, 256]], [[10, 8]])).tolist() == [[70_000, 114_000]]
    assert source.provenance()["extrapolated_shapes"] == {"moe": 2}


def test_a_rank_that_gets_no_token_is_within_the_grid(folder: Path) -> None:
    source = BundleSource(folder, experts_per_token=2)
    assert source.moe_latency_ns(work([[0, 8]], [[0, 4]])).tolist() == [[20_500, 32_000]]
    assert source.provenance()["extrapolated_shapes"] == {}


def test_slices_of_experts_read_and_multiply_like_fewer_whole_ones(folder: Path) -> None:
    """Two ranks share every expert's width: 16 pairs and 8 experts cost what 8 pairs and 4 experts do."""
    halves = BundleSource(folder, experts_per_token=2, expert_slices=2)
    assert halves.moe_latency_ns(work([[16]], [[8]])).tolist() == [[32_000]]


def test_experts_of_a_wider_layout_are_those_measured_on_one_rank(folder: Path) -> None:
    two = folder.parent / "tp2"
    two.mkdir()
    for name in ("dense.csv", "per_sequence.csv", "attention.csv"):
        (two / name).write_text((folder / name).read_text())
    assert BundleSource(two, experts_per_token=2).moe_latency_ns(work([[8]], [[4]])).tolist() == [[32_000]]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"tp1/moe\.csv: file is missing"),
        ("tokens,experts,time_us\n1,2,3\n", r"moe\.csv:1: expected the columns tokens,activated_experts,time_us"),
        (f"{HEADER}\n", r"moe\.csv: holds no row"),
        (
            f"{HEADER}\n1,2,0\n",
            r"moe\.csv:2: expected tokens,activated_experts,time_us with whole sizes and a time greater than 0",
        ),
    ],
)
def test_a_broken_table_of_experts_is_refused(tp_folder: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tp_folder / "moe.csv").write_text(text)
    with pytest.raises(ProfileError, match=said):
        BundleSource(tp_folder, experts_per_token=2)


def test_a_dense_model_needs_no_table_of_experts(tp_folder: Path) -> None:
    with pytest.raises(ProfileError, match="'moe' was not loaded: experts_per_token is 0"):
        BundleSource(tp_folder).moe_latency_ns(work([[1]], [[1]]))


@pytest.mark.skipif(not PROFILES.is_dir(), reason=f"{PROFILES} is absent")
@pytest.mark.parametrize("tp", [1, 2])
def test_the_published_table_is_met_at_every_point_and_never_falls(tp: int) -> None:
    source = BundleSource(MEASURED / f"tp{tp}", experts_per_token=8)
    rows = np.loadtxt(MEASURED / "tp1/moe.csv", delimiter=",", skiprows=1)
    pairs, activated = 8 * rows[:, :1].T, rows[:, 1:2].T
    found = source.moe_latency_ns(ExpertWork(1, 1, pairs, activated))
    assert found[0] == pytest.approx(1000 * rows[:, 2], abs=0.5)
    grid = np.arange(1, 129)[None].astype(float)
    for tokens in (0.5, 3, 100, 2048, 5000):
        times = source.moe_latency_ns(ExpertWork(1, 1, np.full_like(grid, 8 * tokens), grid))[0]
        assert (np.diff(times) >= 0).all()


MOE = ModelSpec(
    name="acme/tiny-moe",
    family=ModelFamily.MOE,
    model_type="mixtral",
    hidden_size=1024,
    num_layers=1,
    num_heads=16,
    num_kv_heads=4,
    head_dim=64,
    intermediate_size=512,
    vocab_size=32_000,
    max_position_embeddings=8192,
    num_experts=8,
    experts_per_token=2,
    moe_intermediate_size=512,
)
EXPERT = 3 * 1024 * 512
"""Weights of one expert: gate, up and down."""


def test_experts_of_few_tokens_are_bound_by_reading_the_activated_ones() -> None:
    """4 tokens: router of 8 x 1024, activated experts, hidden states in and out; 2 bytes each, at 5e10 bytes/s."""
    source = RooflineSource(MOE, ParallelLayout(), DEVICE)
    found = source.moe_latency_ns(work([[8, 8]], [[3, 5.5]]))
    moved = [2 * (8 * 1024 + n * EXPERT + 2 * 4 * 1024) for n in (3, 5.5)]
    assert found.tolist() == [[round(m / 5e10 * 1e9) for m in moved]]


def test_experts_of_many_pairs_are_bound_by_arithmetic_and_slices_do_their_share() -> None:
    """2 FLOPs per pair and weight, and for the router of the own 100 tokens, at 5e11 FLOP/s."""
    asked = work([[100_000]], [[8]], tokens=100, gathered=50_000)
    for slices in (1, 2):
        source = RooflineSource(MOE, ParallelLayout(tp=slices), DEVICE)
        flops = 2 * (100_000 * EXPERT / slices + 100 * 8 * 1024)
        assert source.moe_latency_ns(asked).tolist() == [[round(flops / 5e11 * 1e9)]]


def test_every_tokens_shared_expert_is_there_whatever_is_routed() -> None:
    import msgspec

    shared = msgspec.structs.replace(MOE, num_shared_experts=1, shared_expert_size=512)
    idle = work([[0]], [[0]], tokens=100_000, gathered=100_000)
    with_shared, without = (
        RooflineSource(m, ParallelLayout(), DEVICE).moe_latency_ns(idle)[0, 0] for m in (shared, MOE)
    )
    assert with_shared - 2 * 100_000 * EXPERT / 5e11 * 1e9 == pytest.approx(2 * 100_000 * 8192 / 5e11 * 1e9, abs=1)
    assert without < with_shared


def test_sources_of_experts_say_so(folder: Path) -> None:
    assert isinstance(BundleSource(folder, experts_per_token=2), ExpertLatencySource)
    assert isinstance(RooflineSource(MOE, ParallelLayout(), DEVICE), ExpertLatencySource)
