"""Order, FLOPs and bytes of operators."""

import pytest

from llmservingsim.config.catalog import ModelSpec, find_model
from llmservingsim.model import (
    ONE_RANK,
    IndexedBy,
    OperatorCost,
    ParallelLayout,
    Work,
    block_operators,
    end_operators,
    model_operators,
    num_active_parameters,
    num_parameters,
    start_operators,
    weight_bytes,
)

LLAMA = find_model("Llama-3.1-8B")
QWEN_MOE = find_model("Qwen/Qwen3-30B-A3B")
DENSE_BLOCK = ["layernorm", "qkv_proj", "rotary_emb", "attention", "o_proj", "layernorm",
               "gate_up_proj", "act_fn", "down_proj"]  # fmt: skip


def _cost(model: ModelSpec, name: str, work: Work, layout: ParallelLayout = ONE_RANK) -> OperatorCost:
    operator = next(op for op in model_operators(model)[::-1] if op.name == name)
    return operator.cost(model, work, layout)


def test_a_dense_block_lists_the_layers_of_the_profile_bundle_in_order() -> None:
    assert [op.name for op in block_operators(LLAMA)] == DENSE_BLOCK
    assert [op.name for op in (*start_operators(), *end_operators())] == [
        "embedding", "final_layernorm", "lm_head", "sampler",
    ]  # fmt: skip


def test_qwen3_adds_qk_norm_before_the_rotation_and_moe_replaces_the_mlp() -> None:
    assert [op.name for op in block_operators(QWEN_MOE)] == [
        "layernorm", "qkv_proj", "qk_norm", "rotary_emb", "attention", "o_proj", "layernorm", "moe",
    ]  # fmt: skip


def test_deepseeks_first_block_is_dense_and_its_last_is_moe() -> None:
    model = find_model("DeepSeek-V3")
    assert block_operators(model, 0)[-1].name == "down_proj"
    assert block_operators(model)[-1].name == "moe"


def test_head_and_sampler_depend_on_sequences_and_attention_on_contexts() -> None:
    by_name = {op.name: op.indexed_by for op in model_operators(LLAMA)}
    assert {name for name, by in by_name.items() if by is IndexedBy.SEQUENCES} == {"lm_head", "sampler"}
    assert {name for name, by in by_name.items() if by is IndexedBy.ATTENTION} == {"attention"}


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen/Qwen3-30B-A3B", "DeepSeek-V3"])
def test_a_token_costs_two_flops_per_active_parameter(name: str) -> None:
    model = find_model(name)
    flops = sum(op.cost(model, Work(1, 1, 1, 1)).flops for op in model_operators(model))
    gathered = model.vocab_size * model.hidden_size  # the embedding is looked up, not multiplied
    # Norms, rotation and activation add less than one percent.
    assert flops == pytest.approx(2 * (num_active_parameters(model) - gathered), rel=0.01)


@pytest.mark.parametrize("tp", [2, 4, 8])
@pytest.mark.parametrize("name", ["qkv_proj", "attention", "o_proj", "gate_up_proj", "act_fn", "down_proj", "lm_head"])
def test_shards_of_an_operator_sum_to_the_whole(name: str, tp: int) -> None:
    work = Work.of_requests([(100, 300), (1, 50)])
    whole, shard = _cost(LLAMA, name, work), _cost(LLAMA, name, work, ParallelLayout(tp=tp))
    assert tp * shard.flops == whole.flops
    assert tp * shard.weight_bytes == whole.weight_bytes


def test_operators_read_every_weight_once_but_for_the_embedding() -> None:
    read = sum(op.cost(LLAMA, Work(1, 1)).weight_bytes for op in model_operators(LLAMA))
    looked_up, rotated = 2 * LLAMA.hidden_size, 2 * LLAMA.head_dim * LLAMA.num_layers
    assert read == weight_bytes(LLAMA) - 2 * LLAMA.vocab_size * LLAMA.hidden_size + looked_up + rotated


def test_projection_traffic_is_input_weights_and_output() -> None:
    tokens, tp = 10, 2
    cost = _cost(LLAMA, "qkv_proj", Work(tokens), ParallelLayout(tp=tp))
    width = (4096 + 2 * 1024) // tp
    assert (cost.input_bytes, cost.weight_bytes, cost.output_bytes) == (
        2 * tokens * 4096, 2 * 4096 * width, 2 * tokens * width,
    )  # fmt: skip
    assert cost.total_bytes == 2 * (tokens * 4096 + 4096 * width + tokens * width)


def test_decode_attention_reads_the_whole_context() -> None:
    cost = _cost(LLAMA, "attention", Work.of_requests([(1, 1000)] * 4))
    assert cost.input_bytes == 2 * (4 * 4096 + 2 * 1024 * 4000)
    assert cost.flops == 4 * 4000 * 4096


def test_ranks_beyond_the_kv_heads_compute_and_read_a_whole_head_each() -> None:
    """Llama-3.1-8B has 8 KV heads of 128 and 32 query heads; of 16 ranks each has two of these and one of those."""
    work, layout = Work.of_requests([(1, 1000), (1, 500)]), ParallelLayout(tp=16)
    operators = {operator.name: operator for operator in block_operators(LLAMA)}
    attention = operators["attention"].cost(LLAMA, work, layout)
    assert attention.flops == 4 * 1500 * 2 * 128
    assert attention.input_bytes == 2 * (2 * 2 * 128 + 1500 * 2 * 128)
    assert operators["qkv_proj"].cost(LLAMA, work, layout).weight_bytes == 2 * 4096 * (2 + 2) * 128
    assert operators["rotary_emb"].cost(LLAMA, work, layout).output_bytes == 2 * 2 * (2 + 1) * 128


def test_all_reduces_follow_the_output_and_down_projection_or_the_experts() -> None:
    block = block_operators(LLAMA)
    assert [op.name for op in block if op.all_reduce] == ["o_proj", "down_proj"]
    assert [op.name for op in block_operators(QWEN_MOE) if op.all_reduce] == ["o_proj", "moe"]


def test_experts_that_get_no_token_are_not_read() -> None:
    expert = 3 * 2048 * 768 * 2
    every = _cost(QWEN_MOE, "moe", Work(4)).weight_bytes
    assert every - _cost(QWEN_MOE, "moe", Work(4, activated_experts=28)).weight_bytes == 100 * expert


def test_expert_pairs_set_the_work_of_a_rank() -> None:
    even = _cost(QWEN_MOE, "moe", Work(64), ParallelLayout(dp=2, ep=2)).flops
    more = _cost(QWEN_MOE, "moe", Work(64, expert_pairs=64 * 8 // 2 + 10), ParallelLayout(dp=2, ep=2)).flops
    assert more - even == 2 * 10 * 3 * 2048 * 768


def test_causal_pairs_are_counted_exactly_with_and_without_a_window() -> None:
    for query_len, kv_len in [(1, 1), (5, 5), (3, 10), (1, 40), (8, 12)]:
        for window in [None, 1, 4, 9, 100]:
            positions = range(kv_len - query_len, kv_len)
            seen = [min(position + 1, window or position + 1) for position in positions]
            work = Work.of_requests([(query_len, kv_len)], window)
            assert work.attended_pairs == sum(seen), (query_len, kv_len, window)


def test_the_parameter_count_is_the_sum_over_operators() -> None:
    assert num_parameters(LLAMA) == 8_030_261_248
