"""What a client asks for."""

from __future__ import annotations

import msgspec


class RequestSpec(msgspec.Struct, frozen=True, gc=False):
    """One call, as the trace states it.

    Attributes:
        request_id: Counts every call in file order from 0; the calls of a session count in their order.
        arrival_ns: When the client sends it.
        prompt_tokens: Length of the prompt, at least 1.
        output_tokens: Tokens to generate, at least 1. Schedulers and routers never see it.
        token_ids: Prompt ids followed by output ids; None if the trace has none (no part in prefix caching).
        session_id: Session that the call belongs to, or None.
        priority: Smaller is served earlier under the priority policy.
        model: Model asked for, or None where the cluster serves one.
        abort_after_ns: The client cancels the call so long after its arrival, if it has not ended by then; None if not.
    """

    request_id: int
    arrival_ns: int
    prompt_tokens: int
    output_tokens: int
    token_ids: tuple[int, ...] | None = None
    session_id: str | None = None
    priority: int = 0
    model: str | None = None
    abort_after_ns: int | None = None
