"""Sections of run files that are drawn: what clients do, and what scales."""

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
