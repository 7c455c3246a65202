"""The bundle of a CPU that comes with the simulator: measured by the profiler, small, and taken where it fits."""

from pathlib import Path

import pytest
import yaml

from llmservingsim import simulate
from llmservingsim.latency import SHIPPED
from llmservingsim.latency.check import check_bundle
from llmservingsim.workload import FixedLength, GeneratorSpec

HARDWARE, MODEL = "CPU-2core", "HuggingFaceTB/SmolLM2-135M"


@pytest.fixture(scope="module")
def folder() -> Path:
    return SHIPPED / HARDWARE / MODEL / "bf16" / "tp1"


def test_it_says_what_measured_it_and_under_which_conditions(folder: Path) -> None:
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    assert meta["source"] == "llmservingsim profile run"
    assert (meta["model"], meta["hardware"], meta["threads"]) == (MODEL, HARDWARE, 2)
    assert {"torch", "device_name", "clocks", "load_average", "median_noise_pct", "error_reached"} <= set(meta)


def test_it_is_small_and_without_its_journal(folder: Path) -> None:
    files = list((SHIPPED / HARDWARE).rglob("*.*"))
    assert sum(path.stat().st_size for path in files if path.is_file()) < 200_000
    assert not list(folder.glob("journal*"))


def test_a_run_on_that_hardware_takes_it_by_itself() -> None:
    run = {"nodes": [{"instances": [{"model": MODEL, "hardware": HARDWARE, "max_model_len": 2048}]}]}
    result = simulate(run, GeneratorSpec(3, FixedLength(100), FixedLength(10)))
    assert f"profiles/{HARDWARE}" in str(result.summary)
    assert result.summary["requests"]["finished"] == 3


def test_its_points_predict_each_other(folder: Path) -> None:
    """Matrix products, which make up most of a step; small operators of microseconds scatter on a shared machine."""
    errors = {found.operator: found.left_out_mean for found in check_bundle(folder)}
    for operator in ("gate_up_proj", "down_proj", "attention, decodes"):
        error = errors[operator]
        assert error is not None
        assert error < 15, operator
