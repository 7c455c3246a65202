"""The engine ``vllm``: the installed package's own layers where they can stand alone, on a CUDA device.

Norms, activation, rotary embedding, sampler and the experts of a mixture are vLLM's (``RMSNorm``, ``SiluAndMul``,
``get_rope``, ``fused_experts``), attention is its FlashAttention for paged caches. Products are plain ones there too
(``UnquantizedLinearMethod`` calls ``torch.nn.functional.linear``), so the torch engine's serve. A layer that this
version of vLLM does not offer under the name stays the torch engine's, and ``describe`` says which are vLLM's.

Written against the sources of vLLM 0.19.
"""

from __future__ import annotations

from llmservingsim.profiler.package_engine import PackageEngine

LAYERS = {
    "rms_norm": "vllm.model_executor.layers.layernorm:RMSNorm",
    "silu_and_mul": "vllm.model_executor.layers.activation:SiluAndMul",
    "rope": "vllm.model_executor.layers.rotary_embedding:get_rope",
    "fused_experts": "vllm.model_executor.layers.fused_moe:fused_experts",
    "attention": "vllm.vllm_flash_attn:flash_attn_varlen_func",
}


class VllmEngine(PackageEngine):
    """The torch engine with vLLM's layers in place of its own."""

    package = "vllm"
    layers = LAYERS
