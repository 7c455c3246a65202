"""The operators of a model in the order in which a rank runs them, and what each one computes and moves.

Names and order are those of the profile bundles. Sizes are per rank. Formulas: matrix products cost 2 FLOPs per weight
and row; attention costs 2 FLOPs per (query, key) pair and element for the scores and again for the values; activation
traffic counts every input read and every output written once, in the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.config.catalog.formats import FORMATS
from llmservingsim.model.layout import ONE_RANK, ParallelLayout
from llmservingsim.model.weights import (
    expert_weights,
    kv_heads_per_rank,
    linear_in_width,
    operator_weights,
    vocab_per_rank,
)


class OperatorKind(StrEnum):
    """What bounds an operator."""

    LOOKUP = "lookup"
    ELEMENTWISE = "elementwise"
    GEMM = "gemm"
    ATTENTION = "attention"
    MOE = "moe"
    SAMPLER = "sampler"
    HOST = "host"


class IndexedBy(StrEnum):
    """What an operator's time depends on."""

    TOKENS = "tokens"
    SEQUENCES = "sequences"
    ATTENTION = "attention"


@dataclass(frozen=True, slots=True)
class Work:
    """What one iteration asks of an operator.

    Attributes:
        tokens: Tokens scheduled.
        sequences: Requests that get logits.
        attended_pairs: Sum over requests of (query token, key it attends to) pairs.
        context_tokens: Sum over requests of the keys that are read.
        gathered_tokens: Tokens of all instances that share the experts, None for `tokens`.
        kv_element_bytes: Of a cached element, None where it has the model's dtype.
        activated_experts: Distinct experts of this rank that get a token, None for all of them.
        expert_pairs: (token, expert) pairs of this rank, None for an even split.
    """

    tokens: int
    sequences: int = 0
    attended_pairs: int = 0
    context_tokens: int = 0
    gathered_tokens: int | None = None
    activated_experts: int | None = None
    expert_pairs: int | None = None
    kv_element_bytes: int | None = None

    @classmethod
    def of_requests(cls, chunks: Iterable[tuple[int, int]], window: int | None = None) -> Work:
        """Work of requests given as (query_len, kv_len), kv_len counting the query, under causal attention."""
        tokens = sequences = pairs = context = 0
        for query_len, kv_len in chunks:
            tokens, sequences = tokens + query_len, sequences + 1
            pairs += _causal_pairs(query_len, kv_len, window)
            context += kv_len if window is None else min(kv_len, window + query_len - 1)
        return cls(tokens, sequences, pairs, context)


@dataclass(frozen=True, slots=True)
class OperatorCost:
    """What an operator does on one rank.

    Attributes:
        flops: Floating-point operations.
        weight_bytes: Weights read.
        input_bytes, output_bytes: Activations (and cached keys and values) read and activations written.
    """

    flops: int
    weight_bytes: int
    input_bytes: int
    output_bytes: int

    @property
    def total_bytes(self) -> int:
        """Bytes that cross the memory bus."""
        return self.weight_bytes + self.input_bytes + self.output_bytes


@dataclass(frozen=True, slots=True)
class Operator:
    """One operator of a model.

    Attributes:
        name: Layer name of the profile bundle.
        kind: What bounds it.
        indexed_by: What its time depends on.
        all_reduce: Under tensor parallelism its output is summed over the ranks.
    """

    name: str
    kind: OperatorKind
    indexed_by: IndexedBy = IndexedBy.TOKENS
    all_reduce: bool = False

    def cost(self, model: ModelSpec, work: Work, layout: ParallelLayout = ONE_RANK) -> OperatorCost:
        """What one run of the operator costs one rank."""
        flops, weights, read, written = _COSTS[self.name](model, work, layout)
        fp = model.dtype_bytes
        return OperatorCost(flops, weights, read * fp, written * fp)

    def arithmetic(self, model: ModelSpec) -> str:
        """Data type in which its products are computed: that of quantised activations, else the model's."""
        stored = model.format_of_experts if self.kind is OperatorKind.MOE else model.linear_format
        is_linear = self.kind in (OperatorKind.MOE, OperatorKind.GEMM) and self.name != "lm_head"
        return (FORMATS[stored].compute if stored and is_linear else "") or model.dtype


