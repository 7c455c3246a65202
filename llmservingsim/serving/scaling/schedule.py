"""Numbers of instances by the clock."""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Annotated

from msgspec import Meta, Struct

from llmservingsim.config.quantities import QuantityError, check_quantities
from llmservingsim.serving.scaling.protocol import ScalingView
from llmservingsim.units import parse_time_ns


class ScheduledCount(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of a schedule.

    Attributes:
        at: Time since the start of the run, or of the period, as ``"8h"``.
        instances: How many there shall be from then on.
    """

    at: str
    instances: Annotated[int, Meta(ge=0)]

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "at", may_be_zero=True)


class ScheduleOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of `schedule`.

    Attributes:
        times: When there shall be how many, by rising time.
        period: After which the times repeat, as ``"24h"``; by default never.
    """

    times: Annotated[tuple[ScheduledCount, ...], Meta(min_length=1)]
    period: str | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "period")
        times = [parse_time_ns(line.at) for line in self.times]
        if any(later <= earlier for earlier, later in pairwise(times)):
            raise QuantityError("times: expected them to rise")
        if self.period is not None and times[-1] >= parse_time_ns(self.period):
            raise QuantityError(f"times: expected all of them before the period's end, {self.period}")


class SchedulePolicy:
    """So many from then on.

    Before the first time there are as many as the last says if the schedule repeats, else as many as there are.
    """

    Options = ScheduleOptions

    def __init__(self, options: ScheduleOptions) -> None:
        self._times_ns = [parse_time_ns(line.at) for line in options.times]
        self._counts = [line.instances for line in options.times]
        self._period_ns = parse_time_ns(options.period) if options.period is not None else None

    def desired(self, view: ScalingView) -> int:
        """Return what the schedule says of now."""
        now_ns = view.now_ns if self._period_ns is None else view.now_ns % self._period_ns
        line = bisect_right(self._times_ns, now_ns) - 1
        return self._counts[line] if line >= 0 or self._period_ns is not None else view.num_up

    def next_change_ns(self, now_ns: int) -> int | None:
        """Return the next time in the schedule."""
        if self._period_ns is None:
            start_ns, within_ns = 0, now_ns
        else:
            start_ns = now_ns // self._period_ns * self._period_ns
            within_ns = now_ns - start_ns
        line = bisect_right(self._times_ns, within_ns)
        if line < len(self._times_ns):
            return start_ns + self._times_ns[line]
        return None if self._period_ns is None else start_ns + self._period_ns + self._times_ns[0]
