"""The sections of the run file that describe how clients behave."""

from __future__ import annotations

from typing import Literal

import msgspec

from llmservingsim.config.quantities import Count, check_quantities
from llmservingsim.units import parse_time_ns


class TimeoutSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When clients give up; null means never. `docs/concepts/dynamics.md` says what becomes of the request.

    Attributes:
        ttft: A client that has waited so long for its first token, as ``"10s"``, cancels.
        e2e: So does one that has waited so long for its last token. Both count from arrival.
        session: What follows a call that was given up: ``continue`` sends the session's next call as after an answer,
            ``end`` none.
    """

    ttft: str | None = None
    e2e: str | None = None
    session: Literal["continue", "end"] = "continue"

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "ttft", "e2e")


class ClientSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Clients that wait for an answer before they send the next call, instead of a load that comes whatever happens.

    Attributes:
        max_concurrency: Most calls under way, as ``vllm bench serve --max-concurrency``. A call of the workload is sent
            when it has arrived and one of so many clients is free.
        think_time: From the end of a call until its client is free again, as ``"2s"``.
    """

    max_concurrency: Count
    think_time: str = "0ns"

    def __post_init__(self) -> None:
        check_quantities(self, parse_time_ns, "think_time", may_be_zero=True)
