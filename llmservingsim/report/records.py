"""What is known of a request when it ended, and of a scope at a moment."""

from __future__ import annotations

import msgspec


class RequestRecord(msgspec.Struct, frozen=True, gc=False):
    """A row of requests.csv; times in nanoseconds, None where they do not apply.

    Attributes:
        instance: That served it, or prefilled it where prefill and decode are split; of a request that went to none
            the first that serves its model.
        decode_instance: That decoded it where they are split.
        cached_tokens: Prompt tokens found in the prefix cache at first admission, lower tiers included.
        status: ``finished``, ``rejected`` or ``aborted``.
        reason: Why it was rejected, or the limit at which its client gave up; not a column.
    """

    request_id: int
    session_id: str | None
    model: str
    instance: int
    decode_instance: int | None
    arrival_ns: int
    scheduled_ns: int | None
    first_token_ns: int | None
    finish_ns: int | None
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    preemptions: int
    status: str
    reason: str | None = None

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token, from arrival."""
        return None if self.first_token_ns is None else (self.first_token_ns - self.arrival_ns) / 1e6

    @property
    def e2e_ms(self) -> float | None:
        """Time to last token, from arrival."""
        return None if self.finish_ns is None else (self.finish_ns - self.arrival_ns) / 1e6

    @property
    def tpot_ms(self) -> float | None:
        """Mean time per output token after the first; None for a single token."""
        if self.finish_ns is None or self.first_token_ns is None or self.output_tokens < 2:
            return None
        return (self.finish_ns - self.first_token_ns) / 1e6 / (self.output_tokens - 1)


REQUEST_COLUMNS = RequestRecord.__struct_fields__[:-1]


class Sample(msgspec.Struct, frozen=True, gc=False):
    """A row of timeseries.csv: rates over the interval that ends at ``time_s``, states at its end.

    Attributes:
        scope: ``cluster``, ``node:<i>`` or ``instance:<i>``.
        npu_memory_bytes: Weights and KV blocks, held or cached, on all devices of the scope.
        prefix_hit_pct: Of the prompt tokens looked up since the start of the run, found on the devices.
        cpu_memory_bytes, cxl_memory_bytes, power_w: None where not simulated.
    """

    time_s: float
    scope: str
    prompt_tokens_per_s: float
    generation_tokens_per_s: float
    running: int
    waiting: int
    npu_memory_bytes: int
    npu_memory_pct: float
    cpu_memory_bytes: int | None
    cxl_memory_bytes: int | None
    prefix_hit_pct: float | None
    power_w: float | None


SAMPLE_COLUMNS = Sample.__struct_fields__
