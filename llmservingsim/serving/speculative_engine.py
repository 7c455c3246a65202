"""An engine with speculative decoding.

As in vLLM V1 (0.19.0, v1/core/sched/scheduler.py and async_scheduler.py): drafts are further tokens of a running
request. A batch that verifies k of them computes ``1 + k`` tokens of the request and raises its counters as if all were
accepted; with a accepted, ``k - a`` are taken back when the batch ends and ``a + 1`` tokens come out. With asynchronous
scheduling the next batch is formed before that, on the optimistic counters; what its attention really reads is shorter
by the drafts that the running batch is going to refuse, which the engine, as the model, knows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from llmservingsim.serving.batch import Batch, Scheduled
from llmservingsim.serving.engine import Engine
from llmservingsim.serving.engine_terms import EngineConfig, Outcome, RejectReason
from llmservingsim.serving.kv import KVCacheManager
from llmservingsim.serving.request import Request
from llmservingsim.serving.scheduling import Scheduler, SchedulerConfig
from llmservingsim.serving.speculation import Speculation
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.workload.request import RequestSpec


class _Verdict(NamedTuple):
    """What the model says of one request in a batch.

    Attributes:
        num_drafts: Verified.
        num_accepted: Of them, those behind the answer's end included.
        num_emitted: Tokens that come out, 0 where the prompt is not computed to its end, or the answer was complete.
    """

    num_drafts: int
    num_accepted: int
    num_emitted: int


class _ShapeBuilder:
    """Sums a batch up."""

    def __init__(self) -> None:
        self.prefills: list[Chunk] = []
        self.decodes = self.kv_tokens = self.longest = self.drafts = self.pairs = self.total = 0

    def add(self, query: int, context: int, num_drafts: int) -> None:
        """Add a request that computes ``query`` tokens after ``context``, of which the last are drafts."""
        self.total += query
        if query != 1 + num_drafts:
            self.prefills.append(Chunk(query, context))
            return
        kv = context + query
        self.decodes += 1
        self.kv_tokens += kv
        self.longest = max(self.longest, kv)
        self.drafts += num_drafts
        self.pairs += num_drafts * kv - query * num_drafts // 2

    def shape(self) -> BatchShape:
        """Return the sum."""
        return BatchShape(
            tuple(self.prefills), self.decodes, self.kv_tokens, self.longest, self.total, self.drafts, self.pairs
        )


class SpeculativeEngine(Engine):
    """Serves requests on one instance, verifying drafts.

    Requests are scheduled by name: a `DecodeCohort` moves one token at a time.

    Args:
        index: Number of the instance.
        config: Limits.
        make_scheduler: Builds the scheduler; one that does not add `Request.num_spec_tokens` never verifies a draft.
        speculation: Says which drafts are accepted.
    """

    def __init__(
        self,
        index: int,
        config: EngineConfig,
        make_scheduler: Callable[[SchedulerConfig, KVCacheManager], Scheduler],
        speculation: Speculation,
    ) -> None:
        super().__init__(index, msgspec.structs.replace(config, decode_cohort=False), make_scheduler)
        self.speculation = speculation
        drafts = speculation.num_speculative_tokens
        self._tokens_ahead = config.scheduler.num_lookahead_tokens + drafts * self.depth
        self._verdicts: deque[dict[int, _Verdict]] = deque()  # per batch in flight, by request id
        self._to_refuse: dict[int, int] = {}  # drafts in flight that will be refused, by request id

    def reject_reason(self, spec: RequestSpec, *, hand_off: bool = False) -> RejectReason | None:
        """Tell why a request can never be served here, or None; its last drafts need room too."""
        reason = super().reject_reason(spec, hand_off=hand_off)
        tokens = spec.prompt_tokens if hand_off else self._length(spec) - 1
        most = min(tokens + self._tokens_ahead, self.config.scheduler.max_model_len)
        return RejectReason.NEVER_FITS if reason is None and not self.kv.can_ever_hold(most) else reason

    def complete(self, now_ns: int) -> Outcome:
        """Apply the oldest batch in flight, which has just ended."""
        outcome = super().complete(now_ns)
        self._verdicts.popleft()
        for request in (*outcome.finished, *outcome.handed):
            self._forget(request)
        return outcome

    def _let_go(self, request: Request) -> None:
        super()._let_go(request)
        self._forget(request)

    def _forget(self, request: Request) -> None:
        self.speculation.forget(request.request_id)
        self._to_refuse.pop(request.request_id, None)

    def _append(self, request: Request, generation: int) -> int:
        """Append what came out and take back what was refused; a preemption since then has voided the counters."""
        verdict = self._verdicts[0][request.request_id]
        if verdict.num_drafts:
            self.speculation.counts.add(verdict.num_drafts, verdict.num_accepted)
            request.accepted_drafts += verdict.num_accepted
        request.num_tokens += verdict.num_emitted
        if generation == request.num_preemptions:
            refused = verdict.num_drafts - verdict.num_accepted
            self._to_refuse[request.request_id] -= refused
            request.num_computed_tokens -= refused
            request.num_output_placeholders -= 1 + verdict.num_drafts
            self.kv.cache_full_blocks(request, request.num_computed_tokens - request.num_output_placeholders)
            self._note_end(request, bool(request.num_output_placeholders))
        return verdict.num_emitted

    def _launch(self, scheduled: list[tuple[Request, int]]) -> Batch:
        """Raise the requests' counters as if every draft were accepted, and describe the batch as it will be."""
        entries = []
        verdicts: dict[int, _Verdict] = {}
        shape = _ShapeBuilder()
        num_prompt_tokens = 0
        for request, tokens in scheduled:
            computed = request.num_computed_tokens
            if computed < request.num_prompt_tokens:
                num_prompt_tokens += min(computed + tokens, request.num_prompt_tokens) - computed
            request.num_computed_tokens = computed + tokens
            expected = request.num_tokens + request.num_output_placeholders
            to_refuse = self._to_refuse.get(request.request_id, 0) if request.num_output_placeholders else 0
            num_drafts = max(0, computed + tokens - expected)
            samples = computed + tokens >= expected
            if samples:
                verdict = self._judge(request, num_drafts, expected - to_refuse)
                verdicts[request.request_id] = verdict
                self._to_refuse[request.request_id] = to_refuse + num_drafts - verdict.num_accepted
                self._note_end(request, 1 + bool(request.num_output_placeholders))
                request.num_output_placeholders += 1 + num_drafts
                request.num_spec_tokens = self.speculation.num_speculative_tokens
            shape.add(tokens, computed - to_refuse, num_drafts)
            self.log.extra_tokens += tokens - 1
            if tokens != 1 + num_drafts or not samples or computed < request.num_prompt_tokens:
                self.log.chunks.extend((request.request_id, self.iterations, tokens - num_drafts))
            entries.append(Scheduled(request, tokens, request.num_preemptions, samples))
        self._verdicts.append(verdicts)
        return Batch(self.iterations, entries, 0, shape.shape(), num_prompt_tokens)

    def _judge(self, request: Request, num_drafts: int, length: int) -> _Verdict:
        """Let the model verify drafts behind the first ``length`` tokens, those in flight included."""
        left = self._final_tokens[request.request_id] - length
        if left <= 0 or not num_drafts:
            return _Verdict(num_drafts, 0, int(left > 0))
        accepted = self.speculation.verify(request.request_id, request.num_prompt_tokens, length, num_drafts)
        return _Verdict(num_drafts, accepted, min(accepted + 1, left))

    def _note_end(self, request: Request, batches_in_flight: int) -> None:
        """Note whether the batches in flight bring the last token even if they accept no draft.

        As in vLLM, drafts are never cut to what an answer still lacks: a uniform batch replays a CUDA graph.
        """
        sure = request.num_tokens + batches_in_flight
        request.awaits_last_token = sure >= self._final_tokens[request.request_id]
