"""A slow, plain event model of ASTRA-sim, written from its behavioural specification and not from our backend.

Two independent readings of the same rules: where `simulate` and `run_workloads` differ, one of them is wrong. What the
real program ends with an abort is `AbortError`, what it never ends is `EndlessError`.
"""

from astra_model.engine import AbortError, EndlessError
from astra_model.simulation import Result, simulate

__all__ = ["AbortError", "EndlessError", "Result", "simulate"]
