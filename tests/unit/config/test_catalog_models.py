"""The catalogue of models and the reader of Hugging Face configs."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmservingsim.config.catalog import ModelFamily, catalogued_models, find_model, from_hf_config
from llmservingsim.errors import ModelError

DATA = Path(__file__).resolve().parents[4] / "shared/data/models"
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
}
MOE = {**LLAMA, "num_experts_per_tok": 2, "moe_intermediate_size": 768}


def _published() -> list[str]:
    return [path.relative_to(DATA).with_suffix("").as_posix() for path in sorted(DATA.glob("*/*.json"))]


@pytest.mark.skipif(not DATA.exists(), reason=f"no published config.json files at {DATA}")
def test_catalogue_agrees_with_every_published_config() -> None:
    names = _published()
    assert names
    for name in names:
        assert find_model(name, [DATA]) == find_model(name), name


def test_every_catalogued_model_is_consistent() -> None:
    for name in catalogued_models():
        assert find_model(name).name == name


def test_the_organisation_may_be_left_out() -> None:
    assert find_model("Qwen3-32B").hidden_size == 5120


@pytest.mark.parametrize("place", ["org/own.json", "org/own/config.json"])
def test_a_users_directory_comes_before_the_catalogue(tmp_path: Path, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**LLAMA, "num_hidden_layers": 3}))
    assert find_model("org/own", [tmp_path]).num_layers == 3
    assert find_model(str(path)).num_layers == 3


def test_an_unknown_model_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ModelError, match=r"did you mean 'Qwen/Qwen3-32B'\?"):
        find_model("Qwen/Qwen3-32")


def test_broken_json_is_reported_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{\n "hidden_size": 1,\n}')
    with pytest.raises(ModelError, match=r"config.json:\d+: not valid JSON"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("key", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_all_names_of_the_expert_count_mean_the_same(key: str) -> None:
    spec = from_hf_config({**MOE, key: 64}, "m")
    assert (spec.family, spec.num_experts, spec.moe_intermediate_size) == (ModelFamily.MOE, 64, 768)


def test_missing_kv_heads_mean_multi_head_attention_and_missing_head_dim_is_derived() -> None:
    spec = from_hf_config({k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}, "m")
    assert (spec.num_kv_heads, spec.head_dim) == (32, 128)


@pytest.mark.parametrize(("key", "value"), [("torch_dtype", "float16"), ("dtype", "torch.float16"), ("dtype", "half")])
def test_both_names_of_the_dtype_are_read(key: str, value: str) -> None:
    assert from_hf_config({**LLAMA, key: value}, "m").dtype == "float16"


def test_a_nested_text_config_is_read_through() -> None:
    assert from_hf_config({"model_type": "wrapper", "text_config": LLAMA}, "m").model_type == "llama"


def test_gpt2_keys_are_understood() -> None:
    config = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}
    spec = from_hf_config({**config, "vocab_size": 50257}, "m")
    assert (spec.intermediate_size, spec.gated_mlp, spec.tie_word_embeddings) == (3072, False, True)


def test_an_unknown_model_type_with_all_numbers_is_taken_as_a_plain_decoder() -> None:
    assert from_hf_config({**LLAMA, "model_type": "novel"}, "m").family is ModelFamily.DENSE


def test_qwen3_has_norms_on_queries_and_keys() -> None:
    assert find_model("Qwen/Qwen3-8B").qk_norm
    assert not find_model("meta-llama/Llama-3.1-8B").qk_norm


def test_an_unused_sliding_window_is_no_window() -> None:
    config = {**LLAMA, "sliding_window": 4096}
    assert from_hf_config(config, "m").sliding_window == 4096
    assert from_hf_config({**config, "use_sliding_window": False}, "m").sliding_window is None


def test_the_first_blocks_of_deepseek_are_dense() -> None:
    spec = find_model("deepseek-ai/DeepSeek-R1")
    assert spec.family is ModelFamily.MLA_MOE
    assert [spec.is_moe_layer(layer) for layer in range(5)] == [False, False, False, True, True]
    assert spec.linear_format == "fp8_block"


def test_sparse_step_and_dense_only_layers_choose_the_moe_blocks() -> None:
    config = {**MOE, "model_type": "qwen3_moe", "num_experts": 8, "decoder_sparse_step": 2, "mlp_only_layers": [3]}
    spec = from_hf_config(config, "m")
    assert [layer for layer in range(8) if spec.is_moe_layer(layer)] == [1, 5, 7]


WEIGHTS = {"num_bits": 8, "type": "float", "strategy": "channel"}


@pytest.mark.parametrize(
    ("quantisation", "stored", "bits"),
    [
        ({"quant_method": "fp8"}, "fp8", 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", 8 + 32 / 16384),
        ({"quant_method": "gptq", "bits": 4}, "int4", 4.15625),
        ({"quant_method": "awq", "bits": 4}, "int4", 4.15625),
        ({"quant_method": "gptq", "bits": 8}, "int8_weight_only", 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 4.5),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", 8),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}}, "int4", 4.15625),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": WEIGHTS}}}, "fp8", 8),
        ({"load_in_4bit": True}, "int4", 4.15625),
        ({"bits": 16}, "", 16),
        (None, "", 16),
    ],
)
def test_quantised_checkpoints_say_how_weights_are_stored(
    quantisation: dict[str, Any] | None, stored: str, bits: float
) -> None:
    spec = from_hf_config({**LLAMA, "quantization_config": quantisation}, "m")
    assert (spec.linear_format, spec.linear_bits) == (stored, bits)


def test_mxfp4_checkpoints_quantise_experts_alone() -> None:
    spec = from_hf_config({**MOE, "quantization_config": {"quant_method": "mxfp4"}}, "m")
    assert (spec.linear_bits, spec.expert_bits) == (16, 4.25)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, r"c.json: key 'hidden_size' \(also known as n_embd.*is missing"),
        ({"hidden_size": "big"}, r"c.json: key 'hidden_size': expected a non-negative integer, got 'big'"),
        ({"num_key_value_heads": 5}, r"c.json: .*num_attention_heads 32 is no multiple of num_key_value_heads 5"),
        ({"num_attention_heads": 30}, r"c.json: hidden_size 4096 is no multiple of num_attention_heads 30"),
        ({"torch_dtype": "bfloat17"}, r"c.json: .*dtype 'bfloat17' is unknown \(did you mean 'bfloat16'"),
        ({"num_experts": 4, "num_experts_per_tok": 8}, r"num_experts_per_tok 8 must lie between 1 and num_experts 4"),
        ({"tie_word_embeddings": "yes"}, r"'tie_word_embeddings': expected true or false"),
        ({"num_hidden_layers": 0}, r"num_layers must be at least 1"),
        ({"quantization_config": {"quant_method": "odd"}}, r"cannot tell the weight format of quant_method 'odd'"),
    ],
)
def test_a_wrong_config_is_reported_with_file_and_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        from_hf_config({**LLAMA, **change}, "m", "c.json")
