"""Weights and KV bytes against published parameter counts, and shards against the whole."""

import pytest

from llmservingsim.config.catalog import find_model
from llmservingsim.errors import ConfigError
from llmservingsim.model import (
    ONE_RANK,
    ParallelLayout,
    check_layout,
    kv_bytes_per_token,
    num_active_parameters,
    num_parameters,
    rotary_cache_bytes,
    stage_layers,
    stage_range,
    weight_bytes,
)

PUBLISHED = {  # what Hugging Face counts in the safetensors files
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "meta-llama/Llama-3.1-70B": 70_553_706_496,
    "meta-llama/Llama-3.1-405B": 405_853_388_800,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-3B": 3_212_749_824,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen3-30B-A3B": 30_532_122_624,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "mistralai/Mixtral-8x7B-v0.1": 46_702_792_704,
    "microsoft/Phi-3.5-MoE-instruct": 41_873_153_344,
}


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_parameter_count_equals_the_published_one(name: str, count: int) -> None:
    assert num_parameters(find_model(name)) == count


def test_deepseek_v3_has_671_billion_parameters_of_which_37_billion_are_active() -> None:
    model = find_model("deepseek-ai/DeepSeek-V3")
    # The report rounds to whole billions and leaves out the multi-token prediction module.
    assert round(num_parameters(model) / 1e9) == 671
    assert num_active_parameters(model) / 1e9 == pytest.approx(37, abs=1)


def test_bf16_weights_take_two_bytes_each() -> None:
    assert weight_bytes(find_model("Llama-3.1-8B")) == 2 * 8_030_261_248


def test_weights_and_rotary_table_are_what_vllm_logs_after_loading() -> None:
    model = find_model("Llama-3.1-8B")
    assert (weight_bytes(model) + rotary_cache_bytes(model)) / 2**30 == pytest.approx(14.9888, abs=5e-5)  # its 4 digits


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("name", ["Llama-3.1-70B", "Mixtral-8x7B-v0.1", "Llama-3.2-1B"])
def test_tensor_parallel_shards_sum_to_the_whole_but_for_replicated_norms_and_routers(name: str, tp: int) -> None:
    model = find_model(name)
    router = model.hidden_size * model.num_experts
    replicated = 2 * ((2 * model.hidden_size + router) * model.num_layers + model.hidden_size)
    assert tp * weight_bytes(model, ParallelLayout(tp=tp)) - weight_bytes(model) == (tp - 1) * replicated


@pytest.mark.parametrize("pp", [2, 3, 4, 7])
def test_pipeline_stages_sum_to_the_whole(pp: int) -> None:
    model = find_model("Llama-3.1-8B")
    layout = ParallelLayout(pp=pp)
    assert sum(weight_bytes(model, layout, stage) for stage in range(pp)) == weight_bytes(model)


def test_a_tied_head_is_a_second_copy_only_on_another_stage() -> None:
    model = find_model("Llama-3.2-1B")
    two = ParallelLayout(pp=2)
    embedding = 2 * model.vocab_size * model.hidden_size
    assert weight_bytes(model, two, 0) + weight_bytes(model, two, 1) == weight_bytes(model) + embedding


def test_expert_parallel_and_sliced_experts_take_the_same_bytes() -> None:
    model = find_model("Qwen/Qwen3-30B-A3B")
    assert weight_bytes(model, ParallelLayout(tp=4, ep=4)) == weight_bytes(model, ParallelLayout(tp=4))
    assert weight_bytes(model, ParallelLayout(dp=2, ep=2)) < weight_bytes(model)


def test_fp8_checkpoints_halve_linear_weights_only() -> None:
    model = find_model("deepseek-ai/DeepSeek-V3")
    assert num_parameters(model) < weight_bytes(model) < 1.01 * num_parameters(model)


@pytest.mark.parametrize(
    ("layers", "pp", "expected"),
    # vLLM's get_pp_indices, worked by hand: the rest goes to the stages before the last, from the back.
    [(32, 1, (32,)), (32, 4, (8, 8, 8, 8)), (61, 2, (31, 30)), (7, 3, (2, 3, 2)), (62, 4, (15, 16, 16, 15)),
     (11, 4, (3, 3, 3, 2))],
)  # fmt: skip
def test_layers_are_dealt_to_stages_as_vllm_does(layers: int, pp: int, expected: tuple[int, ...]) -> None:
    assert stage_layers(layers, pp) == expected
    assert [i for stage in range(pp) for i in stage_range(layers, pp, stage)] == list(range(layers))


def test_llama_8b_keeps_128_kib_per_token() -> None:
    assert kv_bytes_per_token(find_model("Llama-3.1-8B")) == 2 * 8 * 128 * 32 * 2 == 128 * 1024


def test_kv_heads_are_replicated_when_tp_exceeds_them() -> None:
    model = find_model("Qwen/Qwen3-30B-A3B")  # 4 KV heads
    per_rank = [kv_bytes_per_token(model, ParallelLayout(tp=tp)) for tp in (1, 2, 4, 8)]
    assert per_rank == [per_rank[0], per_rank[0] // 2, per_rank[0] // 4, per_rank[0] // 4]


def test_mla_keeps_one_latent_vector_on_every_rank() -> None:
    model = find_model("deepseek-ai/DeepSeek-V3")
    assert kv_bytes_per_token(model, ParallelLayout(tp=8)) == kv_bytes_per_token(model) == (512 + 64) * 61 * 2


def test_fp8_cache_halves_the_bytes_and_an_unknown_dtype_is_an_error() -> None:
    model = find_model("Llama-3.1-8B")
    assert kv_bytes_per_token(model, kv_cache_dtype="fp8") == kv_bytes_per_token(model) // 2
    with pytest.raises(ConfigError, match=r"kv_cache_dtype 'fp9' is unknown"):
        kv_bytes_per_token(model, kv_cache_dtype="fp9")


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (ParallelLayout(tp=3), "tp 3 does not divide the 32 attention heads"),
        (ParallelLayout(pp=33), "pp 33 exceeds the 32 blocks"),
        (ParallelLayout(tp=16, ep=16), "ep 16 does not divide the 8 experts"),
    ],
)
def test_an_impossible_layout_says_why(layout: ParallelLayout, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_layout(find_model("Mixtral-8x7B"), layout)


def test_ep_must_divide_the_ranks_that_share_the_experts() -> None:
    with pytest.raises(ConfigError, match=r"ep 3 must divide tp \* dp = 4"):
        ParallelLayout(tp=2, dp=2, ep=3)
    assert ONE_RANK.num_ranks == 1


def test_redundant_experts_take_the_bytes_of_their_copies() -> None:
    model = find_model("Qwen/Qwen3-30B-A3B")
    expert = 3 * 2048 * 768 * 2
    plain, copied = (weight_bytes(model, ParallelLayout(tp=4, ep=4, redundant_experts=n)) for n in (0, 8))
    assert copied - plain == 48 * 8 // 4 * expert


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        (ParallelLayout(tp=4, ep=4, redundant_experts=2), "ep 4 does not divide the 128 experts and 2 redundant ones"),
        (ParallelLayout(tp=4, redundant_experts=4), "4 redundant experts need expert parallelism"),
    ],
)
def test_redundant_experts_need_places(layout: ParallelLayout, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        weight_bytes(find_model("Qwen/Qwen3-30B-A3B"), layout)
