"""LLMServingSim: what a cluster would do before anyone buys it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmservingsim.api import Run, RunOptions, simulate
    from llmservingsim.report import SimulationResult

__all__ = ["Run", "RunOptions", "SimulationResult", "simulate"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used, so that ``import llmservingsim`` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llmservingsim import api

    return getattr(api, name)
