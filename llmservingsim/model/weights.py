"""How many weights each operator holds on one rank.

H hidden, q and kv widths of queries and of keys, F MLP width, V vocabulary, E experts; column-parallel matrices are cut
over their outputs, row-parallel ones over their inputs, norms and the router are replicated, as vLLM does it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.model.layout import ONE_RANK, ParallelLayout

VOCAB_PADDING = 64
"""vLLM pads the vocabulary to this multiple before it cuts it (``VocabParallelEmbedding``)."""


class WeightCount(NamedTuple):
    """Weights of one operator on one rank.

    Attributes:
        linear: Elements of linear layers, which a quantised checkpoint stores in fewer bits.
        other: Elements kept in the model's dtype.
        experts: Elements of linear layers of routed experts, which may have a format of their own.
    """

    linear: int = 0
    other: int = 0
    experts: int = 0

    @property
    def elements(self) -> int:
        """All of them."""
        return self.linear + self.other + self.experts

    def size_bytes(self, model: ModelSpec) -> int:
        """Bytes in the checkpoint's formats."""
        stored = self.linear * model.linear_bits + self.experts * model.expert_bits
        return int(stored // 8) + self.other * model.dtype_bytes


def kv_heads_per_rank(model: ModelSpec, tp: int) -> int:
    """KV heads of one rank; every rank has at least one, so heads are replicated when tp exceeds their number."""
    return max(1, model.num_kv_heads // tp)


def padded_vocab(model: ModelSpec) -> int:
    """Vocabulary as vLLM allocates it."""
    return -(-model.vocab_size // VOCAB_PADDING) * VOCAB_PADDING


def vocab_per_rank(model: ModelSpec, tp: int) -> int:
    """Rows of embedding and head on one rank: exact when uncut, padded when cut."""
    return model.vocab_size if tp == 1 else padded_vocab(model) // tp


def operator_weights(model: ModelSpec, name: str, layout: ParallelLayout = ONE_RANK) -> WeightCount:
    """Weights that operator ``name`` (a layer name of the profile bundle) holds on one rank.

    A tied head counts as if it had weights of its own, because it reads them; `memory.weight_bytes` counts them once.
    """
    count = _COUNTS.get(name)
    return count(model, layout) if count else WeightCount()


def _embedding(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    return WeightCount(other=vocab_per_rank(model, layout.tp) * model.hidden_size)


def _lm_head(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    rows = vocab_per_rank(model, layout.tp)
    return WeightCount(other=rows * (model.hidden_size + model.lm_head_bias))


def _final_layernorm(model: ModelSpec, _: ParallelLayout) -> WeightCount:
    return WeightCount(other=model.hidden_size * (1 + model.norm_bias))


def _layernorm(model: ModelSpec, _: ParallelLayout) -> WeightCount:
    # A block lists this operator twice; Gemma's four norms are then two each.
    return WeightCount(other=model.num_block_norms // 2 * model.hidden_size * (1 + model.norm_bias))


def _qkv_proj(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    if model.is_mla:
        return _mla_projections(model, layout)
    queries = (1 + model.attn_output_gate) * model.q_size // layout.tp
    width = queries + 2 * kv_heads_per_rank(model, layout.tp) * model.head_dim
    return WeightCount(model.hidden_size * width, width * model.qkv_bias)


def linear_in_width(model: ModelSpec, layout: ParallelLayout) -> int:
    """Outputs of the projection in front of linear attention on one rank.

    Queries and keys, values and their gate, and per value head a decay and a rate.
    """
    keys, values = model.linear_widths
    return (2 * keys + 2 * values + 2 * model.linear_num_value_heads) // layout.tp


def _linear_in_proj(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    return WeightCount(model.hidden_size * linear_in_width(model, layout))


def _linear_attention(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    # The convolution, per value head a decay and its bias, and a norm over a head.
    keys, values = model.linear_widths
    convolution = model.linear_conv_kernel_dim * (2 * keys + values)
    return WeightCount(
        other=(convolution + 2 * model.linear_num_value_heads) // layout.tp + model.linear_value_head_dim
    )


def _linear_out_proj(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    return WeightCount(model.linear_widths[1] // layout.tp * model.hidden_size)


def _mla_projections(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    """Down-projections are replicated, the up-projection of queries is cut by heads; both latents have a norm."""
    rank = model.q_lora_rank
    query = model.hidden_size * rank + rank * model.q_size // layout.tp if rank else 0
    query = query or model.hidden_size * model.q_size // layout.tp
    latent = model.hidden_size * (model.kv_lora_rank + model.qk_rope_head_dim)
    return WeightCount(query + latent, rank + model.kv_lora_rank)


def _eh_proj(model: ModelSpec, _: ParallelLayout) -> WeightCount:
    # Joins a hidden state with the next token's embedding, each behind a norm; every rank holds it whole.
    return WeightCount(2 * model.hidden_size * model.hidden_size, 2 * model.hidden_size)


def _qk_norm(model: ModelSpec, _: ParallelLayout) -> WeightCount:
    return WeightCount(other=2 * model.head_dim if model.qk_norm else 0)


def _attention(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    # MLA's up-projection of the latent is absorbed into the attention itself.
    per_head = model.qk_nope_head_dim + model.v_head_dim
    return WeightCount(model.kv_lora_rank * model.num_heads // layout.tp * per_head)


def _o_proj(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    rows = model.attention_output_size // layout.tp
    return WeightCount(rows * model.hidden_size, model.hidden_size * model.o_bias)


def _gate_up_proj(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    width = (1 + model.gated_mlp) * model.intermediate_size // layout.tp
    return WeightCount(model.hidden_size * width, width * model.mlp_bias)


def _down_proj(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    rows = model.intermediate_size // layout.tp
    return WeightCount(rows * model.hidden_size, model.hidden_size * model.mlp_bias)


def _moe(model: ModelSpec, layout: ParallelLayout) -> WeightCount:
    hidden, matrices = model.hidden_size, 2 + model.gated_mlp
    experts = layout.local_experts(model) * expert_weights(model, layout)
    shared = matrices * hidden * model.shared_expert_size // layout.tp
    router = hidden * model.num_experts + model.num_experts * model.router_bias
    return WeightCount(shared, router + hidden * model.shared_expert_gate, experts)


def expert_weights(model: ModelSpec, layout: ParallelLayout) -> int:
    """Elements of one expert, or of its slice, on one rank."""
    return (2 + model.gated_mlp) * model.hidden_size * model.moe_intermediate_size // layout.expert_slices


_COUNTS: dict[str, Callable[[ModelSpec, ParallelLayout], WeightCount]] = {
    "embedding": _embedding,
    "eh_proj": _eh_proj,
    "layernorm": _layernorm,
    "qkv_proj": _qkv_proj,
    "qk_norm": _qk_norm,
    "attention": _attention,
    "o_proj": _o_proj,
    "linear_in_proj": _linear_in_proj,
    "linear_attention": _linear_attention,
    "linear_out_proj": _linear_out_proj,
    "gate_up_proj": _gate_up_proj,
    "down_proj": _down_proj,
    "moe": _moe,
    "final_layernorm": _final_layernorm,
    "lm_head": _lm_head,
}
