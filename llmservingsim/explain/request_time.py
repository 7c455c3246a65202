"""Where the time of requests went, from arrival to the last token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmservingsim.explain.covers import Cover
from llmservingsim.report import RequestTable
from llmservingsim.serving.hold_ups import HoldUp
from llmservingsim.units import NS_PER_MS, NS_PER_S

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

QUEUED = {
    HoldUp.KV_BLOCKS: "queued_for_kv_blocks",
    HoldUp.MAX_NUM_SEQS: "queued_for_max_num_seqs",
    HoldUp.TOKEN_BUDGET: "queued_for_token_budget",
    HoldUp.KV_TRANSFER: "queued_for_kv_transfer",
    HoldUp.KV_RECALL: "queued_for_kv_recall",
}

PARTS = (
    "queued_at_router",
    *QUEUED.values(),
    "queued_otherwise",
    "prefill",
    "transfer_stall_kv_blocks",
    "transfer_stall",
    "transfer",
    "decode",
    "preempted",
)
"""These add up to the time from arrival to the last token."""


class RequestTimes:
    """Of the finished requests of a run.

    Args:
        table: All requests.
        hold_ups: Of each instance, when the head of its queue lacked what.
        sent_ns: When those that the router held went to their instance, by id.
    """

    def __init__(
        self, table: RequestTable, hold_ups: Sequence[Mapping[int, Cover]], sent_ns: Mapping[int, int]
    ) -> None:
        self._table = table
        self._hold_ups = hold_ups
        asked = [sent_ns.get(r.request_id, r.arrival_ns) for r in table.records]
        self._sent_ns = np.array(asked, dtype=np.int64)
        self.parts_ns = self._parts()

    def summarise(self, of: Bools) -> dict[str, Any]:
        """Return count, time and shares of the finished ones among some requests."""
        of = of & self._table.is_finished
        total_ns = int((self._table.finish_ns - self._table.arrival_ns)[of].sum())
        spent = {part: int(ns[of].sum()) for part, ns in self.parts_ns.items()}
        details = [self._table.details[row] for row in np.flatnonzero(of).tolist()]
        return {
            "finished": int(of.sum()),
            "e2e_s": total_ns / NS_PER_S,
            "shares": {part: ns / total_ns if total_ns else 0.0 for part, ns in spent.items()},
            "recomputed_tokens": sum(detail.recomputed_tokens for detail in details),
        }

    def mean_wait_s(self, part: str, of: Bools) -> float:
        """Return the mean of one part over the finished ones among some requests."""
        of = of & self._table.is_finished
        return float(self.parts_ns[part][of].mean()) / NS_PER_S if of.any() else 0.0

    def _parts(self) -> dict[str, Ints]:
        """Nanoseconds of every request by `PARTS`, 0 of those that did not finish."""
        table = self._table
        done = table.is_finished
        found: dict[str, Ints] = {part: np.zeros(len(done), dtype=np.int64) for part in PARTS}
        preempted = np.array([detail.preempted_ns for detail in table.details], dtype=np.int64).reshape(-1, 2)
        stall_ns, transfer_ns = (_to_ns(ms) for ms in (table.transfer_stall_ms, table.transfer_ms))
        queued = np.where(done, table.scheduled_ns - self._sent_ns, 0)
        found["queued_at_router"] = np.where(done, self._sent_ns - table.arrival_ns, 0)
        known = np.zeros(len(done), dtype=np.int64)
        for what, part in QUEUED.items():
            found[part] = self._held_up(what, table.instance, self._sent_ns, table.scheduled_ns)
            known += found[part]
        found["queued_otherwise"] = queued - known
        blocked = self._held_up(
            HoldUp.KV_BLOCKS, table.last_instance, table.prefilled_ns, table.prefilled_ns + stall_ns
        )
        found["prefill"] = table.prefilled_ns - table.scheduled_ns - preempted[:, 0]
        found["transfer_stall_kv_blocks"] = blocked
        found["transfer_stall"] = stall_ns - blocked
        found["transfer"] = transfer_ns
        found["decode"] = table.finish_ns - table.prefilled_ns - stall_ns - transfer_ns - preempted[:, 1]
        found["preempted"] = preempted.sum(axis=1)
        return {part: np.where(done, ns, 0) for part, ns in found.items()}

    def _held_up(self, what: HoldUp, instance: Ints, begin_ns: Ints, end_ns: Ints) -> Ints:
        """How much of a stretch of each finished request its instance's queue was held up by something."""
        found = np.zeros(len(instance), dtype=np.int64)
        for index, covers in enumerate(self._hold_ups):
            mine = np.flatnonzero(self._table.is_finished & (instance == index))
            if what in covers and len(mine):
                found[mine] = covers[what].within(begin_ns[mine], end_ns[mine])
        return found


def _to_ns(milliseconds: NDArray[np.float64]) -> Ints:
    return np.rint(np.nan_to_num(milliseconds) * NS_PER_MS).astype(np.int64)
