"""What a run cost: the section ``cost`` of summary.json.

``price of an hour = purchase price / (8760 h * years * utilisation)`` where devices are owned; rented ones state it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmservingsim.config import InstanceSpec, RentSpec, RunSpec
from llmservingsim.config.catalog import PriceSpec
from llmservingsim.config.cost_spec import Prices
from llmservingsim.errors import ConfigError, one_of
from llmservingsim.explain.covers import Cover
from llmservingsim.explain.phases import phases
from llmservingsim.instance import Instance, Phase
from llmservingsim.resolve import System
from llmservingsim.units import J_PER_KWH, NS_PER_S

HOURS_PER_YEAR = 8760
_NS_PER_HOUR = 3600 * NS_PER_S
_RUNNING: tuple[Phase, ...] = ("starting", "active", "draining")


class CostPlan(NamedTuple):
    """Prices of a run, checked before it begins.

    Attributes:
        spec: What the run file says.
        device_per_hour: Per accelerator.
        node_per_hour: Of a node beside its devices, while it is used.
        hosting_per_node_hour: Of a node, all the time.
    """

    spec: RunSpec
    device_per_hour: dict[str, float]
    node_per_hour: float
    hosting_per_node_hour: float


def plan_cost(spec: RunSpec, instances: Sequence[Instance]) -> CostPlan | None:
    """Find the prices that the section ``cost`` needs; None without one.

    Raises:
        ConfigError: If an accelerator has no price, or one is given that the run does not use.
    """
    if spec.cost is None:
        return None
    own, rent = spec.cost.own, spec.cost.rent or RentSpec()
    stated = own.device if own is not None else rent.device_per_hour
    names = list(dict.fromkeys(instance.hardware for instance in instances))
    key = "cost.own.device" if own is not None else "cost.rent.device_per_hour"
    if isinstance(stated, dict):
        for name in stated:
            if name not in names:
                raise ConfigError(f"{key}: {name!r} is not in the run; expected some of {one_of(names)}")
    prices = {i.hardware: _price(stated, key, i, spec.cost.currency) for i in instances}
    if own is None:
        return CostPlan(spec, prices, rent.node_per_hour, 0.0)
    hours = HOURS_PER_YEAR * own.amortisation_years * own.utilisation
    per_hour = {name: price / hours for name, price in prices.items()}
    return CostPlan(spec, per_hour, own.node / hours, own.hosting_per_node_hour)


def summarise_cost(plan: CostPlan, system: System, end_ns: int, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the section, of a run whose summary is otherwise complete.

    Args:
        plan: Its prices.
        system: What served.
        end_ns: Of the run.
        summary: Tokens, requests, goodput and, if known, energy.
    """
    running = phases(system, end_ns, *_RUNNING)
    devices = {
        i.index: plan.device_per_hour[i.hardware] * len(i.ranks) * running[i.index].total_ns / _NS_PER_HOUR
        for i in system.instances
    }
    hosts = _hosts(plan, system, running, end_ns)
    energy = _energy(plan, summary)
    components = {"devices": sum(devices.values()), "host": sum(hosts.values()), "energy": energy}
    total = sum(part for part in components.values() if part is not None)
    assert plan.spec.cost is not None
    return {
        "currency": plan.spec.cost.currency,
        "devices_are": "rented" if plan.spec.cost.own is None else "owned",
        "device_per_hour": dict(plan.device_per_hour),
        "total": total,
        **_ratios(total, end_ns, summary),
        "components": components,
        "instances": [
            {"index": index, "devices": devices[index], "host": hosts[index], "total": devices[index] + hosts[index]}
            for index in devices
        ],
    }


def energy_bought_j(summary: Mapping[str, Any]) -> float | None:
    """Return the energy of the run that is paid for, with that of the facility; None where the summary states none."""
    stated = summary.get("energy_j")
    total = stated.get("facility", stated.get("total")) if isinstance(stated, Mapping) else stated
    return float(total) if isinstance(total, int | float) else None


def _price(stated: Prices | None, key: str, instance: Instance, currency: str) -> float:
    """Return the price of a device of an instance: stated, or the catalogue's."""
    name = instance.hardware
    if isinstance(stated, dict):
        stated = stated.get(name)
    if stated is not None:
        return float(stated)
    entry = instance.accelerator.price if instance.accelerator is not None else None
    found = None
    if entry is not None:
        found = entry.buy_usd if key == "cost.own.device" else entry.rent_usd_per_hour
    if found is None:
        raise ConfigError(f"{key}: the catalogue has no such price of {name!r}; expected one here{_other(entry, key)}")
    if currency != "USD":
        raise ConfigError(
            f"cost.currency: the price of {name!r} is the catalogue's, in USD, not in {currency!r}; expected a price "
            f"under {key}"
        )
    return found


def _other(entry: PriceSpec | None, key: str) -> str:
    """Name the kind of price that there is."""
    if entry is None or (entry.rent_usd_per_hour is None and entry.buy_usd is None):
        return ""
    return ", or 'cost.rent', whose price is known" if key == "cost.own.device" else ", or 'cost.own', likewise known"


def _hosts(plan: CostPlan, system: System, running: Mapping[int, Cover], end_ns: int) -> dict[int, float]:
    """Return what each instance bears of its nodes: of each, in the ratio of the device hours it had there."""
    specs: list[tuple[int, InstanceSpec]] = [
        (node, instance) for node, listed in enumerate(plan.spec.nodes) for instance in listed.instances
    ]
    found = dict.fromkeys(running, 0.0)
    for node in range(len(plan.spec.nodes)):
        here = {
            i.index: len(i.ranks) / spec.nnodes
            for i, (first, spec) in zip(system.instances, specs, strict=True)
            if first <= node < first + spec.nnodes
        }
        used = Cover.of(*map(np.concatenate, zip(*(running[i] for i in here), strict=True)))
        price = (plan.node_per_hour * used.total_ns + plan.hosting_per_node_hour * end_ns) / _NS_PER_HOUR
        weights = {i: devices * running[i].total_ns for i, devices in here.items()}
        whole = sum(weights.values())
        for index, weight in weights.items():
            found[index] += price * (weight / whole if whole else 1 / len(weights))
    return found


def _energy(plan: CostPlan, summary: Mapping[str, Any]) -> float | None:
    assert plan.spec.cost is not None
    price, energy_j = plan.spec.cost.energy_per_kwh, energy_bought_j(summary)
    return None if price is None or energy_j is None else price * energy_j / J_PER_KWH


def _ratios(total: float, end_ns: int, summary: Mapping[str, Any]) -> dict[str, float | None]:
    """Divide the price of the run by what it brought; None where that is nothing."""
    tokens, goodput = summary["tokens"], summary["goodput"]

    def per(number: float) -> float | None:
        return total / number if number else None

    return {
        "per_hour": per(end_ns / _NS_PER_HOUR),
        "per_million_output_tokens": per(tokens["output"] / 1e6),
        "per_million_tokens": per((tokens["prompt"] + tokens["output"]) / 1e6),
        "per_request": per(summary["requests"]["finished"]),
        "per_good_request": per(goodput["good_requests"]) if goodput is not None else None,
    }
