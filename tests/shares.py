"""What must hold of the sections ``limits`` and ``cost`` of any run."""

import math
from typing import Any

import pytest


def check_limits(limits: dict[str, Any]) -> None:
    """What devices and requests spent their time on is all of it, and nothing is negative."""
    assert limits["verdict"]
    for entry in (limits, *limits["instances"]):
        check_shares(entry["device_time"])
        check_shares(entry["requests"])
    for entry in limits["classes"]:
        check_shares(entry)


def check_shares(of: dict[str, Any]) -> None:
    """Shares of something add up to 1, and those of nothing to 0."""
    shares = of["shares"].values()
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(1 if of.get("device_s") or of.get("e2e_s") else 0)


def check_cost(stated: dict[str, Any] | None, summary: dict[str, Any]) -> None:
    """Parts add up to the total, which instances and energy have between them, and every quotient is of it."""
    assert ("cost" in summary) == (stated is not None)
    if stated is None:
        return
    found, energy = summary["cost"], summary["energy_j"]
    parts = [part or 0.0 for part in found["components"].values()]
    assert min(parts) >= 0
    assert math.isclose(sum(parts), found["total"])
    bought = found["components"]["energy"]
    assert (bought is None) == (energy is None or "energy_per_kwh" not in stated)
    if bought is not None:
        assert math.isclose(bought, stated["energy_per_kwh"] * energy["facility"] / 3.6e6)
    assert math.isclose(sum(one["total"] for one in found["instances"]) + (bought or 0.0), found["total"])
    if found["per_million_output_tokens"] is not None:
        assert math.isclose(found["per_million_output_tokens"] * summary["tokens"]["output"] / 1e6, found["total"])
