"""Sections ``power``: what they accept, what they refuse, and what a cluster file of LLMServingSim 2.0 becomes."""

from typing import Any

import pytest

from llmservingsim import Run
from llmservingsim.config.catalog import find_accelerator
from llmservingsim.errors import ConfigError, PluginError, UserError
from llmservingsim.workload import RequestSpec

INSTANCE: dict[str, Any] = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100"}
PEER_POWER = {
    "base_node_power": 219,
    "npu": {"A6000": {"idle_power": 33, "standby_power": 89, "active_power": 300, "standby_duration": 18}},
    "cpu": {"idle_power": 10, "active_power": 185, "util": 0.5},
    "dram": {"dimm_size": 32, "idle_power": 4.0, "energy_per_bit": 6.0},
    "link": {"num_links": 1, "idle_power": 5.0, "energy_per_bit": 4.0},
    "nic": {"num_nics": 1, "idle_power": 11.2},
    "storage": {"num_devices": 1, "idle_power": 5.9},
}


def run(node: dict[str, Any] | None = None, instance: dict[str, Any] | None = None, **keys: Any) -> Run:
    made = {"instances": [INSTANCE | (instance or {})], "power": node}
    return Run({"nodes": [made], **keys}, [RequestSpec(0, 0, 64, 4)])


def peer(power: dict[str, Any]) -> Run:
    memory = {"mem_size": 40, "mem_bw": 768}
    instance = {"model_name": "meta-llama/Llama-3.1-8B", "hardware": "A6000", "npu_mem": memory, "num_npus": 1}
    node = {"instances": [instance], "cpu_mem": {"mem_size": 128, "mem_bw": 128}, "power": power}
    return Run({"nodes": [node]}, [RequestSpec(0, 0, 64, 4)])


def test_a_file_of_llmservingsim_loads_unchanged_and_18_means_seconds() -> None:
    made = peer(PEER_POWER)
    section = made.spec.nodes[0].power
    assert section is not None
    assert section.base == "219.0W"
    assert section.accelerators["A6000"].standby_duration == "18.0s"
    assert section.cpu is not None
    assert (section.cpu.utilisation, section.cpu.serving_utilisation) == (0.5, 0.7)
    assert not any("power" in note for note in made.notes)
    energy = made.execute().summary["energy_j"]
    assert energy["absent"] == {}
    assert energy["components"]["dram"] == pytest.approx(4 * 4.0 * made.recorder.end_ns / 1e9)  # 128 of 32 GiB


@pytest.mark.parametrize("part", ["base_node_power", "cpu", "dram", "link", "nic", "storage"])
def test_every_part_of_such_a_file_is_optional(part: str) -> None:
    made = peer({key: value for key, value in PEER_POWER.items() if key != part})
    missing = {"base_node_power": "base"}.get(part, part)
    energy = made.execute().summary["energy_j"]
    assert energy["absent"] == {"node:0": [missing]}
    assert missing not in energy["components"]


def test_a_wrong_key_of_such_a_file_is_named() -> None:
    with pytest.raises(ConfigError, match="num_link"):
        peer(PEER_POWER | {"link": {"num_link": 1, "idle_power": 5.0}})


def test_without_a_section_nothing_is_counted() -> None:
    result = run().execute()
    assert result.summary["energy_j"] is None
    assert all(sample.power_w is None for sample in result.timeseries)
    assert all(row.energy_j is None for row in result.request_metrics)
    assert result.details is not None
    assert "energy_j" not in result.details.columns


def test_an_empty_section_of_the_run_counts_accelerators_by_the_catalogue() -> None:
    result = run(power={}).execute()
    energy = result.summary["energy_j"]
    assert list(energy["components"]) == ["npu"]
    assert energy["absent"] == {"node:0": ["base", "cpu", "dram", "link", "nic", "storage"]}
    active_w = find_accelerator("H100").power.active_w  # type: ignore[union-attr]
    assert energy["mean_power_w"] == pytest.approx(active_w)


def test_a_section_of_the_run_holds_for_servers_without_one() -> None:
    spec = {
        "nodes": [{"instances": [INSTANCE]}, {"instances": [INSTANCE], "power": {"base": "7W"}}],
        "power": {"node": {"base": "100W", "nic": {"idle": "3W", "count": 2}}},
    }
    made = Run(spec, [RequestSpec(0, 0, 64, 4)])
    first, second = made.execute().summary["energy_j"]["nodes"]
    seconds = made.recorder.end_ns / 1e9
    assert first["components"]["base"] == pytest.approx(100 * seconds)
    assert first["components"]["nic"] == pytest.approx(6 * seconds)
    assert second["components"]["base"] == pytest.approx(7 * seconds)
    assert "nic" not in second["components"]


