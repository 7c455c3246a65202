"""The engine ``vllm``: the installed package's own layers where they can stand alone, on a CUDA device.

Norms, activation, rotary embedding, sampler and the experts of a mixture are vLLM's (``RMSNorm``, ``SiluAndMul``,
``get_rope``, ``fused_experts``), attention is its FlashAttention for paged caches. Products are plain ones there too
(``UnquantizedLinearMethod`` calls ``torch.nn.functional.linear``), so the torch engine's serve. A layer that this
version of vLLM does not offer under the name stays the torch engine's, and ``describe`` says which are vLLM's.

Written against the sources of vLLM 0.19.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from llmservingsim.errors import ProfileError
from llmservingsim.profiler.engine import EngineOptions
from llmservingsim.profiler.package_layers import use_package_layers
from llmservingsim.profiler.torch_engine import TorchEngine

LAYERS = {
    "rms_norm": "vllm.model_executor.layers.layernorm:RMSNorm",
    "silu_and_mul": "vllm.model_executor.layers.activation:SiluAndMul",
    "rope": "vllm.model_executor.layers.rotary_embedding:get_rope",
    "fused_experts": "vllm.model_executor.layers.fused_moe:fused_experts",
    "attention": "vllm.vllm_flash_attn:flash_attn_varlen_func",
}


class VllmEngine(TorchEngine):
    """The torch engine with vLLM's layers in place of its own.

    Args:
        options: What to compute, and where.

    Raises:
        ProfileError: vLLM is not installed, or the device is none that it runs on.
    """

    def __init__(self, options: EngineOptions) -> None:
        try:
            self._package = import_module("vllm")
        except ImportError as error:
            raise ProfileError(
                f"--engine vllm: the package vllm is not installed here ({error}); install it, or take --engine torch"
            ) from error
        if options.device != "cuda":
            raise ProfileError(f"--engine vllm: runs on --device cuda, got {options.device}")
        super().__init__(options)
        self._taken = use_package_layers(self._layers, LAYERS, options)

    def describe(self) -> Mapping[str, Any]:
        """Return versions, device, and which layers are vLLM's."""
        return {**super().describe(), "vllm": str(self._package.__version__), "package_layers": self._taken}
