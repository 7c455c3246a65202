"""Weights in fewer bits, and blocks that differ in their attention: sizes, arithmetic and times by hand."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmservingsim import simulate
from llmservingsim.config.catalog import FORMATS, ModelSpec, find_accelerator, find_model, from_hf_config, quantised
from llmservingsim.errors import LLMServingSimError, ModelError
from llmservingsim.latency import RooflineSource
from llmservingsim.latency.find import variant_of
from llmservingsim.model import (
    ParallelLayout,
    block_operators,
    kv_bytes_per_token,
    num_parameters,
    state_bytes,
    weight_bytes,
)
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.workload import RequestSpec

LLAMA = find_model("meta-llama/Llama-3.1-8B")
ONE = ParallelLayout()
LINEAR = 32 * (4096 * (4096 + 2048) + 4096 * 4096 + 3 * 4096 * 14336)  # weights of linear layers
OTHER = 2 * 128256 * 4096 + 65 * 4096  # embedding, head and norms


@pytest.mark.parametrize("stored", sorted(FORMATS))
def test_linear_layers_take_the_bits_of_their_format_and_all_else_stays(stored: str) -> None:
    assert weight_bytes(quantised(LLAMA, stored)) == pytest.approx(
        LINEAR * FORMATS[stored].bits / 8 + 2 * OTHER, abs=2000
    )


def test_a_word_of_vllm_means_a_format_and_none_the_dtype() -> None:
    assert quantised(LLAMA, "awq").linear_format == "int4"
    assert quantised(quantised(LLAMA, "modelopt_fp4"), "none") == LLAMA
    with pytest.raises(ModelError, match=r"'fp9' is unknown .did you mean 'fp8'"):
        quantised(LLAMA, "fp9")


def test_published_sizes_of_quantised_checkpoints_are_met() -> None:
    """The files of gpt-oss-120b take 65.2 GB, those of Kimi-K2 594 GB at groups of 32, of DeepSeek-V3 about 689 GB with
    its extra block; here groups are of 128 and that block is left out."""
    assert weight_bytes(find_model("openai/gpt-oss-120b")) == pytest.approx(65.2e9, rel=0.01)
    assert weight_bytes(find_model("moonshotai/Kimi-K2.5")) == pytest.approx(594e9, rel=0.09)
    assert weight_bytes(find_model("deepseek-ai/DeepSeek-V3")) == pytest.approx(675e9, rel=0.01)


def roofline_ns(model: ModelSpec, operator: str, tokens: int, hardware: str = "H100") -> int:
    source = RooflineSource(model, ONE, find_accelerator(hardware))
    return source.latency_ns(operator, BatchShape((Chunk(tokens, 0),), 0, 0, 0, tokens))


def test_few_tokens_take_as_long_as_reading_the_stored_weights() -> None:
    full, eight, four = (roofline_ns(quantised(LLAMA, q), "gate_up_proj", 8) for q in ("none", "fp8", "int4"))
    assert eight / full == pytest.approx(8 / 16, rel=0.01)  # the activations are less than a hundredth
    assert four / full == pytest.approx(4.15625 / 16, rel=0.02)


def test_many_tokens_are_multiplied_at_the_rate_of_quantised_activations_or_of_the_dtype() -> None:
    full, fp8, int4 = (roofline_ns(quantised(LLAMA, q), "gate_up_proj", 8192) for q in ("none", "fp8", "int4"))
    assert fp8 / full == pytest.approx(0.5, rel=0.01)
    assert int4 == full
    assert roofline_ns(quantised(LLAMA, "fp8"), "lm_head", 8192) == roofline_ns(LLAMA, "lm_head", 8192)


def test_a_chip_without_such_a_unit_multiplies_at_its_own_rate() -> None:
    a100 = [roofline_ns(quantised(LLAMA, q), "gate_up_proj", 8192, "A100") for q in ("none", "fp8")]
    assert a100[0] == a100[1]


def test_experts_may_have_a_format_of_their_own() -> None:
    moe = find_model("Qwen/Qwen3-30B-A3B")
    of_experts = quantised(moe, "mxfp4")
    assert (of_experts.linear_bits, of_experts.expert_bits) == (16, 4.25)
    experts = 48 * 128 * 3 * 2048 * 768
    assert weight_bytes(moe) - weight_bytes(of_experts) == pytest.approx(experts * (16 - 4.25) / 8, rel=1e-6)


def test_a_bundle_lies_in_the_folder_of_its_formats() -> None:
    assert variant_of(LLAMA) == "bf16"
    assert variant_of(quantised(LLAMA, "fp8")) == "fp8"
    assert variant_of(LLAMA, "fp8") == "bf16-kv_fp8"
    assert variant_of(find_model("openai/gpt-oss-120b")) == "mxfp4"


def test_keys_and_values_in_eight_bits_are_read_in_half_the_time() -> None:
    shape = BatchShape((), 64, 64 * 4096, 4096, 64)
    full, half = (
        RooflineSource(LLAMA, ONE, find_accelerator("H100"), dtype).latency_ns("attention", shape)
        for dtype in ("auto", "fp8")
    )
    assert half / full == pytest.approx(0.5, rel=0.01)


MIXED: dict[str, Any] = {
    "model_type": "gpt_oss",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}


def test_sliding_blocks_run_an_attention_of_their_own() -> None:
    model = from_hf_config(MIXED, "mixed")
    names = [op.name for layer in range(2) for op in block_operators(model, layer) if "attention" in op.name]
    assert names == ["sliding_attention", "attention"]
    assert (model.window_of("sliding_attention"), model.window_of("attention")) == (16, None)


def test_a_window_bounds_the_time_of_sliding_blocks_alone() -> None:
    model = msgspec.structs.replace(from_hf_config(MIXED, "mixed"), num_heads=64, num_kv_heads=64, head_dim=128)
    source = RooflineSource(model, ONE, find_accelerator("H100"))
    short, long = (BatchShape((), 100, 100 * kv, kv, 100) for kv in (1024, 2048))
    assert source.latency_ns("sliding_attention", long) == source.latency_ns("sliding_attention", short)
    assert source.latency_ns("attention", long) > 1.9 * source.latency_ns("attention", short)


def test_a_run_times_both_kinds_and_its_cache_keeps_all_tokens() -> None:
    model = find_model("openai/gpt-oss-20b")
    assert kv_bytes_per_token(model) == 24 * 2 * 8 * 64 * 2
    instance = {"model": model.name, "hardware": "H100", "latency": {"source": "roofline"}}
    result = simulate({"nodes": [{"instances": [instance]}]}, [RequestSpec(0, 0, 4000, 20)])
    assert result.summary["requests"]["finished"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"layer_types": ["sliding_attention", "mamba", "full_attention", "full_attention"]},
            "'mamba' is not simulated",
        ),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "names 2 blocks, num_hidden_layers says 4"),
        ({"sliding_window": None}, "sliding_window must say how far"),
        ({"layer_types": "sliding"}, "expected a list of words, got 'sliding'"),
    ],
)
def test_layer_types_that_contradict_the_rest_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(LLMServingSimError, match=message):
        from_hf_config({**MIXED, **change}, "mixed")


def test_linear_attention_keeps_a_state_per_sequence_and_no_keys() -> None:
    model = find_model("Qwen/Qwen3.5-397B-A17B")
    assert num_parameters(model) == pytest.approx(397e9, rel=0.01)
    assert kv_bytes_per_token(model) == 15 * 2 * 2 * 256 * 2
    state = 64 * 128 * 128 * 4 + 3 * (2 * 2048 + 8192) * 2
    assert state_bytes(model, ParallelLayout(8), 0) == 45 * (state // 8)


def test_memory_for_the_states_of_all_sequences_is_set_aside() -> None:
    instance = {"model": "Qwen/Qwen3.5-397B-A17B", "hardware": "B200", "tensor_parallel_size": 8}
    blocks = []
    for max_num_seqs in (128, 256):
        run = {
            "nodes": [{"instances": [{**instance, "max_num_seqs": max_num_seqs, "latency": {"source": "roofline"}}]}]
        }
        told = simulate(run, [RequestSpec(0, 0, 500, 10)]).summary["instances"][0]["kv_cache"]
        blocks.append(told["num_gpu_blocks"])
    per_block = told["block_bytes"]
    fewer = 128 * state_bytes(find_model("Qwen/Qwen3.5-397B-A17B"), ParallelLayout(8), 0) / per_block
    logits = 128 * 248320 * 8 / per_block  # the sampler's buffers grow as well: up to two in float32
    assert fewer <= blocks[0] - blocks[1] <= fewer + logits


@pytest.mark.parametrize(("key", "value"), [("kv_role", "kv_producer"), ("prefix_storage", "cpu")])
def test_states_do_not_move(key: str, value: str) -> None:
    instance = {"model": "Qwen/Qwen3.5-397B-A17B", "hardware": "B200", "tensor_parallel_size": 8, key: value}
    with pytest.raises(LLMServingSimError, match=f"{key}: .* keeps states of linear attention"):
        simulate({"nodes": [{"instances": [instance]}]}, [RequestSpec(0, 0, 500, 10)])
