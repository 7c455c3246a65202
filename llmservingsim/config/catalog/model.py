"""A model's architecture in one vocabulary, whatever words its config.json used."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from llmservingsim.config.catalog.formats import FORMATS, OF_EXPERTS_ALONE, find_format
from llmservingsim.errors import ModelError, nearest, one_of

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "fp8": 1, "int8": 1}
"""Bytes of one element of each dtype that a checkpoint or a KV cache may use."""


LAYER_TYPES = {
    "full_attention": "attention",
    "sliding_attention": "sliding_attention",
    "linear_attention": "linear_attention",
}
"""What ``layer_types`` of a Hugging Face config.json says of a block -> the operator that is its attention."""


class ModelFamily(StrEnum):
    """What a decoder block is made of."""

    DENSE = "dense"
    MOE = "moe"
    MLA_MOE = "mla_moe"


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A decoder-only language model; sizes are elements, counts are plain, 0 or None means "has none".

    Attributes:
        name: What the user calls it, usually ``org/model``.
        family: Dense, mixture of experts, or mixture of experts with multi-head latent attention.
        model_type: Hugging Face's word for the architecture.
        head_dim: Width of one attention head; not always ``hidden_size / num_heads`` (Qwen3).
        intermediate_size: Width of a dense block's MLP.
        dtype: Of weights and activations, a key of `DTYPE_BYTES`.
        linear_format: Of the weights of linear layers, a key of `FORMATS`, empty where they are stored in `dtype`;
            embedding, norms, router and head stay in `dtype` in every public quantised checkpoint.
        expert_format: Of those of routed experts, None where they are stored as other linear layers.
        qk_norm: RMS norms over the head dimension of queries and keys (Qwen3).
        num_block_norms: Norms over the hidden size in one block (2; Gemma 2 and 3 have 4).
        gated_mlp: The MLP multiplies a gate and an up projection.
        num_experts, experts_per_token, moe_intermediate_size: Of MoE blocks.
        shared_expert_size: Summed width of the experts that every token visits.
        first_dense_layers, moe_layer_step, moe_layer_offset, mlp_only_layers: Which blocks are MoE: layer ``i`` with
            ``i >= first_dense_layers``, ``(i + offset) % step == 0`` and ``i`` not in `mlp_only_layers`.
        q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim: Of MLA; ``q_lora_rank`` 0 means
            that queries are projected in one step.
        sliding_window: Tokens that attention looks back, None for all; where `layer_types` tells blocks apart, in the
            sliding ones.
        layer_types: Hugging Face's word for the attention of each block, a key of `LAYER_TYPES`; empty where all blocks
            are alike.
        attn_output_gate: Full attention is gated by a second half of its queries (Qwen3-Next).
        linear_num_key_heads, linear_num_value_heads, linear_key_head_dim, linear_value_head_dim: Of linear attention
            with a gated delta rule.
        linear_conv_kernel_dim: Tokens that its convolution sees.
        num_nextn_predict_layers: Blocks behind the last one that predict further tokens (multi-token prediction).
    """

    name: str
    family: ModelFamily
    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    dtype: str = "bfloat16"
    linear_format: str = ""
    expert_format: str | None = None
    tie_word_embeddings: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    norm_bias: bool = False
    lm_head_bias: bool = False
    num_block_norms: int = 2
    gated_mlp: bool = True
    num_experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    num_shared_experts: int = 0
    shared_expert_size: int = 0
    shared_expert_gate: bool = False
    router_bias: bool = False
    first_dense_layers: int = 0
    moe_layer_step: int = 1
    moe_layer_offset: int = 0
    mlp_only_layers: tuple[int, ...] = ()
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    qk_nope_head_dim: int = 0
    qk_rope_head_dim: int = 0
    v_head_dim: int = 0
    sliding_window: int | None = None
    layer_types: tuple[str, ...] = ()
    attn_output_gate: bool = False
    linear_num_key_heads: int = 0
    linear_num_value_heads: int = 0
    linear_key_head_dim: int = 0
    linear_value_head_dim: int = 0
    linear_conv_kernel_dim: int = 0
    num_nextn_predict_layers: int = 0

    def __post_init__(self) -> None:
        problem = _contradiction(self)
        if problem:
            raise ModelError(f"model {self.name!r}: {problem}")

    @property
    def dtype_bytes(self) -> int:
        """Bytes of one activation, embedding or norm element."""
        return DTYPE_BYTES[self.dtype]

    @property
    def linear_bits(self) -> float:
        """Bits of one weight of a linear layer, its share of the scales included."""
        return self._bits(self.linear_format)

    @property
    def expert_bits(self) -> float:
        """Bits of one weight of an expert, its share of the scales included."""
        return self._bits(self.format_of_experts)

    @property
    def format_of_experts(self) -> str:
        """Format of the experts' weights, empty where they are stored in `dtype`."""
        return self.linear_format if self.expert_format is None else self.expert_format

    def _bits(self, stored: str) -> float:
        return FORMATS[stored].bits if stored else 8 * self.dtype_bytes

    @property
    def is_mla(self) -> bool:
        """Whether attention keeps one latent vector per token instead of keys and values per head."""
        return self.kv_lora_rank > 0

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        head = self.qk_nope_head_dim + self.qk_rope_head_dim if self.is_mla else self.head_dim
        return self.num_heads * head

    @property
    def attention_output_size(self) -> int:
        """Width of what attention hands to the output projection."""
        return self.num_heads * (self.v_head_dim if self.is_mla else self.head_dim)

    @property
    def rotary_dim(self) -> int:
        """Width of the rotated part of a head."""
        return self.qk_rope_head_dim if self.is_mla else self.head_dim

    def attention_of(self, layer: int) -> str:
        """Name of the operator that is the attention of block ``layer``, counted from 0."""
        return LAYER_TYPES[self.layer_types[layer]] if self.layer_types else "attention"

    def keeps_kv(self, layer: int) -> bool:
        """Whether block ``layer`` keeps keys and values; linear attention keeps a state per sequence instead."""
        return self.attention_of(layer) != "linear_attention"

    @property
    def linear_widths(self) -> tuple[int, int]:
        """Widths of keys and of values of linear attention, all heads together."""
        keys = self.linear_num_key_heads * self.linear_key_head_dim
        return keys, self.linear_num_value_heads * self.linear_value_head_dim

    def window_of(self, attention: str) -> int | None:
        """How far an attention of this name looks back, None for all tokens."""
        return None if self.layer_types and attention == "attention" else self.sliding_window

    def is_moe_layer(self, layer: int) -> bool:
        """Whether block ``layer``, counted from 0, routes tokens to experts."""
        return (
            self.family is not ModelFamily.DENSE
            and layer >= self.first_dense_layers
            and layer not in self.mlp_only_layers
            and (layer + self.moe_layer_offset) % self.moe_layer_step == 0
        )