def test_stated_numbers_replace_those_of_the_catalogue_one_by_one() -> None:
    made = run({"accelerators": {"h100-sxm": {"active": "600W"}}})
    power, known = made.system.instances[0].power, find_accelerator("H100").power
    assert power is not None
    assert known is not None
    assert (power.active_w, power.idle_w, power.standby_w) == (600, known.idle_w, known.standby_w)


def test_memories_that_compute_draw_by_channel() -> None:
    """They are the host memory, so its modules draw nothing beside them."""
    made = run({"pim": {"idle": "1W", "active": "3W", "channels": 8}, "dram": {"idle": "4W", "dimms": 4}})
    summary = made.execute().summary
    assert summary["energy_j"]["components"] == {
        "npu": summary["energy_j"]["components"]["npu"],
        "dram": 0.0,
        "pim": pytest.approx(8 * summary["simulated_s"]),
    }


@pytest.mark.parametrize(
    ("node", "told"),
    [
        ({"base": "100"}, "expected a power with its unit"),
        ({"base": 100}, "quantity has a unit"),
        ({"bse": "100W"}, "bse"),
        ({"cpu": {"idle": "9W", "active": "3W"}}, "active: expected at least idle"),
        ({"cpu": {"idle": "9W", "active": "30W", "utilisation": 50}}, "utilisation"),
        ({"dram": {"idle": "4W"}}, "either dimm_size or dimms"),
        ({"dram": {"idle": "4W", "dimm_size": "32GiB"}}, "states no cpu_memory"),
        ({"link": {"idle": "4W", "energy_per_bit": "4pJ"}}, "pJ/bit"),
        ({"accelerators": {"H10": {}}}, "power.accelerators: accelerator 'H10' is not in the catalogue"),
        ({"accelerators": {"H100": {"active": "1W"}}}, "active_w: expected at least idle_w"),
        ({"pim": {"idle": "4W", "active": "1W", "channels": 1}}, "active: expected at least idle"),
    ],
)
def test_nonsense_is_refused_by_name(node: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        run(node)


@pytest.mark.parametrize(
    ("power", "told"),
    [
        ({"pue": 0.5}, "pue"),
        ({"grid_carbon_intensity": "400g"}, "gCO2/kWh"),
        ({"model": "state"}, "did you mean 'states'"),
        ({"model": "utilisation", "options": {"exponent": 7}}, "exponent: expected a value from 1 to 2"),
        ({"options": {"x": 1}}, "cannot be built from options"),
        ({"cxl": {"idle": "5W"}}, "expected cxl_memory"),
    ],
)
def test_nonsense_of_the_run_is_refused_before_it_begins(power: dict[str, Any], told: str) -> None:
    with pytest.raises((ConfigError, PluginError), match=told):
        run(power=power)


OWN = """
["Mystery"]
vendor = "nobody"
memory_bytes = 80_000_000_000
memory_bandwidth = 1e12
bf16_flops = 1e14
fp16_flops = 1e14
link_kind = "wire"
link_bandwidth = 1e11
link_latency_ns = 1_000
host_bandwidth = 1e10
num_compute_units = 100
kernel_launch_ns = 2_000
"""


def test_an_accelerator_without_numbers_is_named_as_absent_until_they_are_stated(tmp_path: Any) -> None:
    (tmp_path / "own.toml").write_text(OWN)

    def serve(power: dict[str, Any]) -> Any:
        spec = {"nodes": [{"instances": [INSTANCE | {"hardware": "Mystery"}], "power": power}]}
        from llmservingsim import RunOptions

        made = Run(spec, [RequestSpec(0, 0, 64, 4)], RunOptions(hardware=[tmp_path / "own.toml"]))
        return made.execute().summary["energy_j"]

    energy = serve({"base": "1W"})
    assert energy["absent"]["node:0"][-1] == "Mystery"
    assert list(energy["components"]) == ["base"]
    assert "npu" in serve({"accelerators": {"Mystery": {"idle": "1W", "active": "2W"}}})["components"]
    with pytest.raises(ConfigError, match="expected both idle and active"):
        serve({"accelerators": {"Mystery": {"idle": "1W"}}})
    with pytest.raises(ConfigError, match="does not know what Mystery draws"):
        serve({"power_cap": "1W"})
