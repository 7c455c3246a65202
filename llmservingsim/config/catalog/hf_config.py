"""Hugging Face's config.json, in its many dialects, to a `ModelSpec`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmservingsim.config.catalog.hf_quantization import weight_formats
from llmservingsim.config.catalog.model import ModelFamily, ModelSpec
from llmservingsim.errors import ModelError, nearest

_KEYS = {
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "num_layers": ("num_hidden_layers", "n_layer", "num_layers", "n_layers"),
    "num_heads": ("num_attention_heads", "n_head", "n_heads"),
    "num_kv_heads": ("num_key_value_heads", "n_head_kv"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocab_size": ("vocab_size",),
    "max_position_embeddings": ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"),
    "num_experts": ("num_experts", "num_local_experts", "n_routed_experts"),
    "experts_per_token": ("num_experts_per_tok", "experts_per_token", "moe_topk"),
    "moe_intermediate_size": ("moe_intermediate_size", "expert_ffn_hidden_size"),
    "num_nextn_predict_layers": ("num_nextn_predict_layers", "mtp_num_hidden_layers"),
}
"""Our field -> the keys that mean it, the usual one first."""

_DTYPES = {
    "float8_e4m3fn": "fp8", "float8": "fp8", "half": "float16", "float": "float32", "bf16": "bfloat16",
    "fp16": "float16", "fp32": "float32",
}  # fmt: skip
_UNGATED = {"gpt2", "gpt_neox", "gptj", "opt", "phi", "falcon", "bloom", "mpt", "starcoder2", "gpt_bigcode"}
_OUTPUT_GATE = {"qwen3_next", "qwen3_5", "qwen3_5_moe", "qwen3_5_text", "qwen3_5_moe_text"}
_QK_NORM = {"qwen3", "qwen3_moe", "gemma3", "gemma3_text"} | _OUTPUT_GATE
_FOUR_NORMS = {"gemma2", "gemma3", "gemma3_text"}
_TIED_BY_DEFAULT = {"gemma", "gemma2", "gemma3", "gemma3_text", "gpt2", "opt", "bloom", "mpt", "falcon"}
_MLA = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
_LINEAR = (
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_key_head_dim",
    "linear_value_head_dim",
    "linear_conv_kernel_dim",
)
_STEP_COUNTS_FROM_ONE = {"qwen2_moe", "qwen3_moe", "llama4", "llama4_text"}


class _Source:
    """A config.json with the name to blame in messages."""

    def __init__(self, config: Mapping[str, Any], place: str) -> None:
        self.config = config
        self.place = place

    def get(self, key: str, default: Any = None) -> Any:
        value = self.config.get(key)
        return default if value is None else value

    def integer(self, field: str, default: int | None = None) -> int:
        """Return the integer called ``field`` under any of its keys; without a default it must be there."""
        keys = _KEYS.get(field, (field,))
        for key in keys:
            if self.config.get(key) is not None:
                return self._checked(key)
        if default is not None:
            return default
        hint = next((text for text in (nearest(key, self.config) for key in keys) if text), "")
        known_as = f" (also known as {', '.join(keys[1:])})" if keys[1:] else ""
        raise ModelError(f"{self.place}: key {keys[0]!r}{known_as} is missing{hint}; expected an integer")

    def _checked(self, key: str) -> int:
        value = self.config[key]
        if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
            value = max(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelError(f"{self.place}: key {key!r}: expected a non-negative integer, got {value!r}")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise ModelError(f"{self.place}: key {key!r}: expected true or false, got {value!r}")
        return value


def from_hf_config(config: Mapping[str, Any], name: str, path: str = "") -> ModelSpec:
    """Normalise a Hugging Face ``config.json``.

    A wrapper with a nested ``text_config`` (multimodal models) is read through. An unknown ``model_type`` is taken as
    a Llama-like decoder when every needed number is there.

    Args:
        config: The parsed JSON.
        name: What to call the model.
        path: The file it came from, for messages.

    Raises:
        ModelError: A key is missing or has the wrong type, or numbers contradict each other.
    """
    place = path or f"model {name!r}"
    if not isinstance(config, Mapping):
        raise ModelError(f"{place}: expected an object with a Hugging Face config, got {type(config).__name__}")
    text = config.get("text_config")
    merged = {**config, **text} if isinstance(text, Mapping) else config
    source = _Source(merged, place)
    fields = _shape(source) | _attention(source) | _flags(source) | _experts(source)
    try:
        return ModelSpec(name=name, **fields)
    except ModelError as error:
        raise ModelError(f"{path}: {error}" if path else str(error)) from None


def _shape(source: _Source) -> dict[str, Any]:
    hidden_size, num_heads = source.integer("hidden_size"), source.integer("num_heads")
    if not source.get("head_dim") and (num_heads < 1 or hidden_size % num_heads) and not source.get("kv_lora_rank"):
        raise ModelError(
            f"{source.place}: hidden_size {hidden_size} is no multiple of num_attention_heads {num_heads}, "
            "and there is no head_dim"
        )
    moe_only = source.get("moe_intermediate_size") is not None
    inner = 0 if moe_only else 4 * hidden_size if _model_type(source) in _UNGATED else None
    return {
        "model_type": _model_type(source),
        "hidden_size": hidden_size,
        "num_layers": source.integer("num_layers"),
        "num_heads": num_heads,
        "num_kv_heads": source.integer("num_kv_heads", 1 if source.get("multi_query") else num_heads),
        "head_dim": source.integer("head_dim", hidden_size // max(num_heads, 1)),
        "intermediate_size": source.integer("intermediate_size", inner),
        "vocab_size": source.integer("vocab_size"),
        "max_position_embeddings": source.integer("max_position_embeddings"),
        "dtype": _dtype(source),
        **weight_formats(source.get("quantization_config"), source.place),
        "num_nextn_predict_layers": source.integer("num_nextn_predict_layers", 0),
    }


def _model_type(source: _Source) -> str:
    return str(source.get("model_type", "decoder"))


def _dtype(source: _Source) -> str:
    raw = str(source.get("torch_dtype", source.get("dtype", "bfloat16"))).removeprefix("torch.")
    return "bfloat16" if raw == "auto" else _DTYPES.get(raw, raw)


def _attention(source: _Source) -> dict[str, Any]:
    model_type = _model_type(source)
    bias = source.flag("attention_bias")
    windowed = source.flag("use_sliding_window", True)
    kinds = source.get("layer_types", [])
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise ModelError(f"{source.place}: key 'layer_types': expected a list of words, got {kinds!r}")
    is_mixed = windowed and len(set(kinds)) > 1
    if kinds and set(kinds) == {"full_attention"}:
        windowed = False
    fields: dict[str, Any] = {
        "qk_norm": model_type in _QK_NORM or source.flag("qk_norm") or source.flag("use_qk_norm"),
        "qkv_bias": bias or model_type in {"qwen2", "qwen2_moe"} or source.flag("qkv_bias"),
        "o_bias": bias,
        "attn_output_gate": source.flag("attn_output_gate", model_type in _OUTPUT_GATE),
        "sliding_window": source.integer("sliding_window", 0) or None if windowed else None,
        "layer_types": tuple(kinds) if is_mixed else (),
    }
    for key in (*_MLA, *_LINEAR):
        fields[key] = source.integer(key, 0)
    return fields


def _flags(source: _Source) -> dict[str, Any]:
    model_type = _model_type(source)
    return {
        "tie_word_embeddings": source.flag("tie_word_embeddings", model_type in _TIED_BY_DEFAULT),
        "mlp_bias": source.flag("mlp_bias"),
        "norm_bias": model_type in _UNGATED | {"phimoe"},
        "lm_head_bias": source.flag("lm_head_bias"),
        "num_block_norms": 4 if model_type in _FOUR_NORMS else 2,
        "gated_mlp": model_type not in _UNGATED,
    }


def _experts(source: _Source) -> dict[str, Any]:
    num_experts = source.integer("num_experts", 0)
    if not num_experts:
        return {"family": ModelFamily.DENSE}
    width = source.integer("moe_intermediate_size", source.integer("intermediate_size", 0))
    shared = source.integer("n_shared_experts", source.integer("num_shared_experts", 0))
    shared_size = source.integer("shared_expert_intermediate_size", shared * width)
    layers = source.get("mlp_only_layers", [])
    if not isinstance(layers, list) or not all(isinstance(layer, int) for layer in layers):
        raise ModelError(f"{source.place}: key 'mlp_only_layers': expected a list of integers, got {layers!r}")
    model_type = _model_type(source)
    step = source.get("decoder_sparse_step", source.get("interleave_moe_layer_step", source.get("moe_layer_freq", 1)))
    return {
        "family": ModelFamily.MLA_MOE if source.get("kv_lora_rank") else ModelFamily.MOE,
        "num_experts": num_experts,
        "experts_per_token": source.integer("experts_per_token"),
        "moe_intermediate_size": width,
        "num_shared_experts": max(shared, 1) if shared_size else 0,
        "shared_expert_size": shared_size,
        "shared_expert_gate": model_type == "qwen2_moe",
        "router_bias": source.get("topk_method") == "noaux_tc" or model_type == "gpt_oss",
        "first_dense_layers": source.integer("first_k_dense_replace", 0),
        "moe_layer_step": step if isinstance(step, int) else 1,
        "moe_layer_offset": 1 if model_type in _STEP_COUNTS_FROM_ONE else 0,
        "mlp_only_layers": tuple(layers),
    }