def quantised(model: ModelSpec, quantization: str) -> ModelSpec:
    """Return a model whose linear layers are stored as a word of vLLM's ``quantization`` says.

    Args:
        model: In any format.
        quantization: A key of `QUANTIZATIONS`, or ``none`` for the model's dtype.

    Raises:
        ModelError: The word is unknown.
    """
    stored = "" if quantization == "none" else find_format(quantization)
    if stored in OF_EXPERTS_ALONE and model.num_experts:
        return msgspec.structs.replace(model, linear_format="", expert_format=stored)
    return msgspec.structs.replace(model, linear_format=stored, expert_format=None)


def _contradiction(model: ModelSpec) -> str:
    """Say what is impossible about the numbers of ``model``; an empty string when nothing is."""
    positive = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "vocab_size", "moe_layer_step")
    for field in (*positive, "max_position_embeddings", "num_block_norms"):
        if getattr(model, field) < 1:
            return f"{field} must be at least 1, got {getattr(model, field)}"
    if model.dtype not in DTYPE_BYTES:
        return f"dtype {model.dtype!r} is unknown{nearest(model.dtype, DTYPE_BYTES)}; expected {one_of(DTYPE_BYTES)}"
    for stored in (model.linear_format, model.format_of_experts):
        if stored and stored not in FORMATS:
            return f"weight format {stored!r} is unknown{nearest(stored, FORMATS)}; expected {one_of(FORMATS)}"
    if model.num_heads % model.num_kv_heads:
        return f"num_attention_heads {model.num_heads} is no multiple of num_key_value_heads {model.num_kv_heads}"
    dense_layers = sum(not model.is_moe_layer(layer) for layer in range(model.num_layers))
    if dense_layers and model.intermediate_size < 1:
        return f"{dense_layers} dense blocks need an intermediate_size, got {model.intermediate_size}"
    return _expert_contradiction(model) or _mla_contradiction(model) or _layer_type_contradiction(model)


def _expert_contradiction(model: ModelSpec) -> str:
    if model.family is ModelFamily.DENSE:
        return "a dense model has no experts" if model.num_experts else ""
    if model.num_experts < 1 or model.moe_intermediate_size < 1:
        return "a mixture of experts needs num_experts and moe_intermediate_size of at least 1"
    if not 1 <= model.experts_per_token <= model.num_experts:
        return f"num_experts_per_tok {model.experts_per_token} must lie between 1 and num_experts {model.num_experts}"
    return ""


def _mla_contradiction(model: ModelSpec) -> str:
    if not model.is_mla:
        return "family mla_moe needs kv_lora_rank" if model.family is ModelFamily.MLA_MOE else ""
    needed = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
    missing = [field for field in needed if getattr(model, field) < 1]
    return f"kv_lora_rank without {', '.join(missing)}" if missing else ""


def _layer_type_contradiction(model: ModelSpec) -> str:
    if not model.layer_types:
        return ""
    if len(model.layer_types) != model.num_layers:
        return f"layer_types names {len(model.layer_types)} blocks, num_hidden_layers says {model.num_layers}"
    for kind in model.layer_types:
        if kind not in LAYER_TYPES:
            return f"layer_types: {kind!r} is not simulated{nearest(kind, LAYER_TYPES)}; expected {one_of(LAYER_TYPES)}"
    sizes = ("linear_num_key_heads", "linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")
    missing = [field for field in sizes if getattr(model, field) < 1]
    if "linear_attention" in model.layer_types and missing:
        return f"layer_types has linear_attention, which needs {', '.join(missing)}"
    if "sliding_attention" in model.layer_types and not model.sliding_window:
        return "layer_types has sliding_attention, so sliding_window must say how far it looks back"
    return ""