_NORM = Operator("layernorm", OperatorKind.ELEMENTWISE)
_LINEAR_IN = Operator("linear_in_proj", OperatorKind.GEMM)
_LINEAR_OUT = Operator("linear_out_proj", OperatorKind.GEMM, all_reduce=True)
_STATE_BYTES = 4
"""Of an element of the state of linear attention, which engines keep in float32 (``mamba_ssm_dtype`` of Qwen3-Next)."""


def start_operators() -> tuple[Operator, ...]:
    """What runs before the first block."""
    return (Operator("embedding", OperatorKind.LOOKUP),)


def block_operators(model: ModelSpec, layer: int = -1) -> tuple[Operator, ...]:
    """Operators of block ``layer``, by default of the last one (MoE models may begin with dense blocks)."""
    is_moe = model.is_moe_layer(layer % model.num_layers)
    qk_norm = (Operator("qk_norm", OperatorKind.ELEMENTWISE),) if model.qk_norm else ()
    kind = model.attention_of(layer % model.num_layers)
    inner = Operator(kind, OperatorKind.ATTENTION, IndexedBy.ATTENTION)
    if kind == "linear_attention":
        mixer = (_LINEAR_IN, inner, _LINEAR_OUT)
    else:
        rotary = Operator("rotary_emb", OperatorKind.ELEMENTWISE)
        output = Operator("o_proj", OperatorKind.GEMM, all_reduce=True)
        mixer = (Operator("qkv_proj", OperatorKind.GEMM), *qk_norm, rotary, inner, output)
    attention = (_NORM, *mixer, _NORM)
    if is_moe:
        return (*attention, Operator("moe", OperatorKind.MOE, all_reduce=True))
    return (
        *attention,
        Operator("gate_up_proj", OperatorKind.GEMM),
        Operator("act_fn", OperatorKind.ELEMENTWISE),
        Operator("down_proj", OperatorKind.GEMM, all_reduce=True),
    )


def end_operators() -> tuple[Operator, ...]:
    """What runs after the last block."""
    return (
        Operator("final_layernorm", OperatorKind.ELEMENTWISE),
        Operator("lm_head", OperatorKind.GEMM, IndexedBy.SEQUENCES),
        Operator("sampler", OperatorKind.SAMPLER, IndexedBy.SEQUENCES),
    )


HOST_GAP = Operator("host_gap", OperatorKind.HOST, IndexedBy.SEQUENCES)
"""What the host does between two steps of the device that nothing hides; of sources that have measured it."""

EH_PROJ = Operator("eh_proj", OperatorKind.GEMM)
"""Joins a hidden state and the embedding of the next token, where a drafter of one block begins (EAGLE, MTP)."""


def model_operators(model: ModelSpec) -> tuple[Operator, ...]:
    """Every operator of one forward step, block after block."""
    blocks = (operator for layer in range(model.num_layers) for operator in block_operators(model, layer))
    return (*start_operators(), *blocks, *end_operators())


def _causal_pairs(query_len: int, kv_len: int, window: int | None) -> int:
    """Pairs of one request: query i, counted from the last, sees ``kv_len - i`` keys, at most ``window``."""
    if window is None or kv_len <= window:
        return query_len * kv_len - query_len * (query_len - 1) // 2
    narrow = max(0, window - (kv_len - query_len) - 1)
    return (query_len - narrow) * window + narrow * (kv_len - query_len) + narrow * (narrow + 1) // 2


_Cost = tuple[int, int, int, int]
"""FLOPs, weight bytes read, activation elements read, activation elements written."""


