"""Energy is conserved: whatever is combined, parts add up to the whole, over components, servers, requests and time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from test_everything_together import configs, experts, sessions, workloads

from llmservingsim import Run
from llmservingsim.errors import CapacityError, ConfigError
from llmservingsim.report import Sample, SimulationResult
from tests.properties.drawn_sections import node_power, run_power

__all__ = ["experts"]  # a fixture


@given(data=st.data(), drawn=workloads, power=run_power, own=st.lists(st.none() | node_power, min_size=2, max_size=2))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_energy_is_conserved_whatever_is_combined(
    experts: str,
    data: st.DataObject,
    drawn: list[tuple[Any, int, int | None, int]],
    power: dict[str, Any],
    own: list[dict[str, Any] | None],
) -> None:
    spec = data.draw(configs(experts)) | {"power": power, "timeseries_interval": "10ms"}
    for node, section in zip(spec["nodes"], own, strict=False):
        node["power"] = section
    models = list(dict.fromkeys(one["model"] for node in spec["nodes"] for one in node["instances"]))
    try:
        made = Run(spec, sessions(drawn, models))
    except (ConfigError, CapacityError):  # `test_everything_together` knows what is refused
        event("refused")
        return
    result = made.execute()
    event("served")
    check_energy(result, made.recorder.end_ns, 10_000_000)


def check_energy(result: SimulationResult, end_ns: int, interval_ns: int) -> None:
    """Everything adds up."""
    energy = result.summary["energy_j"]
    total = energy["total"]
    assert add_up(energy["components"].values(), total)
    assert add_up((node["total"] for node in energy["nodes"]), total)
    for node in energy["nodes"]:
        assert add_up(node["components"].values(), node["total"])
    assert add_up((i["npu"] for i in energy["instances"]), energy["components"].get("npu", 0.0))
    assert add_up(energy["phases"].values(), total)
    assert add_up([energy["requests"], energy["lost"], energy["phases"]["idle"]], total)
    for phase in ("prefill", "decode", "dummy"):
        assert add_up((i[phase] for i in energy["instances"]), energy["phases"][phase])
    assert result.details is not None
    own = result.details.columns["energy_j"]
    assert math.isclose(sum(own), energy["requests"], rel_tol=1e-9, abs_tol=1e-6 * len(own))  # rounded to 1 uJ
    parts = [*energy["components"].values(), *energy["phases"].values(), *own, energy["lost"]]
    assert min(parts) >= -1e-9 * max(total, 1.0)
    if result.timeseries:
        check_series(result.timeseries, energy, end_ns, interval_ns)


def add_up(parts: Any, total: float) -> bool:
    return math.isclose(sum(parts), total, rel_tol=1e-9, abs_tol=1e-9)


def check_series(samples: Sequence[Sample], energy: dict[str, Any], end_ns: int, interval_ns: int) -> None:
    """Power over time holds the energy of the run, of each server and of each instance."""
    scopes: dict[str, list[float]] = {}
    for sample in samples:
        assert sample.power_w is not None
        assert sample.power_w >= 0
        scopes.setdefault(sample.scope, []).append(sample.power_w)
    expected = {"cluster": energy["total"]}
    expected |= {f"node:{node['node']}": node["total"] for node in energy["nodes"]}
    expected |= {f"instance:{i['index']}": i["npu"] for i in energy["instances"]}
    count = len(scopes["cluster"])
    seconds = np.diff(np.minimum(np.arange(count + 1) * interval_ns, end_ns)) / 1e9
    for scope, drawn in scopes.items():
        assert math.isclose(seconds @ np.array(drawn), expected[scope], rel_tol=1e-9, abs_tol=1e-6 * seconds.sum())


SYSTEMS: dict[str, list[dict[str, Any]]] = {
    "one": [{}],
    "tensor": [{"tensor_parallel_size": 2}],
    "stages": [{"pipeline_parallel_size": 2}],
    "split": [{"kv_role": "kv_producer"}, {"kv_role": "kv_consumer"}],
    "drafts": [  # not asynchronously: a batch formed before the last tokens are known would be lost
        {
            "async_scheduling": False,
            "speculative_config": {
                "method": "eagle",
                "num_speculative_tokens": 3,
                "acceptance": {"policy": "fixed", "rate": 0.6},
            },
        }
    ],
}


@pytest.mark.parametrize("name", SYSTEMS)
@given(drawn=workloads)
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_where_nobody_gives_up_and_no_block_lacks_requests_pay_for_every_batch(
    name: str, drawn: list[tuple[Any, int, int | None, int]]
) -> None:
    base = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", "num_gpu_blocks": 4096}
    asked = sessions([([(p, o, None) for p, o, _ in calls], *rest) for calls, *rest in drawn], ["m"])
    spec = {"nodes": [{"instances": [base | one for one in SYSTEMS[name]]}], "power": {}}
    energy = Run(spec, asked).execute().summary["energy_j"]
    assert math.isclose(energy["lost"], 0.0, abs_tol=1e-9 * energy["total"])
    assert energy["requests"] > 0
