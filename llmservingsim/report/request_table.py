"""What is measured of each request, as columns."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llmservingsim.report.details import RequestDetail
from llmservingsim.report.records import RequestRecord
from llmservingsim.report.token_gaps import Floats, GapStatistics, Ints, TokenTimes
from llmservingsim.transfer import TransferRecord
from llmservingsim.units import NS_PER_MS

_NEVER = -1


class RequestTable:
    """The requests of a run that ended, a row each.

    Latencies are in milliseconds, and nan where they do not apply.

    Args:
        records: Of the requests.
        details: What else is known of them, in the same order.
        ended_ns: Of each engine, when its batches ended.
        transfers: KV caches that crossed between instances.

    Attributes:
        arrival_ns, scheduled_ns, first_token_ns, finish_ns, prefilled_ns: Times; -1 where they do not apply.
        prompt_tokens, cached_tokens, output_tokens: As in the records.
        is_finished: Whether the request finished.
        instance: That served it first, or the first that could have.
        last_instance: That decoded it, or ``instance``.
    """

    def __init__(
        self,
        records: Sequence[RequestRecord],
        details: Sequence[RequestDetail],
        ended_ns: Sequence[array[int]],
        transfers: Iterable[TransferRecord] = (),
    ) -> None:
        self.records = records
        self.details = details
        self.arrival_ns = _ints(r.arrival_ns for r in records)
        self.scheduled_ns = _times(r.scheduled_ns for r in records)
        self.first_token_ns = _times(r.first_token_ns for r in records)
        self.finish_ns = _times(r.finish_ns for r in records)
        self.prefilled_ns = _ints(d.prefilled_ns for d in details)
        self.prompt_tokens = _ints(r.prompt_tokens for r in records)
        self.cached_tokens = _ints(r.cached_tokens for r in records)
        self.output_tokens = _ints(r.output_tokens for r in records)
        self.is_finished = self.finish_ns != _NEVER
        self.instance = _ints(r.instance for r in records)
        decoded = _times(r.decode_instance for r in records)
        self.last_instance = np.where(decoded == _NEVER, self.instance, decoded)
        self._ended_ns = ended_ns
        self._transfers = transfers

    @cached_property
    def queueing_ms(self) -> Floats:
        """From arrival to the first batch, time at the router included."""
        return _between(self.arrival_ns, self.scheduled_ns)

    @cached_property
    def prefill_ms(self) -> Floats:
        """From the first batch until the prompt was computed."""
        return _between(self.scheduled_ns, self.prefilled_ns)

    @cached_property
    def transfer_stall_ms(self) -> Floats:
        """From there until the first byte of KV left for another instance; 0 if nothing had to wait."""
        return _between(self.prefilled_ns, self._crossed_ns[0])

    @cached_property
    def transfer_ms(self) -> Floats:
        """From there until its last byte had arrived; 0 if it had before."""
        return _between(*self._crossed_ns)

    @cached_property
    def decode_ms(self) -> Floats:
        """From there to the last token."""
        return _between(self._crossed_ns[1], self.finish_ns)

    @cached_property
    def ttft_ms(self) -> Floats:
        """From arrival to the first token."""
        return _between(self.arrival_ns, self.first_token_ns)

    @cached_property
    def e2e_ms(self) -> Floats:
        """From arrival to the last token."""
        return _between(self.arrival_ns, self.finish_ns)

    @cached_property
    def tpot_ms(self) -> Floats:
        """Mean time per output token after the first."""
        after = np.where(self.output_tokens > 1, self.output_tokens - 1, np.nan)
        return _between(self.first_token_ns, self.finish_ns) / after

    @cached_property
    def times(self) -> TokenTimes:
        """When every message came."""
        return TokenTimes(self._ended_ns, self.details, self.output_tokens.tolist())

    @cached_property
    def itl_ms(self) -> GapStatistics:
        """Over each request's own inter-token times."""
        return self.times.statistics()

    @cached_property
    def _crossed_ns(self) -> tuple[Ints, Ints]:
        """When KV began and ended to cross, both no earlier than the prompt was computed; of finished requests."""
        begin, end = (np.where(self.is_finished, self.prefilled_ns, _NEVER) for _ in range(2))
        place = {record.request_id: row for row, record in enumerate(self.records) if record.finish_ns is not None}
        for crossed in self._transfers:
            row = place.get(crossed.request_id)
            if row is not None:
                begin[row] = max(begin[row], crossed.start_ns)
                end[row] = max(end[row], crossed.end_ns)
        return begin, end


def _ints(values: Iterable[int]) -> Ints:
    return np.fromiter(values, dtype=np.int64)


def _times(values: Iterable[int | None]) -> Ints:
    return _ints(_NEVER if value is None else value for value in values)


def _between(start_ns: Ints, end_ns: Ints) -> Floats:
    """Milliseconds from one to the other, where both happened."""
    happened: NDArray[np.bool_] = (start_ns != _NEVER) & (end_ns != _NEVER)
    return np.where(happened, (end_ns - start_ns) / NS_PER_MS, np.nan)
