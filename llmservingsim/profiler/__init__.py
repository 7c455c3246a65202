"""Measures operators on a real device and writes the bundles that the latency room reads; an optional extra.

A *shot* is one batch shape whose operators are timed together. `plan` lists the coarse ones, `adaptive` chooses
further ones, an `engine` runs them, `sampling` repeats each until its noise is small, `journal` keeps what was
measured, `bundle` writes it down in the format that the simulator reads.
"""

from llmservingsim.profiler.engine import ENGINES, Engine, EngineOptions, make_engine
from llmservingsim.profiler.journal import Journal
from llmservingsim.profiler.plan import Limits
from llmservingsim.profiler.session import Goal, Job, Progress, Session
from llmservingsim.profiler.shots import Shot, Table

__all__ = [
    "ENGINES",
    "Engine",
    "EngineOptions",
    "Goal",
    "Job",
    "Journal",
    "Limits",
    "Progress",
    "Session",
    "Shot",
    "Table",
    "make_engine",
]
