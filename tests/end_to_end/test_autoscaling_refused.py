"""Sections `autoscaling` and policies that cannot be, and what is said of them."""

from typing import Any

import pytest
from scaled_milliseconds import MODEL, config, own, requests, section

from llmservingsim import Run, simulate
from llmservingsim.errors import ConfigError, PluginError, SimulationError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_instances": 3}, "autoscaling: max_instances: 3 is more than the 2 instances of .* that the file lists"),
        ({"min_instances": 3}, "autoscaling: min_instances: 3 is more than the 2"),
        ({"initial_instances": 0}, "initial_instances: expected at least min_instances, 1"),
        ({"min_instances": 2, "max_instances": 1}, "min_instances: expected at most max_instances, 1"),
        ({"initial_instances": 2, "max_instances": 1}, "initial_instances: expected at most max_instances, 1"),
        ({"interval": "0s"}, "interval: expected more than 0"),
        ({"interval": "999us"}, "interval: expected at least 1ms"),
        ({"model": "Llama"}, "autoscaling: model: no instance serves 'Llama'"),
        ({"role": "kv_consumer"}, "autoscaling: role: no such instance is a kv_consumer; expected kv_both"),
        ({"options": {"target": 0}}, "options of 'queue': target: expected"),
        ({"options": {"tarjet": 1}}, r"unknown key 'tarjet' .*did you mean 'target'"),
        ({"start_up_delay": 5}, "autoscaling.start_up_delay: expected str"),
        ({"policy": "slo", "options": {}}, "options of 'slo': expected a limit, ttft or tpot, or both"),
        (
            {"policy": "schedule", "options": {"times": [{"at": "1s", "instances": 1}, {"at": "1s", "instances": 2}]}},
            "times: expected them to rise",
        ),
    ],
)
def test_a_section_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Run(config(2, section() | change), requests(0))


def test_two_sections_for_one_instance_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"autoscaling\[1\]: instance 0 is in autoscaling\[0\] already"):
        Run(config(2, [section(), section(model=MODEL)]), requests(0))


def test_instances_in_lock_step_are_refused() -> None:
    data = config(2, section())
    for one in data["nodes"][0]["instances"]:
        one |= {"model": "Qwen/Qwen3-30B-A3B", "data_parallel_group": "g"}
    data["serving"] = {"num_gpu_blocks": 100}
    with pytest.raises(ConfigError, match="autoscaling: instance 0 is of the data-parallel group 'g'"):
        Run(data, requests(0))


def test_an_unknown_policy_is_refused_with_the_nearest_known() -> None:
    with pytest.raises(PluginError, match=r"autoscaling: 'quene' is unknown .*did you mean 'queue'"):
        Run(config(1, section("quene")), requests(0))


@pytest.mark.parametrize("answer", [-1, 1.5, None, "2"])
def test_an_answer_that_is_no_number_of_instances_is_refused(answer: object) -> None:
    with pytest.raises(PluginError, match=r"asked for .* expected a whole number of at least 0"):
        simulate(config(1, section() | own("Answers", answers=[answer])), requests(0, 30))


def test_a_start_up_that_no_clock_can_count_is_refused() -> None:
    data = config(1, section(min_instances=0, start_up_delay="1000000h", weight_load_bandwidth="1B/s"))
    with pytest.raises(SimulationError, match="instance 0, start-up"):
        simulate(data, requests(0))
