"""The section of the run file that says what a good answer is."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from llmservingsim.config.quantities import QuantityError, check_quantities
from llmservingsim.errors import ConfigError
from llmservingsim.units import parse_time_ns

SLO_LIMITS = ("ttft", "tpot", "itl", "itl_p99", "e2e")
"""What may be limited of each request."""

_OVER_ALL = re.compile(r"(ttft|tpot|itl|e2e)_(mean|p(\d+(?:\.\d+)?))")


class SloSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request must keep to count as good; null means no limit.

    Attributes:
        ttft: Time to first token, as ``"500ms"``.
        tpot: Mean time per output token after the first.
        itl: Every inter-token time of the request.
        itl_p99: The 99th percentile of these.
        e2e: Time to the last token.
        percentiles: Limits over all requests, such as ``{ttft_p99: 2s, itl_mean: 50ms}``: ``ttft``, ``tpot``, ``itl``
            or ``e2e`` with ``_mean`` or ``_p`` and a number up to 100.
        model: Of a section in a list: it holds for requests that this model serves.
        priority: Likewise: for requests of this priority.
    """

    ttft: str | None = None
    tpot: str | None = None
    itl: str | None = None
    itl_p99: str | None = None
    e2e: str | None = None
    percentiles: dict[str, str] | None = None
    model: str | None = None
    priority: int | None = None

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, *SLO_LIMITS)
        _check_percentiles(self.percentiles or {})

    @property
    def limits(self) -> dict[str, str]:
        """The limits of each request that are stated."""
        return {key: getattr(self, key) for key in SLO_LIMITS if getattr(self, key) is not None}


def parse_statistic(name: str) -> tuple[str, float | None]:
    """Read ``ttft_p99`` as what is measured and its percentile, None for the mean.

    Raises:
        QuantityError: If it is none.
    """
    found = _OVER_ALL.fullmatch(name)
    percentile = None if found is None or found[3] is None else float(found[3])
    if found is None or (percentile is not None and percentile > 100):
        raise QuantityError(
            f"percentiles: {name!r} is none; expected ttft, tpot, itl or e2e with _mean or _p and a number up to 100, "
            "such as ttft_p99"
        )
    return found[1], percentile


def _check_percentiles(stated: Mapping[str, str]) -> None:
    for name, text in stated.items():
        parse_statistic(name)
        try:
            limit_ns = parse_time_ns(text)
        except ConfigError as error:
            raise QuantityError(f"percentiles: {name}: {error}") from None
        if limit_ns <= 0:
            raise QuantityError(f"percentiles: {name}: expected more than 0, got {text!r}")
