"""Products on systolic arrays against sums done by hand: tiles at the edge, and weights that come in slowly."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from synthetic_bundle import batch

from llmservingsim.config.catalog import AcceleratorSpec, EfficiencySpec, ModelFamily, ModelSpec, find_model
from llmservingsim.latency import ExpertWork, RooflineSource
from llmservingsim.latency.systolic import SystolicArray
from llmservingsim.model import ParallelLayout

PEAK = 1e12
PLAIN = AcceleratorSpec(
    name="Plain",
    vendor="acme",
    memory_bytes=2**34,
    memory_bandwidth=1e18,
    bf16_flops=PEAK,
    fp16_flops=PEAK,
    link_kind="wire",
    link_bandwidth=1e9,
    link_latency_ns=0,
    host_bandwidth=1e9,
    num_compute_units=1,
    kernel_launch_ns=0,
    efficiency=EfficiencySpec(gemm=1, memory=1, attention=1, link=1),
)
ARRAY = msgspec.structs.replace(PLAIN, array_dims=(128, 64))
FAST = msgspec.structs.replace(ARRAY, array_load_cycles=20)
MODEL = ModelSpec(
    name="acme/odd",
    family=ModelFamily.DENSE,
    model_type="llama",
    hidden_size=200,
    num_layers=2,
    num_heads=4,
    num_kv_heads=4,
    head_dim=50,
    intermediate_size=300,
    vocab_size=1000,
    max_position_embeddings=8192,
)


def source(device: AcceleratorSpec, model: ModelSpec = MODEL, tp: int = 1) -> RooflineSource:
    return RooflineSource(model, ParallelLayout(tp=tp), device)


@pytest.mark.parametrize(
    ("operator", "inner", "columns"),
    [
        ("o_proj", 256, 256),  # 200 x 200 in tiles of 128 x 64
        ("gate_up_proj", 256, 640),  # 200 x 600
        ("down_proj", 384, 256),  # 300 x 200
        ("qkv_proj", 256, 640),  # 200 x 600
    ],
)
def test_a_product_computes_the_zeros_of_its_last_tiles_too(operator: str, inner: int, columns: int) -> None:
    assert source(ARRAY).latency_ns(operator, batch([(1000, 0)])) == round(2 * 1000 * inner * columns / PEAK * 1e9)


def test_the_head_counts_sequences_as_rows() -> None:
    head = source(ARRAY).latency_ns("lm_head", batch([(1000, 0)] * 200))
    assert head == round(2 * 200 * 256 * 1024 / PEAK * 1e9)  # 200 x 1000 in tiles of 128 x 64


def test_few_rows_wait_until_the_next_tile_of_weights_is_in() -> None:
    """A tile of 128 rows takes 128 cycles to come in, so 1 to 128 rows of activations take as long."""
    tile = 2 * 256 * 256 / PEAK * 1e9
    times = [source(ARRAY).latency_ns("o_proj", batch([(n, 0)])) for n in (2, 20, 128, 129)]
    assert times == [round(128 * tile), round(128 * tile), round(128 * tile), round(129 * tile)]
    times = [source(FAST).latency_ns("o_proj", batch([(n, 0)])) for n in (2, 20, 21)]
    assert times == [round(20 * tile), round(20 * tile), round(21 * tile)]


def test_slices_smaller_than_a_tile_gain_nothing_from_more_ranks() -> None:
    """down_proj of 300 / 4 = 75 inner rows takes the tiles of 128 rows."""
    assert source(ARRAY, tp=4).latency_ns("down_proj", batch([(500, 0)])) == round(2 * 500 * 128 * 256 / PEAK * 1e9)


def test_what_is_no_product_and_devices_without_an_array_stay_as_they_are() -> None:
    shape = batch([(1000, 0)])
    for operator in ("attention", "layernorm", "act_fn", "embedding", "sampler"):
        assert source(ARRAY).latency_ns(operator, shape) == source(PLAIN).latency_ns(operator, shape)
    assert source(PLAIN).latency_ns("o_proj", shape) == round(2 * 1000 * 200 * 200 / PEAK * 1e9)
    assert "array" not in source(PLAIN).provenance()
    assert source(FAST).provenance()["array"] == {"rows": 128, "columns": 64, "load_cycles": 20}


def test_each_activated_expert_pays_for_its_own_tiles() -> None:
    """Mixtral's experts of 4096 x 14336 fill tiles of 128 x 64, so only loading counts: 2 experts of 5 pairs each."""
    model = find_model("mistralai/Mixtral-8x7B-v0.1")
    expert = 3 * model.hidden_size * model.moe_intermediate_size
    work = ExpertWork(5, 5, np.array([[10.0, 1000.0]]), np.array([[2.0, 2.0]]))
    plain, tiled = (source(device, model).moe_latency_ns(work)[0] for device in (PLAIN, ARRAY))
    assert tiled[0] - plain[0] == pytest.approx(2 * expert * (2 * 128 - 10) / PEAK * 1e9, abs=2)
    assert tiled[1] == plain[1]  # 500 pairs per expert hide the loading


def test_an_array_that_every_tile_fills_changes_nothing() -> None:
    array = SystolicArray(128, 128, 128)
    assert array.padded(256, 1024) == 256 * 1024
    assert array.padded(257, 1025) == 384 * 1152


def test_a_batch_without_tokens_takes_no_product() -> None:
    assert source(ARRAY).latency_ns("lm_head", batch()) >= 0
