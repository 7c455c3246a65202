"""Roofline times against sums done by hand.

The device computes 5e11 FLOP/s in matrix products, 2.5e11 in attention, and moves 5e10 bytes/s, after efficiencies.
"""

from __future__ import annotations

import json

import pytest
from synthetic_bundle import batch

from llmservingsim.config.catalog import AcceleratorSpec, EfficiencySpec, ModelFamily, ModelSpec
from llmservingsim.errors import ConfigError
from llmservingsim.latency import RooflineSource
from llmservingsim.model import ParallelLayout, block_operators, end_operators, start_operators

DEVICE = AcceleratorSpec(
    name="Slow1",
    vendor="acme",
    memory_bytes=2**34,
    memory_bandwidth=1e11,
    bf16_flops=1e12,
    fp16_flops=1e12,
    link_kind="wire",
    link_bandwidth=1e9,
    link_latency_ns=1000,
    host_bandwidth=1e9,
    num_compute_units=10,
    kernel_launch_ns=2000,
    efficiency=EfficiencySpec(gemm=0.5, memory=0.5, attention=0.25, link=0.5),
)
MODEL = ModelSpec(
    name="acme/tiny",
    family=ModelFamily.DENSE,
    model_type="llama",
    hidden_size=1024,
    num_layers=2,
    num_heads=16,
    num_kv_heads=4,
    head_dim=64,
    intermediate_size=4096,
    vocab_size=32_000,
    max_position_embeddings=8192,
)
GEMMS = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head")


def source(model=MODEL, tp=1):
    return RooflineSource(model, ParallelLayout(tp=tp), DEVICE)


def test_a_small_gemm_is_bound_by_reading_its_weights():
    """o_proj, 1 token: 1024 x 1024 weights, 1024 values in and 1024 out, 2 bytes each, at 5e10 bytes/s."""
    expected_ns = (1024 * 1024 * 2 + 2 * 1024 * 2) / 5e10 * 1e9
    assert source().latency_ns("o_proj", batch(decodes=[100])) == round(expected_ns) == 42_025


def test_a_large_gemm_is_bound_by_its_arithmetic():
    """o_proj, 1000 tokens: 2 FLOPs per weight and token at 5e11 FLOP/s; reading takes 0.12 ms only."""
    expected_ns = 2 * 1024 * 1024 * 1000 / 5e11 * 1e9
    assert source().latency_ns("o_proj", batch([(1000, 0)])) == round(expected_ns) == 4_194_304


def test_the_head_is_computed_for_sequences_and_not_for_tokens():
    one = source().latency_ns("lm_head", batch([(1000, 0)]))
    assert one == source().latency_ns("lm_head", batch(decodes=[5]))
    assert one == round((32_000 * 1024 * 2 + (1024 + 32_000) * 2) / 5e10 * 1e9)


def test_decode_attention_is_bound_by_reading_the_cache():
    """4 sequences, 4000 keys: K and V of 4 heads x 64, queries in and values out of 16 x 64, 2 bytes each."""
    expected_ns = (2 * 256 * 4000 + 4 * 1024 + 4 * 1024) * 2 / 5e10 * 1e9
    assert source().latency_ns("attention", batch(decodes=[500, 500, 1000, 2000])) == round(expected_ns)


def test_prefill_attention_is_bound_by_its_arithmetic():
    """A chunk of 512 after 512: query i sees 512 + i keys; 4 FLOPs per pair and element at 2.5e11 FLOP/s."""
    pairs = sum(512 + i for i in range(1, 513))
    expected_ns = 4 * pairs * 1024 / 2.5e11 * 1e9
    assert source().latency_ns("attention", batch([(512, 512)])) == round(expected_ns)


def test_a_mixed_batch_attends_to_the_pairs_of_all_its_parts():
    apart = [source().latency_ns("attention", batch([chunk])) for chunk in ((512, 512), (256, 0))]
    together = source().latency_ns("attention", batch([(512, 512), (256, 0)], [100]))
    assert together == pytest.approx(sum(apart) + 4 * 100 * 1024 / 250, abs=2)


def test_a_sliding_window_bounds_the_keys_that_are_read():
    windowed = source(ModelSpec(**{**{f: getattr(MODEL, f) for f in MODEL.__struct_fields__}, "sliding_window": 256}))
    long, short = batch(decodes=[4000] * 4), batch(decodes=[256] * 4)
    assert windowed.latency_ns("attention", long) == windowed.latency_ns("attention", short)
    assert windowed.latency_ns("attention", long) < source().latency_ns("attention", long)


def test_no_kernel_is_shorter_than_its_launch():
    assert source().latency_ns("rotary_emb", batch(decodes=[1])) == DEVICE.kernel_launch_ns
    assert source().latency_ns("layernorm", batch(decodes=[1])) == DEVICE.kernel_launch_ns


def test_nothing_takes_no_time():
    assert source().latency_ns("attention", batch()) == 0


@pytest.mark.parametrize("operator", GEMMS)
@pytest.mark.parametrize("tokens", [1, 2000])
def test_two_ranks_take_about_half_the_time_of_a_gemm(operator, tokens):
    """Weights and FLOPs halve exactly; inputs that every rank reads whole add at most 2 % of the traffic."""
    shape = batch([(tokens, 0)])
    assert 0.5 <= source(tp=2).latency_ns(operator, shape) / source().latency_ns(operator, shape) < 0.51


def test_every_operator_of_the_model_has_a_time():
    operators = {op.name for op in (*start_operators(), *block_operators(MODEL), *end_operators())}
    assert all(source().latency_ns(name, batch([(64, 0)], [100] * 3)) >= 2000 for name in operators)


def test_an_unknown_operator_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"operator 'moe' is unknown; acme/tiny has .*attention"):
        source().latency_ns("moe", batch(decodes=[1]))


def test_provenance_states_the_assumed_efficiencies():
    provenance = source().provenance()
    assert provenance["accelerator"] == "Slow1"
    assert provenance["efficiency"] == {"gemm": 0.5, "memory": 0.5, "attention": 0.25, "link": 0.5}
    assert json.loads(json.dumps(provenance)) == provenance
