"""Which requests the next iteration computes, decided as vLLM V1 does (vllm 0.19.0, v1/core/sched/scheduler.py).

There is no prefill and no decode phase: an iteration raises every request's ``num_computed_tokens`` towards its
number of tokens, running requests first, in list order, then waiting ones, until the token budget is spent.
"""

from __future__ import annotations

from collections import deque

from llmservingsim.serving.cohort import DecodeCohort
from llmservingsim.serving.hold_ups import HoldUp, HoldUpLog, Refusal
from llmservingsim.serving.kv import KVCacheManager
from llmservingsim.serving.kv.tiers import TierHit
from llmservingsim.serving.queue import FcfsQueue, PriorityQueue, RequestQueue
from llmservingsim.serving.remote import Load
from llmservingsim.serving.request import Request, RequestStatus
from llmservingsim.serving.scheduling import SchedulerConfig


class VllmScheduler:
    """vLLM V1's scheduler.

    Args:
        config: Limits and policy.
        kv: Blocks of the instance.

    Attributes:
        load_kv_async: Whether requests wait for KV that comes from elsewhere before they are scheduled; if not, they
            are scheduled at once, and their batch waits.
        hold_ups: What the head of the queue lacked, and since when.
    """

    def __init__(self, config: SchedulerConfig, kv: KVCacheManager) -> None:
        self.config = config
        self.kv = kv
        self._cohort: DecodeCohort | None = None
        self.running: list[Request] = []
        self._by_name: list[Request] = []  # running requests outside the cohort; those that compute come after it
        self._admissions = 0
        self._refusal: Refusal | None = None
        self.hold_ups = HoldUpLog()
        self._now_ns = 0
        self.load_kv_async = True
        self._loads: list[Load] = []  # not yet asked for
        self._loading: dict[Request, None] = {}
        self._loaded: deque[Request] = deque()
        self._waiting: RequestQueue = PriorityQueue() if config.policy == "priority" else FcfsQueue()
        self._is_alone = config.one_batch_per_request
        self._longest_chunk = config.long_prefill_token_threshold or config.max_num_batched_tokens
        self._allocate = self._allocate_ahead if config.num_lookahead_tokens else kv.allocate

    def adopt(self, cohort: DecodeCohort) -> None:
        """Hand requests that decode in step to a cohort, which changes no decision and saves most of the work."""
        self._cohort = cohort

    @property
    def _recalls_aside(self) -> bool:
        """Whether a request waits beside the queue for what comes up from lower tiers, instead of in its batch."""
        return self.kv.tiers is not None and self.kv.tiers.options.recall == "async"

    @property
    def num_waiting(self) -> int:
        """Requests that wait for admission."""
        return len(self._waiting) + len(self._loading) + len(self._loaded)

    def waiting(self) -> list[Request]:
        """Return the waiting requests in order: whose KV has come, whose KV is on its way, and the rest."""
        return [*self._loaded, *self._loading, *self._waiting]

    def add(self, request: Request) -> None:
        """Take in a new request."""
        self._waiting.add(request)

    def schedule(self, now_ns: int) -> list[tuple[Request, int]]:
        """Form a batch: running requests first, then, if nobody was preempted, waiting ones."""
        self._now_ns = now_ns
        budget = self._schedule_cohort()
        batch, budget, preempted = self._schedule_running(budget)
        self._let_join(batch)
        held_up = HoldUp.KV_BLOCKS if preempted else HoldUp.NOTHING
        if not preempted and self._loaded:
            budget = self._schedule_loaded(batch, budget, now_ns)
        if not preempted and self._waiting:
            held_up = self._schedule_waiting(batch, budget, now_ns)
        if self._loading or self._loaded:
            held_up = self._aside(held_up)
        if held_up is not self.hold_ups.last:
            self.hold_ups.note(held_up, now_ns)
        return batch

    def _aside(self, held_up: HoldUp) -> HoldUp:
        """Tell what holds up those who wait beside the queue, unless those in it lack blocks."""
        if held_up is HoldUp.KV_BLOCKS:
            return held_up
        if self._loaded:
            return HoldUp.MAX_NUM_SEQS if len(self.running) >= self.config.max_num_seqs else HoldUp.TOKEN_BUDGET
        if held_up is not HoldUp.NOTHING:
            return held_up
        return HoldUp.KV_TRANSFER if next(iter(self._loading)).prefill_instance >= 0 else HoldUp.KV_RECALL

    def take_loads(self) -> list[Load]:
        """Return the loads whose blocks were taken since the last call."""
        loads, self._loads = self._loads, []
        return loads

    def loaded(self, request: Request) -> None:
        """Let a request go on whose KV has come; its blocks can be found from now on."""
        if request.status is RequestStatus.FINISHED:  # its client gave up while the KV was on its way
            self.kv.free(request)
            return
        del self._loading[request]
        request.num_computed_tokens = max(request.num_computed_tokens, request.remote_tokens)
        request.remote_tokens = 0
        self.kv.cache_full_blocks(request, request.num_computed_tokens)
        if request.num_computed_tokens == request.num_tokens:  # no token to go on with: compute the last one again
            request.num_computed_tokens -= 1
        self._loaded.append(request)

    def withdraw(self, request: Request) -> None:
        """Forget a request whose KV will not come."""
        if request in self._loading:
            del self._loading[request]
            self.kv.free(request)
        else:
            self._waiting.remove(request)

    def finish(self, request: Request) -> None:
        """Release a request: it produced its last token, or its client gave up."""
        is_written = False
        if request.status is RequestStatus.RUNNING:
            self._drop(request)
        elif request.status is RequestStatus.WAITING_FOR_REMOTE_KVS:
            is_written = self._stop_loading(request)
        else:  # preempted while its last token was in flight, or never admitted
            self._waiting.remove(request)
            if self.kv.tiers is not None:
                self.kv.tiers.forget(request)
        if not is_written:
            self.kv.free(request)
        request.status = RequestStatus.FINISHED

    def _stop_loading(self, request: Request) -> bool:
        """Forget a request that waits for its KV; return whether that is being written into its blocks."""
        if request not in self._loading:
            self._loaded.remove(request)
            return False
        del self._loading[request]
        asked = [load for load in self._loads if load.request is not request]
        is_written = len(asked) == len(self._loads)
        self._loads = asked
        return is_written

    def _schedule_cohort(self) -> int:
        """Take the cohort's blocks and return the budget it leaves; without enough of either, dissolve it."""
        budget = self.config.max_num_batched_tokens
        cohort = self._cohort
        if not cohort:
            if len(self._by_name) != len(self.running):
                self._by_name = list(self.running)
            return budget
        if len(cohort) > budget or cohort.blocks_needed() + self._blocks_wanted() > self.kv.pool.num_free:
            cohort.dissolve()
            self._by_name = list(self.running)
            return budget
        cohort.allocate()
        return budget - len(cohort)

    def _blocks_wanted(self) -> int:
        """The most blocks that requests outside the cohort may need now."""
        wanted = 0
        for request in self._by_name:
            if not request.awaits_last_token:
                tokens = request.num_tokens + request.num_output_placeholders
                wanted += max(0, self.kv.blocks_for(tokens) - len(request.block_ids))
        return wanted

    def _let_join(self, batch: list[tuple[Request, int]]) -> None:
        """Hand requests that go on in step to the cohort, from the front of the running list."""
        cohort = self._cohort
        if cohort is None:
            return
        joined = 0
        for request, tokens in batch:
            if tokens != 1 or not cohort.can_join(request):
                break
            cohort.join(request)
            joined += 1
        if joined:
            del batch[:joined]
            self._by_name = [request for request in self._by_name if request not in cohort]

    def _schedule_running(self, budget: int) -> tuple[list[tuple[Request, int]], int, bool]:
        """Place running requests in list order; preempt from the tail when blocks run out."""
        batch: list[tuple[Request, int]] = []
        limit = self.config.max_model_len - 1
        allocate = self._allocate
        preempted = False
        index = 0
        while index < len(self._by_name) and budget > 0:
            request = self._by_name[index]
            index += 1
            if request.awaits_last_token or (self._is_alone and request.num_output_placeholders):
                continue
            computed = request.num_computed_tokens
            tokens = request.num_tokens + request.num_output_placeholders + request.num_spec_tokens - computed
            if tokens != 1:
                tokens = min(tokens, self._longest_chunk, budget)
            if computed + tokens > limit:
                tokens = limit - computed
            if tokens <= 0:
                continue
            if not allocate(request, tokens):
                preempted = True
                index, budget = self._make_room(request, tokens, batch, budget, index)
                if request.status is RequestStatus.PREEMPTED:
                    break
            batch.append((request, tokens))
            budget -= tokens
        return batch, budget, preempted

    def _allocate_ahead(self, request: Request, tokens: int) -> bool:
        """Take the blocks for a running request's next tokens and for those that its drafter writes ahead."""
        room = self.config.max_model_len - request.num_computed_tokens - tokens
        return self.kv.allocate(request, tokens, min(self.config.num_lookahead_tokens, room))

    def _make_room(
        self, request: Request, tokens: int, batch: list[tuple[Request, int]], budget: int, index: int
    ) -> tuple[int, int]:
        """Preempt until ``request`` has its blocks or is itself the victim; return the new index and budget."""
        while True:
            victim = self._victim()
            for place, (placed, its_tokens) in enumerate(batch):
                if placed is victim:  # only under the priority policy
                    del batch[place]
                    budget += its_tokens
                    index -= 1
                    break
            self._preempt(victim)
            if victim is request or self._allocate(request, tokens):
                return index, budget

    def _victim(self) -> Request:
        """Return the tail of the running list, or under the priority policy the least important request."""
        if self.config.policy == "priority":
            return max(self.running, key=lambda r: (r.priority, r.arrival_ns, r.request_id))
        return self.running[-1]

    def _preempt(self, request: Request) -> None:
        """Take a running request's blocks; it keeps its tokens and waits for readmission."""
        self._drop(request)
        if self.kv.tiers is not None:
            self.kv.tiers.swap_out(request)
        self.kv.free(request)
        request.status = RequestStatus.PREEMPTED
        request.preempted_at_ns = self._now_ns
        request.lost_tokens += request.num_computed_tokens
        request.num_computed_tokens = 0
        request.num_output_placeholders = 0
        request.num_spec_tokens = 0
        request.awaits_last_token = False
        request.num_preemptions += 1
        self._waiting.put_back(request)

    def _schedule_loaded(self, batch: list[tuple[Request, int]], budget: int, now_ns: int) -> int:
        """Admit requests whose KV has come; return the budget that is left, none if one of them has to wait."""
        while self._loaded:
            request = self._loaded[0]
            tokens = min(request.num_tokens - request.num_computed_tokens, self._longest_chunk, budget)
            if tokens <= 0 or len(self.running) >= self.config.max_num_seqs or not self.kv.allocate(request, tokens):
                return 0
            self._loaded.popleft()
            self._first_admitted(request, now_ns)
            self._enter(request)
            batch.append((request, tokens))
            budget -= tokens
        return budget

    def _begin_load(self, request: Request, prefix: list[int], hit: TierHit | None = None) -> bool:
        """Take the blocks for what a request is to receive; return False if they are not free.

        Args:
            request: The next one.
            prefix: Its blocks on the device.
            hit: What comes from lower tiers; None if another instance has the rest.
        """
        if not self.kv.fits_whole(request, prefix):
            return False
        self._waiting.pop()
        self.kv.admit(request, prefix)
        if hit is not None:
            request.remote_tokens = request.num_computed_tokens + hit.num_tokens
        missing = max(0, request.remote_tokens - request.num_computed_tokens)
        if hit is not None and self.kv.tiers is not None:
            self.kv.tiers.begin_read(request, hit)  # before blocks are taken, whose contents may go where the hit lies
        else:
            self._loads.append(Load(request, missing))
        whole = request.num_tokens + request.num_output_placeholders
        self.kv.reserve(request, whole)  # two that wait with a part each could wait forever
        request.status = RequestStatus.WAITING_FOR_REMOTE_KVS
        self._loading[request] = None
        if not missing or (hit is None and not self.load_kv_async):
            self.loaded(request)
        return True

    def _schedule_waiting(self, batch: list[tuple[Request, int]], budget: int, now_ns: int) -> HoldUp:
        """Admit waiting requests in order until one does not fit; tell what that one lacks."""
        lacks = HoldUp.KV_BLOCKS
        while self._waiting and budget > 0 and len(self.running) < self.config.max_num_seqs:
            request = self._waiting.peek()
            if request.remote_tokens:
                if not self._begin_load(request, self.kv.cached_prefix(request)):
                    break
                budget = self._schedule_loaded(batch, budget, now_ns)
                continue
            if self._refusal is not None and self._refusal.holds(request, self.kv.pool):
                break
            prefix = self.kv.cached_prefix(request)
            hit = self.kv.tiers.lookup(request, len(prefix)) if self.kv.tiers is not None else None
            if hit is not None and self._recalls_aside:
                if not self._begin_load(request, prefix, hit):
                    self._refusal = Refusal.of(request, prefix, self.kv.pool)
                    break
                continue
            recalled = hit.num_tokens if hit is not None else 0
            tokens = request.num_tokens - len(prefix) * self.kv.block_size - recalled
            tokens = min(tokens, self._longest_chunk) if self.config.long_prefill_token_threshold else tokens
            if tokens > budget and not self.config.enable_chunked_prefill:
                lacks = HoldUp.TOKEN_BUDGET
                break
            tokens = min(tokens, budget)
            if self.config.scheduler_reserve_full_isl and not self.kv.fits_whole(request, prefix):
                self._refusal = Refusal.of(request, prefix, self.kv.pool)
                break
            if not self.kv.can_admit(prefix, recalled + tokens):
                break
            self._waiting.pop()
            self._admit(request, prefix, hit, now_ns)
            self.kv.allocate(request, tokens)
            self._enter(request)
            batch.append((request, tokens))
            budget -= tokens
        else:
            if not self._waiting:
                return HoldUp.NOTHING
            lacks = HoldUp.TOKEN_BUDGET if budget <= 0 else HoldUp.MAX_NUM_SEQS
        return lacks

    def _admit(self, request: Request, prefix: list[int], hit: TierHit | None, now_ns: int) -> None:
        """Give a request what is cached of it; what lies in lower tiers comes up before its batch."""
        self.kv.admit(request, prefix)
        if hit is not None and self.kv.tiers is not None:
            self.kv.tiers.begin_read(request, hit)
            request.num_computed_tokens += hit.num_tokens
            self.kv.reserve(request, request.num_computed_tokens)
        self._first_admitted(request, now_ns)

    def _first_admitted(self, request: Request, now_ns: int) -> None:
        """Note when a request was first admitted and how much of it was cached, unless whoever prefilled it has."""
        if request.scheduled_ns < 0:
            request.scheduled_ns = now_ns
            request.cached_tokens = request.num_computed_tokens
            return
        if request.lost_tokens:
            request.recomputed_tokens += max(0, request.lost_tokens - request.num_computed_tokens)
            request.lost_tokens = 0
        request.readmitted(now_ns)

    def _enter(self, request: Request) -> None:
        """Put a request, whose blocks are taken, at the end of the running list."""
        request.status = RequestStatus.RUNNING
        request.admission = self._admissions
        self._admissions += 1
        self.running.append(request)
        self._by_name.append(request)

    def _drop(self, request: Request) -> None:
        self.running.remove(request)
        if request in self._by_name:
            self._by_name.remove(request)


SCHEDULERS = {"vllm": VllmScheduler}
