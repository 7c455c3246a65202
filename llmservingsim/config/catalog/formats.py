"""Formats in which a checkpoint stores the weights of linear layers, and what computes with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from llmservingsim.errors import ModelError, nearest, one_of


class WeightFormat(NamedTuple):
    """How a weight is stored.

    Attributes:
        bits: Of one weight, its share of the scales included.
        compute: Data type of the products if the activations are quantised too; empty where weights are brought back
            to the activations' data type, which then computes.
    """

    bits: float
    compute: str = ""


FORMATS: Mapping[str, WeightFormat] = {
    "fp8": WeightFormat(8, "fp8"),
    "fp8_block": WeightFormat(8 + 32 / 128**2, "fp8"),
    "int8": WeightFormat(8, "int8"),
    "int8_weight_only": WeightFormat(8),
    "int4": WeightFormat(4 + (16 + 4) / 128),
    "nvfp4": WeightFormat(4 + 8 / 16, "fp4"),
    "mxfp4": WeightFormat(4 + 8 / 32),
    "mxfp4_mxfp8": WeightFormat(4 + 8 / 32, "fp8"),
}
"""By name. ``fp8`` and ``int8`` have a scale per tensor or row, which is next to nothing; ``fp8_block`` a float32 per
128 x 128 weights (DeepSeek-V3, arXiv:2412.19437, section 3.3); ``int4`` a float16 and a 4-bit zero per 128 weights, as
AWQ and GPTQ have it; ``nvfp4`` an 8-bit scale per 16 weights (NVIDIA), ``mxfp4`` one per 32 (OCP Microscaling 1.0).
``mxfp4_mxfp8`` quantises the activations as well."""

QUANTIZATIONS: Mapping[str, str] = {
    **{name: name for name in FORMATS},
    "awq": "int4",
    "awq_marlin": "int4",
    "gptq": "int4",
    "gptq_marlin": "int4",
    "fbgemm_fp8": "fp8",
    "modelopt": "fp8",
    "modelopt_fp4": "nvfp4",
}
"""What vLLM calls ``quantization`` -> format."""


def find_format(quantization: str) -> str:
    """Return the format that a word of vLLM's means.

    Raises:
        ModelError: None does.
    """
    if quantization not in QUANTIZATIONS:
        known = [*QUANTIZATIONS, "none"]
        raise ModelError(
            f"quantization {quantization!r} is unknown{nearest(quantization, known)}; expected one of "
            f"{one_of(known, 24)}"
        )
    return QUANTIZATIONS[quantization]


OF_EXPERTS_ALONE = ("mxfp4", "mxfp4_mxfp8")
"""Formats that leave other linear layers as they are, where there are experts (gpt-oss)."""
