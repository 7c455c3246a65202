"""What a run cost, by hand: an iteration takes a millisecond, so 3,600 of them are an hour's thousandth."""

from typing import Any

import pytest

from llmservingsim import simulate
from llmservingsim.errors import ConfigError
from llmservingsim.explain.cost import energy_bought_j, plan_cost, summarise_cost
from llmservingsim.workload import RequestSpec

HOUR_MS = 3_600_000
REQUESTS = [RequestSpec(0, 0, 30, 6), RequestSpec(1, 0, 20, 10)]
"""50 tokens of prompts and 16 of answers in ten milliseconds."""


def config(*hardware: str, cost: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """A node per instance."""
    serving = {
        "latency": {"source": "constant_latency:Constant"},
        "enforce_eager": True,
        "async_scheduling": False,
        "num_gpu_blocks": 1001,
    }
    instances = [{"model": "meta-llama/Llama-3.2-1B", "hardware": name} for name in hardware or ("H100",)]
    return {"nodes": [{"instances": [one]} for one in instances], "serving": serving, "cost": cost} | keys


def cost(data: dict[str, Any], requests: list[RequestSpec] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = simulate(data, requests or REQUESTS).summary["cost"]
    return found


def test_rented_devices_and_nodes_cost_their_hours() -> None:
    found = cost(config(cost={"rent": {"device_per_hour": 3.6, "node_per_hour": 0.72}}))
    devices, host = 3.6 * 10 / HOUR_MS, 0.72 * 10 / HOUR_MS
    assert found["components"] == {"devices": pytest.approx(devices), "host": pytest.approx(host), "energy": None}
    assert found["total"] == pytest.approx(1.2e-5)
    assert found["per_hour"] == pytest.approx(4.32)
    assert found["per_million_output_tokens"] == pytest.approx(1.2e-5 / 16e-6)
    assert found["per_million_tokens"] == pytest.approx(1.2e-5 / 66e-6)
    assert found["per_request"] == pytest.approx(0.6e-5)
    assert found["per_good_request"] is None
    assert (found["currency"], found["devices_are"]) == ("USD", "rented")


def test_owned_devices_cost_their_share_of_the_price_and_hosting_all_the_time() -> None:
    """87,600 over two years used half of the time are 10 an hour; the node costs a tenth of that, and 2 of hosting."""
    own = {"device": 87_600, "node": 8760, "amortisation_years": 2, "utilisation": 0.5, "hosting_per_node_hour": 2}
    found = cost(config(cost={"own": own, "currency": "EUR"}))
    assert found["device_per_hour"] == {"H100": pytest.approx(10)}
    assert found["per_hour"] == pytest.approx(10 + 1 + 2)
    assert (found["currency"], found["devices_are"]) == ("EUR", "owned")


def test_all_ranks_of_an_instance_are_paid_for() -> None:
    data = config(cost={"rent": {"device_per_hour": 3}})
    data["nodes"][0]["instances"][0]["tensor_parallel_size"] = 4
    assert cost(data)["per_hour"] == pytest.approx(12)


def test_prices_come_from_the_catalogue_or_are_given_per_accelerator() -> None:
    assert cost(config(cost={}))["device_per_hour"] == {"H100": 3.0}
    stated = {"H100": 5.0, "A100": 2.0}
    found = cost(config("H100", "A100", cost={"rent": {"device_per_hour": stated}}))
    assert found["device_per_hour"] == stated
    assert [one["devices"] for one in found["instances"]] == pytest.approx([5 * 6 / HOUR_MS, 2 * 6 / HOUR_MS], rel=0.9)
    part = cost(config("H100", "A100", cost={"rent": {"device_per_hour": {"A100": 2.0}}}))
    assert part["device_per_hour"] == {"H100": 3.0, "A100": 2.0}


def test_instances_bear_their_nodes_by_the_device_hours_they_had_there() -> None:
    data = config("H100", "H100", cost={"rent": {"device_per_hour": 1, "node_per_hour": 3}})
    (first,), (second,) = (node["instances"] for node in data["nodes"])
    data["nodes"] = [{"instances": [first | {"tensor_parallel_size": 2}, second]}]
    instances = cost(data)["instances"]
    assert instances[0]["host"] == pytest.approx(2 * instances[1]["host"])
    assert sum(one["host"] for one in instances) == pytest.approx(3 * cost(data)["total"] / 6)


def test_an_instance_over_two_nodes_pays_both() -> None:
    data = config(cost={"rent": {"device_per_hour": 1, "node_per_hour": 3}})
    data["nodes"][0]["instances"][0] |= {"tensor_parallel_size": 2, "nnodes": 2}
    data["nodes"].append({"instances": []})
    data["network"] = {
        "topology": ["Switch", "Switch"],
        "npus_count": [1, 2],
        "bandwidth": ["1000000GB/s"] * 2,
        "latency": ["0ns"] * 2,
    }
    assert cost(data)["per_hour"] == pytest.approx(2 * 1 + 2 * 3)


def test_scaled_instances_pay_for_the_time_they_run() -> None:
    """It starts with the first request, for 5 ms, serves it for 10 ms, and is stopped before and after."""
    scaled = {"policy": "queue", "options": {"target": 1}, "min_instances": 0, "start_up_delay": "5ms"}
    scaled |= {"interval": "1ms", "window": "2ms", "scale_down_delay": "0ns"}
    data = config(cost={"rent": {"device_per_hour": 3.6, "node_per_hour": 1.8}}, autoscaling=scaled)
    late = [RequestSpec(0, 50_000_000, 30, 10), RequestSpec(1, 200_000_000, 30, 10)]
    result = simulate(data, late)
    (phases,) = result.summary["autoscaling"]["instances"]
    running_s = phases["active_s"] + phases["starting_s"] + phases["draining_s"]
    assert 0.03 <= running_s < 0.1 < result.summary["simulated_s"]
    assert result.summary["cost"]["components"]["devices"] == pytest.approx(3.6 * running_s / 3600)
    assert result.summary["cost"]["components"]["host"] == pytest.approx(1.8 * running_s / 3600)


def test_good_requests_alone_are_divided_by_where_there_are_limits() -> None:
    """The first has its answer after 6 ms, the second after 10."""
    found = cost(config(cost={"rent": {"device_per_hour": 3.6}}, slo={"e2e": "7ms"}))
    assert found["per_good_request"] == pytest.approx(found["total"])
    assert cost(config(cost={}, slo={"e2e": "1ms"}))["per_good_request"] is None


def test_energy_is_paid_for_where_it_is_known() -> None:
    from llmservingsim import Run

    made = Run(config(cost={"rent": {"device_per_hour": 0}, "energy_per_kwh": 0.25}), REQUESTS)
    summary = made.execute().summary
    plan = plan_cost(made.spec, made.system.instances)
    assert plan is not None
    assert summary["cost"]["components"]["energy"] is None
    told = summarise_cost(plan, made.system, 10_000_000, summary | {"energy_j": {"total": 7_200_000.0}})
    assert told["components"]["energy"] == told["total"] == pytest.approx(0.5)


def test_what_the_facility_takes_beside_the_computers_is_paid_for_too() -> None:
    def paid(**power: float) -> float:
        made = config(cost={"energy_per_kwh": 3.6}, power=power)
        summary = simulate(made, REQUESTS).summary
        assert summary["cost"]["components"]["energy"] == pytest.approx(summary["energy_j"]["facility"] / 1e6)
        return float(summary["cost"]["components"]["energy"])

    assert paid(pue=1.5) == pytest.approx(1.5 * paid())


@pytest.mark.parametrize(
    ("energy", "total"),
    [
        (None, None),
        ({"total": 2}, 2.0),
        ({"total": 2, "facility": 3}, 3.0),
        (3.5, 3.5),
        ({}, None),
        ({"total": None}, None),
    ],
)
def test_energy_is_read_in_whatever_form_it_has(energy: object, total: float | None) -> None:
    assert energy_bought_j({"energy_j": energy}) == total
    assert energy_bought_j({}) is None


def test_a_run_without_prices_has_no_cost() -> None:
    data = config()
    del data["cost"]
    assert "cost" not in simulate(data, REQUESTS).summary


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"rent": {}, "own": {}}, "devices are rented or owned; expected 'rent' or 'own', got both"),
        ({"rent": {"device_per_hour": -1}}, "device_per_hour: expected a price of at least 0, got -1"),
        ({"rent": {"device_per_hour": {"H100": -1}}}, r"device_per_hour\.H100: expected a price of at least 0"),
        ({"energy_per_kwh": -0.1}, "energy_per_kwh: expected a price of at least 0"),
        ({"own": {"amortisation_years": 0}}, "amortisation_years: expected more than 0, got 0"),
        ({"own": {"utilisation": 0}}, "utilisation"),
        ({"rent": {"device_per_hour": {"A100": 2}}}, r"cost\.rent\.device_per_hour: 'A100' is not in the run"),
        ({"currency": "EUR"}, "cost.currency: the price of 'H100' is the catalogue's, in USD, not in 'EUR'"),
        ({"rents": {}}, "rents"),
    ],
)
def test_contradictions_and_prices_that_are_none_are_refused(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(config(cost=stated), REQUESTS)


def test_a_device_that_nobody_sells_needs_a_price(tmp_path: Any) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[Mine]\nvendor = "me"\nmemory_bytes = 80000000000\nmemory_bandwidth = 1e12\nbf16_flops = 1e14\n'
        'fp16_flops = 1e14\nlink_kind = "x"\nlink_bandwidth = 1e11\nlink_latency_ns = 1000\nhost_bandwidth = 1e10\n'
        "num_compute_units = 100\nkernel_launch_ns = 1000\nprice = {rent_usd_per_hour = 1.5}\n"
    )
    assert simulate(config("Mine", cost={}), REQUESTS, hardware=[path]).summary["cost"]["per_hour"] == pytest.approx(
        1.5
    )
    with pytest.raises(
        ConfigError,
        match=r"cost\.own\.device: the catalogue has no such price of 'Mine'; expected one here, or 'cost\.rent'",
    ):
        simulate(config("Mine", cost={"own": {}}), REQUESTS, hardware=[path])
