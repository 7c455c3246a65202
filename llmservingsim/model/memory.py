"""Bytes that a model keeps: weights, and keys and values per token."""

from __future__ import annotations

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.config.catalog.model import DTYPE_BYTES
from llmservingsim.errors import ConfigError, nearest, one_of
from llmservingsim.model.layout import ONE_RANK, ParallelLayout, check_layout, stage_range
from llmservingsim.model.operators import block_operators, end_operators, linear_state_bytes
from llmservingsim.model.weights import WeightCount, kv_heads_per_rank, operator_weights

_KV_DTYPES = {**DTYPE_BYTES, "fp8_e4m3": 1, "fp8_e5m2": 1}


def num_parameters(model: ModelSpec) -> int:
    """Elements of the checkpoint; a tied head counts once."""
    return sum(count.elements for count in stage_weights(model, ONE_RANK, 0))


def num_active_parameters(model: ModelSpec) -> int:
    """Elements that one token meets: all but the experts it is not routed to."""
    idle = model.num_experts - model.experts_per_token
    expert = (2 + model.gated_mlp) * model.hidden_size * model.moe_intermediate_size
    moe_layers = sum(map(model.is_moe_layer, range(model.num_layers)))
    return num_parameters(model) - idle * expert * moe_layers


def stage_weights(model: ModelSpec, layout: ParallelLayout, stage: int) -> list[WeightCount]:
    """Weights of every operator on one rank of pipeline stage ``stage``."""
    names = [
        operator.name
        for layer in stage_range(model.num_layers, layout.pp, stage)
        for operator in block_operators(model, layer)
    ]
    is_first, is_last = stage == 0, stage == layout.pp - 1
    if is_first:
        names.append("embedding")
    if is_last:
        shares_embedding = model.tie_word_embeddings and is_first
        names += [op.name for op in end_operators() if not (op.name == "lm_head" and shares_embedding)]
    return [operator_weights(model, name, layout) for name in names]


def weight_bytes(model: ModelSpec, layout: ParallelLayout = ONE_RANK, stage: int = 0) -> int:
    """Bytes of the checkpoint's weights on one rank of pipeline stage ``stage``.

    Raises:
        ConfigError: The model cannot be cut that way.
    """
    check_layout(model, layout)
    return sum(count.size_bytes(model) for count in stage_weights(model, layout, stage))


def kv_dtype_bytes(model: ModelSpec, kv_cache_dtype: str = "auto") -> int:
    """Bytes of one cached element; ``"auto"`` is the model's dtype, as in vLLM.

    Raises:
        ConfigError: The dtype is unknown.
    """
    if kv_cache_dtype == "auto":
        return model.dtype_bytes
    if kv_cache_dtype not in _KV_DTYPES:
        known = [*_KV_DTYPES, "auto"]
        raise ConfigError(
            f"kv_cache_dtype {kv_cache_dtype!r} is unknown{nearest(kv_cache_dtype, known)}; expected {one_of(known)}"
        )
    return _KV_DTYPES[kv_cache_dtype]


def kv_bytes_per_token_layer(model: ModelSpec, tp: int = 1, kv_cache_dtype: str = "auto") -> int:
    """Bytes that one token keeps in one block on one rank.

    Keys and values of the rank's heads, ``2 * max(1, kv_heads / tp) * head_dim``; with MLA one latent vector of
    ``kv_lora_rank + qk_rope_head_dim``, which every rank holds whole.
    """
    if model.is_mla:
        elements = model.kv_lora_rank + model.qk_rope_head_dim
    else:
        elements = 2 * kv_heads_per_rank(model, tp) * model.head_dim
    return elements * kv_dtype_bytes(model, kv_cache_dtype)


def kv_bytes_per_token(
    model: ModelSpec, layout: ParallelLayout = ONE_RANK, stage: int = 0, kv_cache_dtype: str = "auto"
) -> int:
    """Bytes that one token keeps on one rank of pipeline stage ``stage``."""
    layers = sum(map(model.keeps_kv, stage_range(model.num_layers, layout.pp, stage)))
    return layers * kv_bytes_per_token_layer(model, layout.tp, kv_cache_dtype)


def rotary_cache_bytes(model: ModelSpec) -> int:
    """Bytes of the cosine and sine table, one for all blocks, that vLLM keeps beside the weights.

    ``[max_position_embeddings, rotary_dim]`` in the model's dtype; with it the weights of Llama-3.1-8B take the 14.9888
    GiB that vLLM logs when it has loaded the model.
    """
    return model.max_position_embeddings * model.rotary_dim * model.dtype_bytes


def state_bytes(model: ModelSpec, layout: ParallelLayout, stage: int) -> int:
    """Bytes of the states of linear attention that one sequence keeps on one rank of a pipeline stage."""
    blocks = stage_range(model.num_layers, layout.pp, stage)
    return sum(not model.keeps_kv(block) for block in blocks) * linear_state_bytes(model, layout)
