"""What must hold of the section ``limits`` of any run."""

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
