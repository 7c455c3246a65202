"""A small model, and sessions that measure it with a known function."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_engine import CONFIG, FakeEngine

from llmservingsim.config.catalog import ModelSpec, from_hf_config
from llmservingsim.model import ParallelLayout
from llmservingsim.profiler import EngineOptions, Goal, Job, Journal, Limits, Session
from llmservingsim.profiler.sampling import Effort

LIMITS = Limits(32, 1024, 2048)
QUICK = Effort(least=1, warmup=0)
CONDITIONS = {"model": "org/tiny", "device": "cpu"}


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses nothing that the system has; only a system that stops needs the disk."""
    monkeypatch.setattr("llmservingsim.profiler.journal.os.fsync", lambda _: None)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ModelSpec]:
    """Makes a tiny model, with keys of a config.json changed."""
    return lambda **changes: from_hf_config({**CONFIG, **changes}, "org/tiny")


@pytest.fixture(scope="session")
def model(make_model: Callable[..., ModelSpec]) -> ModelSpec:
    """A tiny Llama."""
    return make_model()


@pytest.fixture
def make_session(tmp_path: Path, model: ModelSpec) -> Callable[..., Session]:
    """Makes a session over a journal in the temporary directory."""

    def make(engine: type[FakeEngine] = FakeEngine, error: float = 0.03, budget_s: float = 60, **job: Any) -> Session:
        found = Job(**{"model": model, "layout": ParallelLayout(), "limits": LIMITS, "device": "cpu", **job})
        journal = Journal(tmp_path / "journal.jsonl", CONDITIONS)
        made = engine(EngineOptions(found.model, found.layout, "cpu"))
        return Session(found, made, journal, Goal(error, budget_s, QUICK))

    return make
