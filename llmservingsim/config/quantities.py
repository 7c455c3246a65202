"""Kinds of values that several sections of the run file have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from llmservingsim.errors import ConfigError

Count = Annotated[int, Meta(ge=1)]
Chunks = Annotated[int, Meta(ge=1, le=2**16)]
Share = Annotated[float, Meta(gt=0, le=1)]
Shape = Literal["Ring", "FullyConnected", "Switch"]
Algorithms = Literal["auto"] | tuple[str, ...]
All2AllBackend = Literal["allgather_reducescatter", "deepep_high_throughput", "deepep_low_latency"]
KvDtype = Literal["auto", "float32", "bfloat16", "float16", "fp8", "int8"]


class QuantityError(ConfigError, ValueError):
    """A quantity is wrong, or contradicts another key.

    It is a ValueError too, to which msgspec adds the path of the section it was reading.
    """


def check_quantities(
    section: msgspec.Struct, parse: Callable[[object], float], *keys: str, may_be_zero: bool = False
) -> None:
    """Raise for a quantity, alone or in a list, that has no unit of its kind, or is zero where that makes no sense."""
    for key in keys:
        stated = getattr(section, key)
        for text in stated if isinstance(stated, tuple) else (stated,):
            if text is None:
                continue
            try:
                value = parse(text)
            except ConfigError as error:
                raise QuantityError(f"{key}: {error}") from None
            if value <= 0 and not may_be_zero:
                raise QuantityError(f"{key}: expected more than 0, got {text!r}")
