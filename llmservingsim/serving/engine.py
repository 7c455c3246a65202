"""One instance's engine: takes requests in, forms batches, applies what they computed.

The loop of vLLM's engine core (vllm 0.19.0, v1/engine/core.py): drain the input queue, schedule, launch; with
asynchronous scheduling a second batch is formed while the first runs, so that in steady state batch ``k + 2`` is
formed the moment batch ``k`` ends. A request that arrives while ``k`` runs is therefore first computed by
``k + 2``, and blocks freed by ``k`` are used again by ``k + 2``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from llmservingsim.serving.batch import Batch, Scheduled
from llmservingsim.serving.batch_log import BatchLog, note_batch
from llmservingsim.serving.cohort import DecodeCohort
from llmservingsim.serving.engine_terms import EngineConfig, Outcome, RejectReason
from llmservingsim.serving.kv import BlockHash, KVCacheManager, hash_blocks
from llmservingsim.serving.kv.tiers import TierRead
from llmservingsim.serving.polling import KvPolling
from llmservingsim.serving.remote import ExpectingScheduler, Load, LoadingScheduler
from llmservingsim.serving.request import Request, RequestStatus
from llmservingsim.serving.scheduling import CohortScheduler, Scheduler, SchedulerConfig, ask
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.workload.request import RequestSpec


class Engine:
    """Serves requests on one instance.

    Args:
        index: Number of the instance.
        config: Limits.
        make_scheduler: Builds the scheduler, usually `VllmScheduler`.

    Attributes:
        samples_first_token_twice: Where prefill and decode are split, the first token that the prefill side samples is
            thrown away, and the decode side computes the prompt's last position and samples it again.
        polling: When the engine hears that KV has arrived.
        log: Of its batches.
    """

    def __init__(
        self, index: int, config: EngineConfig, make_scheduler: Callable[[SchedulerConfig, KVCacheManager], Scheduler]
    ) -> None:
        self.index = index
        self.config = config
        self.kv = KVCacheManager(
            config.num_gpu_blocks,
            config.block_size,
            enable_prefix_caching=config.enable_prefix_caching,
            recompute_last_hit=config.recompute_last_hit,
        )
        self._final_tokens: dict[int, int] = {}
        self._in_flight: deque[Batch] = deque()
        self.cohort = DecodeCohort(self.kv, self._final_tokens, self._in_flight)
        self.scheduler = make_scheduler(config.scheduler, self.kv)
        self._ask = ask(self.scheduler, self._final_tokens)
        in_step = config.decode_cohort and not config.scheduler.one_batch_per_request
        if in_step and isinstance(self.scheduler, CohortScheduler):
            self.scheduler.adopt(self.cohort)
        self.iterations = 0
        self.log = BatchLog()
        self._incoming: list[Request] = []
        self._aborted: list[Request] = []  # still held: the engine loop has not come to a boundary
        self.samples_first_token_twice = False
        self.polling = KvPolling()
        stages = config.pipeline_parallel_size
        self._depth = stages if stages > 1 else 2 if config.async_scheduling else 1
        self._blocked = False

    @property
    def depth(self) -> int:
        """Batches that may be in flight at once."""
        return self._depth

    @property
    def num_running(self) -> int:
        """Requests in the running list."""
        return len(self.scheduler.running)

    @property
    def num_waiting(self) -> int:
        """Requests that wait for admission, those not yet seen by the engine loop included."""
        return self.scheduler.num_waiting + len(self._incoming)

    @property
    def holds_requests(self) -> bool:
        """Whether any request is not finished."""
        return bool(self._final_tokens)

    @property
    def is_idle(self) -> bool:
        """Whether no request is left, nor anything of one: no batch in flight, no block held."""
        return not (self._final_tokens or self._in_flight or self.kv.pool.num_held)

    def holds(self, request: Request) -> bool:
        """Whether a request that was queued here has not ended here."""
        return request.request_id in self._final_tokens

    def reject_reason(self, spec: RequestSpec, *, hand_off: bool = False) -> RejectReason | None:
        """Tell why a request can never be served here, or None; one to hand off needs room for its prompt alone."""
        if spec.prompt_tokens >= self.config.scheduler.max_model_len:
            return RejectReason.PROMPT_TOO_LONG
        if not self._fits_one_batch(spec.prompt_tokens):
            return RejectReason.PROMPT_NOT_SPLIT
        tokens = spec.prompt_tokens if hand_off else self._length(spec) - 1  # the last token needs no KV
        if not self.kv.can_ever_hold(tokens):
            return RejectReason.NEVER_FITS
        return None

    def add(self, spec: RequestSpec, *, hand_off: bool = False) -> Request:
        """Queue a request; the engine loop sees it at its next boundary.

        Args:
            spec: What is asked for.
            hand_off: Another instance goes on after the first token, if there is more than one.
        """
        request = Request(spec.request_id, spec.arrival_ns, spec.prompt_tokens, spec.priority, self._hashes(spec))
        length = self._length(spec)
        request.hand_off = hand_off and (self.samples_first_token_twice or length > spec.prompt_tokens + 1)
        self._final_tokens[spec.request_id] = spec.prompt_tokens + 1 if request.hand_off else length
        self._incoming.append(request)
        return request

    def go_on(self, spec: RequestSpec, prefilled: Request, prefill_instance: int) -> Request:
        """Queue a request that another instance has prefilled; its prompt's KV is loaded from there.

        If that instance had to give up the blocks while the first token was on its way, the prompt is computed again.
        """
        request = self.expect(spec, prefill_instance)
        self.take_over(request, prefilled)
        if not prefilled.block_ids:
            request.remote_tokens = 0
        return request

    def expect(self, spec: RequestSpec, prefill_instance: int) -> Request:
        """Queue a request whose prompt another instance computes, so that it takes the blocks for its KV in time.

        It goes on when `take_over` has told what became of it there and `loaded` that its KV has arrived.
        """
        request = Request(spec.request_id, spec.arrival_ns, spec.prompt_tokens, spec.priority, self._hashes(spec))
        request.prefill_instance = prefill_instance
        request.remote_tokens = spec.prompt_tokens
        request.num_output_placeholders = 0 if self.samples_first_token_twice else 1
        self._final_tokens[spec.request_id] = self._length(spec)
        self._incoming.append(request)
        return request

    def take_over(self, request: Request, prefilled: Request) -> None:
        """Let an expected request know what became of it where it was prefilled."""
        known = ["cached_tokens", "lost_tokens", "prefilled_ns", "recalled", "recomputed_tokens", "scheduled_ns"]
        known += ["swapped_tokens", "preempted_ns"]
        if not self.samples_first_token_twice:
            known += ["num_tokens", "first_token_ns", "last_token_ns"]
        for name in known:
            setattr(request, name, getattr(prefilled, name))
        request.num_output_placeholders = 0
        request.earlier_preemptions = prefilled.num_preemptions
        prefilled.continued_as = request

    def withdraw(self, request: Request) -> None:
        """Forget an expected request, whose KV will not come, and free its blocks."""
        del self._final_tokens[request.request_id]
        if request in self._incoming:
            self._incoming.remove(request)
        else:
            assert isinstance(self.scheduler, ExpectingScheduler)
            self.scheduler.withdraw(request)

    def abort(self, request: Request) -> int:
        """Let go of a request whose client gave up; return how many tokens it had been given.

        The engine loop hears of it at its next boundary: at once if nothing is in flight, else before it applies what
        the oldest batch computed. Its tokens in batches in flight are lost. Its blocks are free from then on, unless
        its KV is on its way from elsewhere: then when that has arrived.
        """
        tokens = self.cohort.num_tokens(request) - request.num_prompt_tokens
        if self._in_flight:
            self._aborted.append(request)
        else:
            self._let_go(request)
        return tokens

    def take_loads(self) -> list[Load]:
        """Return the loads that have become possible since the last call."""
        return self.scheduler.take_loads() if isinstance(self.scheduler, LoadingScheduler) else []

    def loaded(self, request: Request) -> None:
        """The KV of a load has arrived; the engine loop sees it at a boundary."""
        self.polling.arrived(request)
        if not (self._in_flight and self.polling.is_at_launch):
            self._hear_of(self.polling.take())

    def recalled(self, read: TierRead) -> None:
        """KV has come up from lower tiers."""
        assert self.kv.tiers is not None
        self.kv.tiers.read_ended(read)
        if read.request.status in (RequestStatus.WAITING_FOR_REMOTE_KVS, RequestStatus.FINISHED):
            self.loaded(read.request)

    def release(self, request: Request) -> None:
        """Give up the blocks of a request that was handed on."""
        self.kv.free(request)

    def next_batch(self, now_ns: int) -> Batch | None:
        """Form the batch that can be launched now, or return None.

        While a batch runs, one attempt is made to form the next; if it finds nothing to do the engine waits for
        the running batch, as vLLM's loop does.
        """
        if self._blocked or len(self._in_flight) >= self._depth:
            return None
        if self._aborted:
            self._hear_aborts()
        for request in self._incoming:
            self.scheduler.add(request)
        self._incoming.clear()
        scheduled = self._schedule(now_ns)
        if not (scheduled or self.cohort or self._in_flight) and self._hear_of(self.polling.take()):
            scheduled = self._schedule(now_ns)
        if not scheduled and not self.cohort:
            self._blocked = bool(self._in_flight)
            return None
        batch = self._launch(scheduled)
        if self.polling.is_at_launch:
            self.polling.launched(batch.index)
        if not self._in_flight:
            self.log.busy_begins(batch.index, now_ns)
        self._in_flight.append(batch)
        if self.kv.tiers is not None:
            self.kv.tiers.batch_formed(batch.index)
        self.cohort.leave_after(batch)
        self.iterations += 1
        return batch

    def complete(self, now_ns: int) -> Outcome:
        """Apply the oldest batch in flight, which has just ended."""
        if self._aborted:
            self._hear_aborts()
        batch = self._in_flight.popleft()
        self._blocked = False
        self.log.ended_ns.append(now_ns)
        if not batch.index % 16:
            self.log.look(batch.index, self.kv.pool.num_free)
        finished: list[Request] = []
        handed: list[Request] = []
        num_sampled = batch.num_in_step
        gaps = {now_ns - self.cohort.completed_ns: num_sampled} if num_sampled else {}
        self.cohort.batch_ended(batch, now_ns)
        if self.polling.is_at_launch:
            self._hear_of(self.polling.ended(batch.index))
        final_tokens = self._final_tokens
        for request, _, generation, samples in batch.scheduled:
            if not samples or request.request_id not in final_tokens:
                self.log.num_unsampled += 1
                continue
            num_sampled += self._append(request, generation)
            note_batch(request.token_batches, batch.index)
            if request.first_token_ns < 0:
                request.first_token_ns = now_ns
                self.log.num_first += 1
                if request.prefilled_ns < 0:
                    request.prefilled_ns = now_ns
            else:
                gap = now_ns - request.last_token_ns
                gaps[gap] = gaps.get(gap, 0) + 1
            request.last_token_ns = now_ns
            if request.num_tokens >= final_tokens[request.request_id]:
                if not (finished or handed):
                    self.log.look(batch.index, self.kv.pool.num_free)
                del final_tokens[request.request_id]
                if request.hand_off:
                    num_sampled -= self.samples_first_token_twice
                    self._hand_off(request)
                    handed.append(request)
                else:
                    self.scheduler.finish(request)
                    finished.append(request)
        if self.kv.tiers is not None:
            self.kv.tiers.batch_ended(batch.index, self.iterations - 1)
        return Outcome(batch, finished, handed, num_sampled, gaps)

    def _append(self, request: Request, generation: int) -> int:
        """Give a request what the batch that ends has sampled for it; return how many tokens that are."""
        request.num_tokens += 1
        if generation == request.num_preemptions:
            request.num_output_placeholders -= 1
            self.kv.cache_full_blocks(request, request.num_computed_tokens - request.num_output_placeholders)
        return 1

    def _hear_aborts(self) -> None:
        aborted, self._aborted = self._aborted, []
        for request in aborted:
            self._let_go(request)

    def _let_go(self, request: Request) -> None:
        """Release a request wherever it is; without a final length, batches in flight give it nothing."""
        del self._final_tokens[request.request_id]
        if request in self._incoming:
            self._incoming.remove(request)
            request.status = RequestStatus.FINISHED
            return
        self.cohort.leave(request)
        self.scheduler.finish(request)

    def _hand_off(self, request: Request) -> None:
        """End a request here without giving up its blocks; its client never sees a token that is sampled twice."""
        held, request.block_ids = request.block_ids, []
        self.scheduler.finish(request)
        request.block_ids = held
        if self.samples_first_token_twice:
            request.num_tokens -= 1
            request.first_token_ns = request.last_token_ns = -1

    def describe_waiting(self) -> list[str]:
        """Say of each held request what it waits for; for the message of a deadlock."""
        free = self.kv.pool.num_free
        lines = [f"{request!r} runs" for request in self.scheduler.running]
        for request in [*self.scheduler.waiting(), *self._incoming]:
            if request.status is RequestStatus.WAITING_FOR_REMOTE_KVS:
                lines.append(f"{request!r} waits for the KV of its prompt")
                continue
            if not self._fits_one_batch(request.num_tokens):
                budget = self.config.scheduler.max_num_batched_tokens
                lines.append(f"{request!r} cannot be split; a batch takes {budget} tokens")
                continue
            needed = self.kv.blocks_for(request.num_tokens)
            lines.append(f"{request!r} waits for {needed} blocks; {free} of {self.kv.pool.num_usable} are free")
        return lines

    def _hear_of(self, arrived: Sequence[Request]) -> bool:
        """Let requests go on whose KV has arrived; tell whether there are any."""
        for request in arrived:
            assert isinstance(self.scheduler, LoadingScheduler)
            self.scheduler.loaded(request)
        return bool(arrived)

    def _schedule(self, now_ns: int) -> list[tuple[Request, int]]:
        """Ask for a batch, again where the scheduler only preempted: with nothing to wait for, vLLM goes round at once.

        Under the priority policy the first running request can be its own victim, which ends that step.
        """
        num_running = self.num_running
        scheduled = self._ask(now_ns)
        while not scheduled and not self.cohort and not self._in_flight and self.num_running < num_running:
            num_running = self.num_running
            scheduled = self._ask(now_ns)
        return scheduled

    def _fits_one_batch(self, num_tokens: int) -> bool:
        """Whether a batch can take up a sequence of this length: chunked, or within the token budget."""
        limits = self.config.scheduler
        if limits.enable_chunked_prefill or 0 < limits.long_prefill_token_threshold <= limits.max_num_batched_tokens:
            return True
        return num_tokens <= limits.max_num_batched_tokens

    def _length(self, spec: RequestSpec) -> int:
        """Tokens of the request at its end: generation stops at the model's length at the latest."""
        return min(spec.prompt_tokens + spec.output_tokens, self.config.scheduler.max_model_len)

    def _hashes(self, spec: RequestSpec) -> list[BlockHash]:
        if spec.token_ids is None or not self.config.enable_prefix_caching:
            return []
        return hash_blocks(spec.token_ids, self.config.block_size)

    def _launch(self, scheduled: list[tuple[Request, int]]) -> Batch:
        """Raise the requests' counters, as vLLM does before the device ran, and describe the batch."""
        cohort = self.cohort
        cohort.formed = self.iterations
        entries = []
        prefills = []
        decodes = total = len(cohort)
        num_prompt_tokens = 0
        decode_kv, longest_kv = cohort.kv_tokens, cohort.max_kv_tokens
        for request, tokens in scheduled:
            context = request.num_computed_tokens
            kv = context + tokens
            total += tokens
            if context < request.num_prompt_tokens:
                num_prompt_tokens += min(kv, request.num_prompt_tokens) - context
            if tokens == 1:
                decodes += 1
                decode_kv += kv
                longest_kv = kv if kv > longest_kv else longest_kv
            else:
                prefills.append(Chunk(tokens, context))
                self.log.extra_tokens += tokens - 1
            request.num_computed_tokens = kv
            expected = request.num_tokens + request.num_output_placeholders
            samples = kv >= expected
            if samples:
                request.num_output_placeholders += 1
                request.awaits_last_token = expected + 1 >= self._final_tokens[request.request_id]
            if tokens > 1 or not samples or context < request.num_prompt_tokens:
                self.log.chunks.extend((request.request_id, self.iterations, tokens))
            entries.append(Scheduled(request, tokens, request.num_preemptions, samples))
        shape = BatchShape(tuple(prefills), decodes, decode_kv, longest_kv, total)
        return Batch(self.iterations, entries, len(cohort), shape, num_prompt_tokens)
