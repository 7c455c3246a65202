"""Peak of the tensors that are alive while vLLM profiles itself at start-up, and what lies outside them.

vLLM 0.19 runs one dummy forward step with ``max_num_batched_tokens`` tokens (T), then one dummy sampling with
``min(max_num_seqs, T)`` sequences (S), and takes the highest number of bytes its allocator held above the weights
(``GPUModelRunner.profile_run``). The two phases follow each other, so the peak is the larger one.
"""

from __future__ import annotations

from llmservingsim.config.catalog import ModelSpec
from llmservingsim.model.layout import ParallelLayout
from llmservingsim.model.weights import kv_heads_per_rank

FLOAT32_BYTES = 4

CUBLAS_WORKSPACE_BYTES = 8_519_680
"""PyTorch's default cuBLAS workspace, ``:4096:2:16:8`` in KiB and pieces; 32 MiB from compute capability 9.0 on."""

SAMPLER_STACK_BYTES = 840
"""Local memory per thread of vLLM 0.19's top-k/top-p Triton kernel: what ptxas of Triton 3.6 reports for compute
capability 8.9 and a vocabulary of 128,256 (768 for 9.0). At its first launch the driver reserves it for every thread
that can be resident on the device and keeps it."""

RUNTIME_BYTES = 448 * 2**20
"""Everything else the process holds outside the allocator when vLLM looks: loaded kernel modules, cuBLAS handles,
leavings of the CUDA graphs captured for their own estimate. A measured remainder, not a derivation: on the RTX 4090 run
of Llama-3.1-8B (vLLM 0.19.0, CUDA 12.8) 460 MiB stay after weights, blocks, peak and stack reserve; rounded to 64 MiB.
NCCL's buffers are no part of it: vLLM takes its base line after NCCL has started."""

_MLA_WORKSPACE_TOKENS = 64 * 1024
"""Upper bound of vLLM's workspace for the context of chunked MLA prefills."""


def forward_peak_bytes(model: ModelSpec, layout: ParallelLayout, tokens: int) -> int:
    """Bytes alive at the worst moment of a block with ``tokens`` tokens on one rank, in compiled code.

    Through a block the residual stream lives beside: queries, keys and values, their rotated copies and the attention's
    output; or the normalised input, gate and up and their product; or the experts' buffers.
    """
    layers = range(model.num_layers)
    mlp = 0 if all(map(model.is_moe_layer, layers)) else _mlp_elements(model, layout, tokens)
    moe = _moe_elements(model, layout, tokens) if any(map(model.is_moe_layer, layers)) else 0
    residual = tokens * model.hidden_size
    block = max(_attention_elements(model, layout, tokens), mlp, moe)
    return (residual + block) * model.dtype_bytes + CUBLAS_WORKSPACE_BYTES


def _attention_elements(model: ModelSpec, layout: ParallelLayout, tokens: int) -> int:
    query, out = model.q_size // layout.tp, model.attention_output_size // layout.tp
    if model.is_mla:
        latent = model.kv_lora_rank + model.qk_rope_head_dim
        up_projected = model.num_heads // layout.tp * (model.qk_nope_head_dim + model.v_head_dim)
        return tokens * (model.q_lora_rank + 2 * query + latent + out) + _MLA_WORKSPACE_TOKENS * (latent + up_projected)
    kv = kv_heads_per_rank(model, layout.tp) * model.head_dim
    projected, rotated = query + 2 * kv, query + kv
    return tokens * (projected + rotated + out)


def _mlp_elements(model: ModelSpec, layout: ParallelLayout, tokens: int) -> int:
    width = model.intermediate_size // layout.tp
    gate_up = (1 + model.gated_mlp) * width
    return tokens * (gate_up + max(model.hidden_size, width))


def _moe_elements(model: ModelSpec, layout: ParallelLayout, tokens: int) -> int:
    """The fused kernel's buffers: a row per (token, expert) pair of all instances that share the experts.

    Its first and its last buffer share memory; with expert parallelism every rank holds rows for all pairs.
    """
    gathered = tokens * (layout.dp if layout.ep > 1 else 1)
    pairs = gathered * model.experts_per_token
    width = model.moe_intermediate_size // layout.expert_slices
    first_or_last = max((1 + model.gated_mlp) * width, model.hidden_size)
    return gathered * (2 * model.hidden_size + model.num_experts) + pairs * (first_or_last + width)


def sampler_peak_bytes(model: ModelSpec, tokens: int, sequences: int, num_compute_units: int) -> int:
    """Bytes alive at the worst moment of sampling on a rank of the last pipeline stage.

    The hidden states of the forward step, their sampled rows and a random copy; logits in the model's dtype and again
    in float32; the top-k/top-p kernel's buffer, a row per program, one program per compute unit; probabilities and the
    exponential noise they are divided by, both float32. The vocabulary is whole: vLLM gathers it before sampling.
    """
    rows = min(sequences, tokens)
    hidden = (tokens + 2 * rows) * model.hidden_size * model.dtype_bytes
    logits = rows * model.vocab_size * (model.dtype_bytes + FLOAT32_BYTES)
    buffer = min(rows, num_compute_units) * model.vocab_size * FLOAT32_BYTES
    noise_and_probabilities = 2 * rows * model.vocab_size * FLOAT32_BYTES
    return hidden + logits + buffer + noise_and_probabilities + CUBLAS_WORKSPACE_BYTES


def stack_reserve_bytes(num_compute_units: int, max_threads_per_unit: int) -> int:
    """Local memory that the driver reserves for the sampling kernel."""
    return SAMPLER_STACK_BYTES * num_compute_units * max_threads_per_unit
