"""The engine ``sglang``: the installed package's own layers where they can stand alone, on a CUDA device.

Norms, activation and rotary embedding are SGLang's (``RMSNorm``, ``SiluAndMul``, ``get_rope``) and attention is that of
its kernel package; products are plain ones there too. Its experts need a server's globals, so the torch engine's serve.
A layer that this version of SGLang does not offer under the name stays the torch engine's, and ``describe`` says which
are SGLang's.

Written against the sources of SGLang 0.5.
"""

from __future__ import annotations

from llmservingsim.profiler.package_engine import PackageEngine

LAYERS = {
    "rms_norm": "sglang.srt.layers.layernorm:RMSNorm",
    "silu_and_mul": "sglang.srt.layers.activation:SiluAndMul",
    "rope": "sglang.srt.layers.rotary_embedding:get_rope",
    "attention": "sgl_kernel.flash_attn:flash_attn_varlen_func",
}


class SglangEngine(PackageEngine):
    """The torch engine with SGLang's layers in place of its own."""

    package = "sglang"
    layers = LAYERS
