"""What a run spent, as outputs show it: the section ``energy_j``, the column ``power_w``, a figure per request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from llmservingsim.config import PowerRunSpec
from llmservingsim.power import Attribution, Ledger, StageRun
from llmservingsim.power.curve import Floats
from llmservingsim.power.ledger import POOL
from llmservingsim.report.records import Sample
from llmservingsim.report.request_table import RequestTable
from llmservingsim.units import J_PER_KWH, NS_PER_S, parse_carbon_intensity


@dataclass(frozen=True, kw_only=True)
class EnergyReport:
    """Energy of a run.

    Attributes:
        ledger: Who spent it when.
        attribution: What for.
        stages: Pipeline stages, in the order of the ledger.
        absent: Server -> its parts of which nobody said what they draw.
        request_j: Of each request, in the order of the table, KV transfers included.
        transfer_j: Of KV transfers between instances.
        lost_j: Spent on what no ended request got anything from.
        sample_ns: Step of the time series.
        clocks: Of each instance, the share of the maximum clock at which its devices ran.
        options: Of the run.
    """

    ledger: Ledger
    attribution: Attribution
    stages: Sequence[StageRun]
    absent: Mapping[str, Sequence[str]]
    request_j: Floats
    transfer_j: float
    lost_j: float
    sample_ns: int
    clocks: Sequence[float]
    options: PowerRunSpec

    def phases(self) -> dict[str, float]:
        """Return what the energy was for; ``idle`` is what no batch and no transfer pays."""
        found = self.attribution
        spent = {
            "prefill": float(found.prefill_j.sum()),
            "decode": float(found.decode_j.sum()),
            "dummy": float(found.dummy_j.sum()),
            "transfer": float(self.transfer_j),
        }
        return spent | {"idle": self.ledger.total_j - sum(spent.values())}

    def with_power(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the time series with the mean power of each interval, of the last one over the part that was run."""
        scopes = {sample.scope for sample in samples}
        count = len({sample.time_s for sample in samples})
        edges = np.minimum(np.arange(count + 1) * self.sample_ns, self.ledger.end_ns).astype(np.float64)
        seconds = np.maximum(np.diff(edges), 1) / NS_PER_S
        watts = {scope: (np.diff(self.until_j(scope, edges)) / seconds).tolist() for scope in sorted(scopes)}
        place = dict.fromkeys(scopes, 0)
        found = []
        for sample in samples:
            found.append(msgspec.structs.replace(sample, power_w=round(watts[sample.scope][place[sample.scope]], 6)))
            place[sample.scope] += 1
        return found

    def until_j(self, scope: str, times_ns: Floats) -> Floats:
        """Return what a scope of the time series had spent by each of some times; of an instance its accelerators."""
        kind, _, number = scope.partition(":")
        if kind == "instance":
            own = [k for k, stage in enumerate(self.stages) if stage.instance == int(number)]
            return self.ledger.devices_until_j(own, times_ns)
        return self.ledger.until_j(times_ns, int(number) if kind == "node" else None)


def summarise_energy(report: EnergyReport, table: RequestTable) -> dict[str, Any]:
    """Return the section ``energy_j``."""
    ledger, options = report.ledger, report.options
    total_j = ledger.total_j
    tokens = int(table.output_tokens[table.is_finished].sum())
    requests = int(table.is_finished.sum())
    facility_j = total_j * options.pue
    return {
        "total": total_j,
        "components": ledger.by_component(),
        "phases": report.phases(),
        "requests": float(report.request_j.sum()),
        "lost": report.lost_j,
        "per_request": _per(total_j, requests),
        "per_output_token": _per(total_j, tokens),
        "output_tokens_per_j": _per(tokens, total_j),
        "mean_power_w": _per(total_j * NS_PER_S, ledger.end_ns),
        "nodes": [_server(number, parts) for number, parts in ledger.components.items() if number != POOL or parts],
        "instances": _instances(report),
        "pue": options.pue,
        "facility": facility_j,
        "carbon_g": _carbon(facility_j, options, requests, tokens),
        "absent": {server: list(parts) for server, parts in report.absent.items()},
    }


def _server(number: int, parts: Mapping[str, float]) -> dict[str, Any]:
    return {"node": number if number != POOL else "pool", "total": sum(parts.values()), "components": dict(parts)}


def _instances(report: EnergyReport) -> list[dict[str, Any]]:
    found = []
    for index in sorted({stage.instance for stage in report.stages}):
        own = [k for k, stage in enumerate(report.stages) if stage.instance == index]
        found.append(
            {
                "index": index,
                "npu": sum(report.ledger.device_j[k] for k in own),
                "prefill": float(report.attribution.prefill_j[index]),
                "decode": float(report.attribution.decode_j[index]),
                "dummy": float(report.attribution.dummy_j[index]),
                "clock": report.clocks[index],
            }
        )
    return found


def _carbon(facility_j: float, options: PowerRunSpec, requests: int, tokens: int) -> dict[str, float | None] | None:
    if options.grid_carbon_intensity is None:
        return None
    grams = facility_j / J_PER_KWH * parse_carbon_intensity(options.grid_carbon_intensity)
    return {"total": grams, "per_request": _per(grams, requests), "per_output_token": _per(grams, tokens)}


def _per(amount: float, count: float) -> float | None:
    return amount / count if count else None
