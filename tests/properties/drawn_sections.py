"""Sections of run files that are drawn: what clients do, what scales, what parts draw and what they cost."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


@st.composite
def clients(draw: st.DrawFn) -> dict[str, Any]:
    """Limits at the router, and how clients behave."""
    data: dict[str, Any] = {}
    if draw(st.booleans()):
        key = draw(st.sampled_from(["max_waiting_per_instance", "max_waiting_total", "max_kv_usage"]))
        limit = draw(st.sampled_from([0.3, 0.8])) if key == "max_kv_usage" else draw(st.integers(1, 4))
        data["admission"] = {key: limit, "policy": draw(st.sampled_from(["queue", "reject"]))}
    if draw(st.booleans()):
        data["clients"] = {
            "max_concurrency": draw(st.integers(1, 6)),
            "think_time": draw(st.sampled_from(["0ns", "2ms"])),
        }
    if draw(st.booleans()):
        data["timeouts"] = {
            "ttft": draw(st.sampled_from([None, "5ms", "40ms"])),
            "e2e": draw(st.sampled_from([None, "20ms", "200ms"])),
            "session": draw(st.sampled_from(["continue", "end"])),
        }
    return data


@st.composite
def scaling(draw: st.DrawFn, roles: list[str]) -> dict[str, Any]:
    policy, options = draw(
        st.sampled_from([("queue", {"target": 1}), ("kv_usage", {"target": 0.3}), ("slo", {"ttft": "10ms"})])
    )
    times = st.sampled_from(["0ns", "1ms", "30ms"])
    return {
        "policy": policy,
        "options": options,
        "role": draw(st.sampled_from(roles)),
        "min_instances": draw(st.sampled_from([0, 0, 1])),
        "start_up_delay": draw(times),
        "interval": draw(st.sampled_from(["1ms", "10ms"])),
        "scale_down_delay": draw(times),
        "window": "20ms",
    }


watts = st.integers(0, 400).map(lambda w: f"{w}W")
per_bit = st.integers(0, 20).map(lambda pj: f"{pj}pJ/bit")
NODE_POWER = {
    "base": watts,
    "cpu": st.builds(
        lambda idle, span, u, s: {
            "idle": f"{idle}W",
            "active": f"{idle + span}W",
            "utilisation": u,
            "serving_utilisation": s,
        },
        st.integers(0, 50),
        st.integers(0, 200),
        st.floats(0, 1),
        st.floats(0, 1),
    ),
    "dram": st.fixed_dictionaries({"idle": watts, "dimm_size": st.just("16GiB"), "energy_per_bit": per_bit}),
    "link": st.fixed_dictionaries({"idle": watts, "count": st.integers(0, 8), "energy_per_bit": per_bit}),
    "nic": st.fixed_dictionaries({"idle": watts}),
    "storage": st.fixed_dictionaries({"idle": watts, "energy_per_bit": per_bit}),
    "pim": st.just({"idle": "1W", "active": "3W", "channels": 8}),
    "accelerators": st.sampled_from(
        [
            {},
            {"H100": {"idle": "10W", "standby": "10W", "standby_duration": "2ms"}},
            {"H100": {"idle": "50W", "standby": "90W", "standby_duration": "5ms", "active": "333W"}},
        ]
    ),
}
node_power = st.fixed_dictionaries({}, optional=NODE_POWER)
run_power = st.fixed_dictionaries(
    {
        "stopped": st.sampled_from(["off", "idle"]),
        "model": st.sampled_from(["states", "utilisation"]),
        "pue": st.floats(1, 2),
    },
    optional={
        "node": node_power,
        "cxl": st.fixed_dictionaries({"idle": watts, "energy_per_bit": per_bit}),
        "grid_carbon_intensity": st.just("400gCO2/kWh"),
    },
)

prices = st.sampled_from(
    [
        {"energy_per_kwh": 0.2},
        {"rent": {"device_per_hour": {"H100": 2.0}, "node_per_hour": 1.0}},
        {"own": {"node": 1000, "utilisation": 0.5, "hosting_per_node_hour": 1}, "energy_per_kwh": 0.1},
    ]
)


@st.composite
def money(draw: st.DrawFn, num_nodes: int) -> tuple[dict[str, Any], list[dict[str, Any] | None]]:
    """What the run draws and costs, and what each node draws."""
    data: dict[str, Any] = {}
    if draw(st.booleans()):
        data["power"] = draw(run_power)
    if draw(st.booleans()):
        data["cost"] = draw(prices)
    return data, [draw(st.none() | node_power) for _ in range(num_nodes)]
