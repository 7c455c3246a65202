"""``profile calibrate`` prints what was fitted, and errors of models that were left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmservingsim.cli.main import app
from llmservingsim.latency import SHIPPED


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    for name in ("meta-llama/Llama-3.1-8B", "Qwen/Qwen3-32B"):
        below = Path("A100") / name / "bf16" / "tp2"
        shutil.copytree(SHIPPED / below, tmp_path / below)
    return tmp_path


def calibrate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["profile", "calibrate", "--hardware", "A100", *map(str, arguments)])


def test_the_tables_hold_figures_and_errors_of_both_rooflines(profiles: Path) -> None:
    result = calibrate(profiles)
    assert result.exit_code == 0
    assert "A100: 2 bundles of Qwen/Qwen3-32B, meta-llama/Llama-3.1-8B" in result.output
    for text in ("launch_ns", "those of matrix products", "calibrated: mean", "roofline: mean", "decode", "prefill"):
        assert text in result.output


def test_json_says_the_same_to_programs(profiles: Path) -> None:
    told = json.loads(calibrate(profiles, "--json").output)
    assert [one["model"] for one in told["left_out"]] == ["Qwen/Qwen3-32B", "meta-llama/Llama-3.1-8B"]
    errors = told["left_out"][0]["error_pct"]["matrix products"]
    assert errors["calibrated"]["mean"] < errors["roofline"]["mean"]
    assert told["fit_error_pct"]["matrix products"]["mean"] < errors["calibrated"]["mean"]
    assert [one["phase"] for one in told["left_out"][0]["iterations"]] == ["decode", "prefill"]


def test_of_one_model_none_is_left_out(profiles: Path) -> None:
    shutil.rmtree(profiles / "A100" / "Qwen")
    result = calibrate(profiles)
    assert result.exit_code == 0
    assert "one model was measured, so none can be left out" in result.output


def test_a_directory_without_bundles_of_the_device_is_refused(profiles: Path) -> None:
    (profiles / "A100").rename(profiles / "A6000")
    assert "no bundle of a known model on A100" in str(calibrate(profiles).exception)


def test_a_precision_that_nobody_measured_is_refused(profiles: Path) -> None:
    result = calibrate(profiles, "--variant", "fp8")
    assert "no bundle of precision fp8" in str(result.exception)
