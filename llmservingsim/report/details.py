"""What is kept of a request beside its record: small, and enough to compute the rest when results are written."""

from __future__ import annotations

import msgspec

from llmservingsim.instance import Instance
from llmservingsim.serving import Request
from llmservingsim.serving.batch_log import Runs
from llmservingsim.workload import RequestSpec


class RequestDetail(msgspec.Struct, frozen=True, gc=False):
    """Beside a `RequestRecord`.

    Attributes:
        priority: That its client asked for.
        is_routed: Whether it was at any instance.
        engine: Index of the instance that gave it tokens, the last one.
        token_batches: Batches of that instance that gave it tokens.
        first_elsewhere_ns: When it got its first token at another instance; -1 if it did not.
        prefilled_ns: When its prompt had been computed; -1 if that never happened.
        recalled: Tier and tokens of what came from there at first admission.
        preempted_ns: For how long it was preempted, before and after its prompt had been computed.
        recomputed_tokens, swapped_tokens, accepted_drafts: As `Request` has them.
    """

    priority: int
    is_routed: bool = False
    engine: int = -1
    token_batches: Runs | None = None
    first_elsewhere_ns: int = -1
    prefilled_ns: int = -1
    recalled: tuple[tuple[str, int], ...] = ()
    recomputed_tokens: int = 0
    swapped_tokens: int = 0
    accepted_drafts: int = 0
    preempted_ns: tuple[int, int] = (0, 0)


def detail_of(spec: RequestSpec, instance: Instance, request: Request | None) -> RequestDetail:
    """Keep what is needed of a request that ended at ``instance``; None if it never got there."""
    if request is None:
        return RequestDetail(spec.priority)
    is_first_elsewhere = request.prefill_instance >= 0 and not instance.engine.samples_first_token_twice
    return RequestDetail(
        spec.priority,
        True,
        instance.index,
        request.token_batches,
        request.first_token_ns if is_first_elsewhere else -1,
        request.prefilled_ns,
        request.recalled,
        request.recomputed_tokens,
        request.swapped_tokens,
        request.accepted_drafts,
        request.preempted_ns,
    )
