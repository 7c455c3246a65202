"""Tensor-parallel sizes on the command line."""

from __future__ import annotations

from llmservingsim.errors import ConfigError


def parse_degrees(text: str) -> list[int]:
    """Parse ``1,2,4``."""
    degrees = [int(part) for part in text.split(",") if part.strip().isdecimal()]
    if len(degrees) != len(text.split(",")) or 0 in degrees:
        raise ConfigError(f"--tp {text}: expected numbers of devices, as 1,2,4")
    return degrees
