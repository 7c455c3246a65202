"""The engine ``sglang``: the installed package's own layers where they can stand alone, on a CUDA device.

Norms, activation and rotary embedding are SGLang's (``RMSNorm``, ``SiluAndMul``, ``get_rope``) and attention is that of
its kernel package; products are plain ones there too. Its experts need a server's globals, so the torch engine's serve.
A layer that this version of SGLang does not offer under the name stays the torch engine's, and ``describe`` says which
are SGLang's.

Written against the sources of SGLang 0.5.
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
    "rms_norm": "sglang.srt.layers.layernorm:RMSNorm",
    "silu_and_mul": "sglang.srt.layers.activation:SiluAndMul",
    "rope": "sglang.srt.layers.rotary_embedding:get_rope",
    "attention": "sgl_kernel.flash_attn:flash_attn_varlen_func",
}


class SglangEngine(TorchEngine):
    """The torch engine with SGLang's layers in place of its own.

    Args:
        options: What to compute, and where.

    Raises:
        ProfileError: SGLang is not installed, or the device is none that it runs on.
    """

    def __init__(self, options: EngineOptions) -> None:
        try:
            self._package = import_module("sglang")
        except ImportError as error:
            raise ProfileError(
                f"--engine sglang: the package sglang is not installed here ({error}); "
                "install it, or take --engine torch"
            ) from error
        if options.device != "cuda":
            raise ProfileError(f"--engine sglang: runs on --device cuda, got {options.device}")
        super().__init__(options)
        self._taken = use_package_layers(self._layers, LAYERS, options)

    def describe(self) -> Mapping[str, Any]:
        """Return versions, device, and which layers are SGLang's."""
        return {**super().describe(), "sglang": str(self._package.__version__), "package_layers": self._taken}
