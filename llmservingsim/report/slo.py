"""Which requests kept the stated limits, and how often each limit was kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from llmservingsim.config import SLO_LIMITS, SloSpec, parse_statistic
from llmservingsim.errors import ConfigError, nearest, one_of
from llmservingsim.report.records import RequestRecord
from llmservingsim.report.request_table import RequestTable
from llmservingsim.report.token_gaps import Floats
from llmservingsim.units import NS_PER_MS, parse_time_ns

Bools = NDArray[np.bool_]


class Slos:
    """The limits of a run.

    Args:
        stated: Its section or sections; None if there is none.
        models: That are served.

    Raises:
        ConfigError: If a section is for a model that nobody serves.
    """

    def __init__(self, stated: SloSpec | Sequence[SloSpec] | None, models: Collection[str]) -> None:
        self.is_list = not isinstance(stated, SloSpec)
        self.sections: tuple[SloSpec, ...] = (stated,) if isinstance(stated, SloSpec) else tuple(stated or ())
        for place, section in enumerate(self.sections):
            if section.model is not None and section.model not in models:
                raise ConfigError(
                    f"slo[{place}].model: nobody serves {section.model!r}{nearest(section.model, models)}; "
                    f"the instances serve {one_of(models)}"
                )

    def section_of(self, record: RequestRecord, priority: int) -> int:
        """Return which section holds for a request, the first that fits; -1 if none does."""
        for place, section in enumerate(self.sections):
            if section.model in (None, record.model) and section.priority in (None, priority):
                return place
        return -1

    def describe(self) -> dict[str, Any] | list[dict[str, Any]]:
        """Repeat what was stated."""
        stated = [
            {key: value for key, value in msgspec.structs.asdict(section).items() if value is not None}
            for section in self.sections
        ]
        return stated if self.is_list else stated[0]


class Attainment:
    """What became of the limits of a run.

    Args:
        slos: The limits.
        table: The requests.

    Attributes:
        section: Of each request, the section that holds for it; -1 if none does.
        stated: Of each limit that some section states, for which requests it holds.
        kept: Of each of these limits, which requests kept it; true where it does not hold.
        is_good: Which requests kept all that hold for them.
    """

    def __init__(self, slos: Slos, table: RequestTable) -> None:
        self.slos = slos
        self._table = table
        rows = zip(table.records, table.details, strict=True)
        self.section = np.fromiter((slos.section_of(r, d.priority) for r, d in rows), dtype=np.int64)
        self.stated: dict[str, Bools] = {}
        self.kept: dict[str, Bools] = {}
        for key in SLO_LIMITS:
            limits = [section.limits.get(key) for section in slos.sections]
            if any(limits):
                limits_ms = np.array([np.nan if x is None else parse_time_ns(x) / NS_PER_MS for x in (*limits, None)])
                self._judge(key, limits_ms[self.section])
        self.is_good: Bools = np.logical_and.reduce([table.is_finished, *self.kept.values()])

    def _judge(self, key: str, limits_ms: Floats) -> None:
        """Judge one limit; a request without a value keeps it if it finished."""
        values = _measured(self._table, key)
        self.stated[key] = ~np.isnan(limits_ms)
        self.kept[key] = ~self.stated[key] | (self._table.is_finished & ~(values > limits_ms))

    def goodput(self, of: Bools, simulated_s: float) -> dict[str, Any]:
        """Sum up over some requests: those that no section is for are left out."""
        of = of & (self.section >= 0)
        good = of & self.is_good
        seconds = simulated_s or 1.0
        return {
            "requests": int(of.sum()),
            "good_requests": int(good.sum()),
            "attainment_pct": _percent(good, of),
            "requests_per_s": int(good.sum()) / seconds,
            "output_tokens_per_s": int(self._table.output_tokens[good].sum()) / seconds,
            "limits": {key: _limit(of & stated, self.kept[key]) for key, stated in self.stated.items()},
        }

    def percentiles(self) -> list[dict[str, Any]]:
        """Judge the limits over all requests that a section is for."""
        found = []
        for place, section in enumerate(self.slos.sections):
            for name, limit in (section.percentiles or {}).items():
                measured, percentile = parse_statistic(name)
                value = self._over_all(measured, percentile, self.section == place)
                is_kept = value is None or value <= parse_time_ns(limit) / NS_PER_MS
                told: dict[str, Any] = {"statistic": name, "limit": limit, "value_ms": value, "is_kept": is_kept}
                scope = {"model": section.model, "priority": section.priority} if self.slos.is_list else {}
                found.append(scope | told)
        return found

    def columns(self, order: Sequence[int]) -> Mapping[str, list[bool | None]]:
        """Return per stated limit, and for all, whether each request kept it; None where it does not hold."""
        if not self.slos.sections:
            return {}
        told = {f"slo_{key}": _told(self.kept[key], stated, order) for key, stated in self.stated.items()}
        return told | {"slo_all": _told(self.is_good, self.section >= 0, order)}

    def _over_all(self, measured: str, percentile: float | None, of: Bools) -> float | None:
        if measured == "itl":
            parts = [gaps[of[part][owners]] for part, owners, gaps in self._table.times.gaps()]
            values = np.concatenate([np.empty(0), *parts]) / NS_PER_MS
        else:
            values = _measured(self._table, measured)[of & self._table.is_finished]
            values = values[~np.isnan(values)]
        if not len(values):
            return None
        return float(values.mean() if percentile is None else np.percentile(values, percentile))


def _measured(table: RequestTable, key: str) -> Floats:
    match key:
        case "ttft":
            return table.ttft_ms
        case "tpot":
            return table.tpot_ms
        case "e2e":
            return table.e2e_ms
        case "itl":
            return table.itl_ms.max
        case _:
            return table.itl_ms.p99


def _limit(of: Bools, kept: Bools) -> dict[str, Any]:
    return {"missed": int((of & ~kept).sum()), "attainment_pct": _percent(of & kept, of)}


def _percent(part: Bools, whole: Bools) -> float:
    return 100 * int(part.sum()) / int(whole.sum()) if whole.any() else 0.0


def _told(kept: Bools, holds: Bools, order: Sequence[int]) -> list[bool | None]:
    return [value if is_stated else None for value, is_stated in zip(kept[order].tolist(), holds[order], strict=True)]
