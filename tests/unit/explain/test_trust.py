"""Which share of the operators' time was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmservingsim import simulate
from llmservingsim.latency import Grade
from llmservingsim.latency.tables import LinearTable
from llmservingsim.workload import RequestSpec

REQUESTS = [RequestSpec(number, number * 1_000_000, 100, 20) for number in range(10)]


def run(**stated: Any) -> dict[str, Any]:
    instance = {"model": "meta-llama/Llama-3.1-8B", "hardware": "H100", **stated}
    result = simulate({"nodes": [{"instances": [instance]}]}, REQUESTS)
    told: dict[str, Any] = result.summary["instances"][0]
    return told


def test_shares_add_up_and_name_what_the_roofline_gave_to_a_measured_bundle() -> None:
    shares = run()["time_shares"]
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {"measured", "interpolated", "roofline"}
    assert shares["roofline"] < 0.1  # norms, rotary embedding, activation: 4 % of a decode of this model


def test_a_roofline_measures_nothing() -> None:
    assert run(latency={"source": "roofline"})["time_shares"] == {"roofline": 1.0}


def test_a_cap_of_power_changes_no_share_s_name() -> None:
    assert set(run(power_cap="400W")["time_shares"]) == {"measured", "interpolated", "roofline"}


def test_experts_count_as_well() -> None:
    shares = run(model="Qwen/Qwen3-30B-A3B")["time_shares"]
    assert shares["interpolated"] > 0.5  # experts and attention are most of a small batch


def test_a_source_of_ones_own_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flat.py").write_text(
        "class Flat:\n    def __init__(self, *_): pass\n"
        "    def latency_ns(self, operator, shape): return 10\n    def provenance(self): return {'source': 'flat'}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(latency={"source": "flat:Flat"})["time_shares"] is None


def test_a_point_of_a_line_is_measured_one_between_interpolated_one_beyond_extrapolated() -> None:
    line = LinearTable([1, 8, 64], [1.0, 2.0, 3.0])
    assert [line.grade(size) for size in (8, 9, 65, 0)] == [
        Grade.MEASURED,
        Grade.INTERPOLATED,
        Grade.EXTRAPOLATED,
        Grade.EXTRAPOLATED,
    ]
