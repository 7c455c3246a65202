"""A model that nobody profiled runs on a device that somebody profiled for others, and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llmservingsim import simulate
from llmservingsim.cli.main import app
from llmservingsim.errors import ProfileError
from llmservingsim.latency import SHIPPED
from llmservingsim.workload import ArrivalSpec, FixedLength, GeneratorSpec

LOAD = GeneratorSpec(3, FixedLength(64), FixedLength(6), ArrivalSpec("poisson", {"request_rate": 100}))


def cluster(model: str = "Qwen/Qwen3-14B", **keys: Any) -> dict[str, Any]:
    return {"nodes": [{"instances": [{"model": model, "hardware": "H100", **keys}]}]}


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """A user's directory, with one bundle."""
    below = Path("H100/meta-llama/Llama-3.1-8B/bf16/tp1")
    shutil.copytree(SHIPPED / below, tmp_path / "profiles" / below)
    return tmp_path / "profiles"


def test_a_model_without_a_bundle_is_timed_by_those_of_others_and_the_summary_says_by_which() -> None:
    told = simulate(cluster(), LOAD).summary["instances"][0]["latency"]
    assert (told["source"], told["is_measured"], told["accelerator"]) == ("calibrated", False, "H100")
    assert "meta-llama/Llama-3.1-8B" in told["fitted_to"]
    assert 0 < told["fit_error_pct"]["matrix products"]["mean"] < 10
    assert "layernorm" in told["roofline_operators"]  # the bundles that ship have no measured norm


def test_a_mixture_of_experts_is_timed_too_and_takes_longer_than_its_weights_are_read() -> None:
    result = simulate(cluster("Qwen/Qwen3-30B-A3B", dtype="float16"), LOAD)
    assert result.summary["instances"][0]["latency"]["experts_timed_as_products"] is False
    per_token = 3.3e9 * 2 / 3.35e12 * 1e3  # active weights in 16 bits, ms
    assert result.summary["latency_ms"]["tpot"]["mean"] > per_token


def test_a_users_own_bundles_come_before_those_that_ship(profiles: Path) -> None:
    told = simulate(cluster(), LOAD, profiles=[profiles]).summary["instances"][0]["latency"]
    assert (told["source"], told["fitted_to"]) == ("calibrated", ["meta-llama/Llama-3.1-8B"])
    own = simulate(cluster("meta-llama/Llama-3.1-8B"), LOAD, profiles=[profiles]).summary
    assert own["instances"][0]["latency"]["source"] == "bundle"


def test_who_asks_for_a_bundle_gets_no_calibration(profiles: Path) -> None:
    with pytest.raises(ProfileError, match=r"no profile of Qwen/Qwen3-14B on H100"):
        simulate(cluster(latency={"source": "bundle"}), LOAD, profiles=[profiles])


def test_a_device_that_nobody_measured_is_not_calibrated_by_another(profiles: Path) -> None:
    with pytest.raises(ProfileError, match=r"no bundle of a known model on L40S.*bundles of H100"):
        simulate(cluster(hardware="L40S", latency={"source": "calibrated"}), LOAD, profiles=[profiles])


def test_the_terminal_says_that_times_are_not_measured(tmp_path: Path) -> None:
    config, workload = tmp_path / "run.json", tmp_path / "load.jsonl"
    config.write_text(json.dumps(cluster()))
    workload.write_text('{"input_toks": 9, "output_toks": 3, "arrival_time_ns": 0}\n')
    out = CliRunner().invoke(app, ["run", str(config), "--workload", str(workload), "--output", str(tmp_path / "out")])
    assert out.exit_code == 0
    assert "calibrated latencies" in out.output
    assert "latencies are not measured, but a roofline fitted to bundles of" in out.output
