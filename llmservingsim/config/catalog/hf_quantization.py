"""The ``quantization_config`` of a Hugging Face config.json, in its dialects, to weight formats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmservingsim.config.catalog.formats import OF_EXPERTS_ALONE, QUANTIZATIONS
from llmservingsim.errors import ModelError, nearest, one_of


def weight_formats(quantisation: Any, place: str) -> dict[str, Any]:
    """Return the fields of a `ModelSpec` that a ``quantization_config`` determines.

    Args:
        quantisation: Its value, None where there is none.
        place: What to blame in messages.

    Raises:
        ModelError: If the format cannot be told.
    """
    if not isinstance(quantisation, Mapping):
        return {}
    method = str(quantisation.get("quant_method", ""))
    stored = _format(quantisation, method)
    if stored is None:
        raise ModelError(
            f"{place}: quantization_config: cannot tell the weight format of quant_method {method!r}"
            f"{nearest(method, QUANTIZATIONS)}; expected one of {one_of(QUANTIZATIONS, 24)}, or 'bits' of 4, 8 or 16"
        )
    left_alone = [*(quantisation.get("ignore") or ()), *(quantisation.get("modules_to_not_convert") or ())]
    of_experts_alone = stored in OF_EXPERTS_ALONE or any("attn" in str(module) for module in left_alone)
    return {"expert_format": stored} if of_experts_alone else {"linear_format": stored}


def _format(quantisation: Mapping[str, Any], method: str) -> str | None:
    """Return a format, an empty one for 16 bits, None where it cannot be told."""
    if method == "compressed-tensors":
        return _of_groups(quantisation)
    if method == "modelopt" and "FP4" in str(quantisation.get("quant_algo", "")).upper():
        return "nvfp4"
    if method == "fp8" and quantisation.get("weight_block_size"):
        return "fp8_block"
    bits = 4 if quantisation.get("load_in_4bit") else 8 if quantisation.get("load_in_8bit") else None
    bits = quantisation.get("bits", bits)
    if bits is None:
        return QUANTIZATIONS.get(method)
    return {4: "int4", 8: "int8_weight_only", 16: ""}.get(bits) if isinstance(bits, int) else None


def _of_groups(quantisation: Mapping[str, Any]) -> str | None:
    """Formats of compressed-tensors: type and bits of the weights, and whether activations are quantised too."""
    for group in dict(quantisation.get("config_groups") or {}).values():
        weights = dict(group.get("weights") or {})
        bits, is_float = weights.get("num_bits"), weights.get("type") == "float"
        both = bool(group.get("input_activations"))
        if bits == 4:
            return "nvfp4" if is_float else "int4"
        if bits == 8:
            in_blocks = weights.get("strategy") == "block"
            return ("fp8_block" if in_blocks else "fp8") if is_float else "int8" if both else "int8_weight_only"
    return None
