"""A request inside the engine: what vLLM's scheduler knows of it, and nothing that it could not know."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from enum import Enum


class RequestStatus(Enum):
    """Where a request is; names as in vLLM V1."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    WAITING_FOR_REMOTE_KVS = "waiting for remote KV"
    FINISHED = "finished"


class Request:
    """A request that an engine holds.

    The true output length is not here: only the engine, which plays the part of the model, knows it. As in vLLM,
    ``num_computed_tokens`` counts tokens whose KV exists or is being produced by a batch in flight, and
    ``num_output_placeholders`` counts tokens that such a batch will sample.

    Attributes:
        request_id: Identity, in file order.
        arrival_ns: When the client sent it.
        priority: Smaller is served earlier under the priority policy.
        num_prompt_tokens: Length of the prompt.
        num_tokens: Prompt and known output tokens.
        num_computed_tokens: Tokens with KV, present or being computed.
        num_output_placeholders: Tokens being sampled by batches in flight.
        num_spec_tokens: Drafts to verify beside the next token.
        awaits_last_token: The batch in flight samples the last token, so scheduling it again would be in vain.
        block_ids: KV blocks in order.
        num_cached_blocks: How many of the first blocks stand in the prefix index.
        block_hashes: Chained hashes of the full blocks of prompt and output.
        admission: Counts the admissions of the engine; the running list is in this order.
        num_preemptions: How often it lost its blocks; also tells batches in flight from before a preemption.
        cached_tokens: Tokens found in the prefix cache at first admission, lower tiers included.
        recalled: Tier and tokens of each part that came from there at first admission.
        lost_tokens: Computed tokens that its last preemption took, until it is admitted again.
        preempted_at_ns: When it was preempted, until it is admitted again; else -1.
        preempted_ns: For how long it was, before and after its prompt had been computed.
        recomputed_tokens, swapped_tokens: Of those taken by preemptions, computed once more, and read back.
        accepted_drafts: Drafts of it that the model accepted.
        token_batches: Batches that gave it tokens (`llmservingsim.serving.batch_log`); a member of a cohort is behind.
        hand_off: Another instance goes on with it after its first token.
        remote_tokens: How many of its first tokens have their KV elsewhere, from where it is loaded.
        continued_as: As what another instance goes on with it, once that has taken it over.
        prefill_instance: That computed its prompt, -1 if this one does.
        earlier_preemptions: How often the instance that computed its prompt preempted it.
        scheduled_ns, first_token_ns, last_token_ns: First admission, first and latest token, -1 before.
        prefilled_ns: When its prompt had been computed, here or where it was prefilled, -1 before.
    """

    __slots__ = (
        "accepted_drafts",
        "admission",
        "arrival_ns",
        "awaits_last_token",
        "block_hashes",
        "block_ids",
        "cached_tokens",
        "continued_as",
        "earlier_preemptions",
        "first_token_ns",
        "hand_off",
        "last_token_ns",
        "lost_tokens",
        "num_cached_blocks",
        "num_computed_tokens",
        "num_output_placeholders",
        "num_preemptions",
        "num_prompt_tokens",
        "num_spec_tokens",
        "num_tokens",
        "preempted_at_ns",
        "preempted_ns",
        "prefill_instance",
        "prefilled_ns",
        "priority",
        "recalled",
        "recomputed_tokens",
        "remote_tokens",
        "request_id",
        "scheduled_ns",
        "status",
        "swapped_tokens",
        "token_batches",
    )

    def __init__(
        self,
        request_id: int,
        arrival_ns: int,
        num_prompt_tokens: int,
        priority: int = 0,
        block_hashes: Sequence[int] = (),
    ) -> None:
        self.request_id = request_id
        self.arrival_ns = arrival_ns
        self.priority = priority
        self.num_prompt_tokens = num_prompt_tokens
        self.num_tokens = num_prompt_tokens
        self.num_computed_tokens = 0
        self.num_output_placeholders = 0
        self.num_spec_tokens = 0
        self.awaits_last_token = False
        self.block_ids: list[int] = []
        self.num_cached_blocks = 0
        self.block_hashes = block_hashes
        self.num_preemptions = 0
        self.hand_off = False
        self.remote_tokens = 0
        self.continued_as: Request | None = None
        self.prefill_instance = -1
        self.earlier_preemptions = 0
        self.cached_tokens = 0
        self.recalled: tuple[tuple[str, int], ...] = ()
        self.scheduled_ns = -1
        self.first_token_ns = -1
        self.last_token_ns = -1
        self.prefilled_ns = -1
        self.lost_tokens = 0
        self.preempted_at_ns = -1
        self.preempted_ns = (0, 0)
        self.recomputed_tokens = 0
        self.swapped_tokens = 0
        self.accepted_drafts = 0
        self.token_batches = array("q")
        self.admission = -1
        self.status = RequestStatus.WAITING

    @property
    def num_output_tokens(self) -> int:
        """Known output tokens."""
        return self.num_tokens - self.num_prompt_tokens

    def readmitted(self, now_ns: int) -> None:
        """It runs again after a preemption."""
        if self.preempted_at_ns >= 0:
            before, after = self.preempted_ns
            spent = now_ns - self.preempted_at_ns
            self.preempted_ns = (before + spent, after) if self.prefilled_ns < 0 else (before, after + spent)
            self.preempted_at_ns = -1

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id}, {self.status.value}, {self.num_computed_tokens} of {self.num_tokens}"
            f"+{self.num_output_placeholders} tokens, {len(self.block_ids)} blocks)"
        )