def _matmul(name: str, rows: int, read_width: int, written_width: int) -> Callable[[ModelSpec, ParallelLayout], _Cost]:
    def cost(model: ModelSpec, layout: ParallelLayout) -> _Cost:
        weights = operator_weights(model, name, layout)
        is_head = name == "lm_head"
        matrix = vocab_per_rank(model, layout.tp) * model.hidden_size if is_head else weights.linear
        return 2 * rows * matrix, weights.size_bytes(model), rows * read_width, rows * written_width

    return cost


def _embedding(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    rows = -(-work.tokens // layout.tp) * model.hidden_size
    return 0, rows * model.dtype_bytes, 0, work.tokens * model.hidden_size


def _norm(model: ModelSpec, work: Work, _: ParallelLayout) -> _Cost:
    # Add the residual, square, sum, scale; hidden state and residual are both read and written.
    elements = work.tokens * model.hidden_size
    return 5 * elements, operator_weights(model, "layernorm").size_bytes(model), 2 * elements, 2 * elements


def _eh_proj(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    return _matmul("eh_proj", work.tokens, 2 * model.hidden_size, model.hidden_size)(model, layout)


def _qkv_proj(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    return _matmul("qkv_proj", work.tokens, model.hidden_size, _qkv_width(model, layout))(model, layout)


def _qkv_width(model: ModelSpec, layout: ParallelLayout) -> int:
    if model.is_mla:
        return model.q_size // layout.tp + model.kv_lora_rank + model.qk_rope_head_dim
    queries = (1 + model.attn_output_gate) * model.q_size // layout.tp
    return queries + 2 * kv_heads_per_rank(model, layout.tp) * model.head_dim


def _qk_norm(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    elements = work.tokens * (model.num_heads // layout.tp + kv_heads_per_rank(model, layout.tp)) * model.head_dim
    return 4 * elements, operator_weights(model, "qk_norm").size_bytes(model), elements, elements


def _rotary_emb(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    kv_heads = 1 if model.is_mla else kv_heads_per_rank(model, layout.tp)
    elements = work.tokens * (model.num_heads // layout.tp + kv_heads) * model.rotary_dim
    return 3 * elements, work.tokens * model.rotary_dim * model.dtype_bytes, elements, elements


def _attention(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    heads = model.num_heads // layout.tp
    if model.is_mla:
        return _latent_attention(model, work, layout)
    query, kv = heads * model.head_dim, kv_heads_per_rank(model, layout.tp) * model.head_dim
    read = work.tokens * query + _cached(model, work, 2 * kv)
    return 4 * work.attended_pairs * query, 0, read, work.tokens * query


def _latent_attention(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    """MLA in its absorbed form: every head attends to the one latent vector of a token."""
    heads, latent = model.num_heads // layout.tp, model.kv_lora_rank + model.qk_rope_head_dim
    weights = operator_weights(model, "attention", layout)
    flops = 2 * work.attended_pairs * heads * (latent + model.kv_lora_rank) + 2 * work.tokens * weights.linear
    read = work.tokens * model.q_size // layout.tp + _cached(model, work, latent)
    return flops, weights.size_bytes(model), read, work.tokens * model.attention_output_size // layout.tp


def linear_state_bytes(model: ModelSpec, layout: ParallelLayout) -> int:
    """Bytes that one sequence keeps in one block of linear attention on one rank: its state, and what it convolves."""
    keys, values = model.linear_widths
    state = model.linear_num_value_heads * model.linear_key_head_dim * model.linear_value_head_dim * _STATE_BYTES
    convolved = max(0, model.linear_conv_kernel_dim - 1) * (2 * keys + values) * model.dtype_bytes
    return (state + convolved) // layout.tp


def _linear_in_proj(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    return _matmul("linear_in_proj", work.tokens, model.hidden_size, linear_in_width(model, layout))(model, layout)


def _linear_attention(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    # Per token and value head the state is decayed, read by key, written by key and value, and read by query: 7 FLOPs
    # per element. It is read and written once per sequence, as a prompt keeps it in its multiprocessor.
    keys, values = (width // layout.tp for width in model.linear_widths)
    elements = model.linear_num_value_heads * model.linear_key_head_dim * model.linear_value_head_dim // layout.tp
    state = work.sequences * linear_state_bytes(model, layout) // model.dtype_bytes
    return 7 * work.tokens * elements, 0, state + work.tokens * (2 * keys + values), state + work.tokens * values


def _linear_out_proj(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    width = model.linear_widths[1] // layout.tp
    return _matmul("linear_out_proj", work.tokens, width, model.hidden_size)(model, layout)


def _cached(model: ModelSpec, work: Work, width: int) -> int:
    """Elements of the cache that are read, in units of the model's dtype."""
    element = model.dtype_bytes if work.kv_element_bytes is None else work.kv_element_bytes
    return width * work.context_tokens * element // model.dtype_bytes


def _o_proj(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    width = model.attention_output_size // layout.tp
    return _matmul("o_proj", work.tokens, width, model.hidden_size)(model, layout)


def _gate_up_proj(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    width = (1 + model.gated_mlp) * model.intermediate_size // layout.tp
    return _matmul("gate_up_proj", work.tokens, model.hidden_size, width)(model, layout)


def _act_fn(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    # SiLU is an exponential, an addition, a division; a gated MLP multiplies once more.
    elements = work.tokens * model.intermediate_size // layout.tp
    return (3 + model.gated_mlp) * elements, 0, (1 + model.gated_mlp) * elements, elements


def _down_proj(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    width = model.intermediate_size // layout.tp
    return _matmul("down_proj", work.tokens, width, model.hidden_size)(model, layout)


def _moe(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    local = layout.local_experts(model)
    gathered = work.tokens if work.gathered_tokens is None else work.gathered_tokens
    even = -(-gathered * model.experts_per_token // layout.ep)
    pairs = even if work.expert_pairs is None else work.expert_pairs
    activated = local if work.activated_experts is None else min(local, work.activated_experts)
    expert, weights = expert_weights(model, layout), operator_weights(model, "moe", layout)
    shared = weights.linear
    router = model.hidden_size * model.num_experts
    flops = 2 * (pairs * expert + work.tokens * (shared + router))
    read = weights._replace(experts=activated * expert).size_bytes(model)
    hidden = gathered * model.hidden_size
    return flops, read, hidden, hidden


def _lm_head(model: ModelSpec, work: Work, layout: ParallelLayout) -> _Cost:
    vocab = vocab_per_rank(model, layout.tp)
    return _matmul("lm_head", work.sequences, model.hidden_size, vocab)(model, layout)


def _sampler(model: ModelSpec, work: Work, _: ParallelLayout) -> _Cost:
    # Scale, exponentiate, sum, divide, compare over the whole vocabulary, which every rank has gathered.
    elements = work.sequences * model.vocab_size
    return 5 * elements, 0, elements, work.sequences


_COSTS: dict[str, Callable[[ModelSpec, Work, ParallelLayout], _Cost]] = {
    "embedding": _embedding,
    "eh_proj": _eh_proj,
    "layernorm": _norm,
    "qkv_proj": _qkv_proj,
    "qk_norm": _qk_norm,
    "rotary_emb": _rotary_emb,
    "attention": _attention,
    "sliding_attention": _attention,
    "linear_in_proj": _linear_in_proj,
    "linear_attention": _linear_attention,
    "linear_out_proj": _linear_out_proj,
    "o_proj": _o_proj,
    "gate_up_proj": _gate_up_proj,
    "act_fn": _act_fn,
    "down_proj": _down_proj,
    "moe": _moe,
    "final_layernorm": _norm,
    "lm_head": _lm_head,
    "sampler": _sampler,
}
