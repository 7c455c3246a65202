"""What an engine is told, and what it answers."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

import msgspec

from llmservingsim.serving.batch import Batch
from llmservingsim.serving.request import Request
from llmservingsim.serving.scheduling import SchedulerConfig


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is told; names as in vLLM.

    Attributes:
        scheduler: Limits and policy of the scheduler.
        num_gpu_blocks: KV blocks, the null block included.
        block_size: Tokens per block.
        enable_prefix_caching: Whether full blocks are found again by their hash.
        recompute_last_hit: Whether the last block that a prompt finds is computed again, as for EAGLE and MTP.
        async_scheduling: Whether the next batch is formed while one runs.
        pipeline_parallel_size: Stages; so many batches are in flight if there are several.
        decode_cohort: Whether requests that decode in step are moved together. Changes no result; off, every request
            is scheduled by name in every iteration, which is the plain rule that tests compare with.
    """

    scheduler: SchedulerConfig
    num_gpu_blocks: int
    block_size: int = 16
    enable_prefix_caching: bool = True
    recompute_last_hit: bool = False
    async_scheduling: bool = True
    pipeline_parallel_size: int = 1
    decode_cohort: bool = True


class RejectReason(Enum):
    """Why an engine refuses a request for good."""

    PROMPT_TOO_LONG = "the prompt leaves no room for output within max_model_len"
    PROMPT_NOT_SPLIT = "the prompt exceeds max_num_batched_tokens and chunked prefill is off"
    NEVER_FITS = "its KV needs more blocks than the instance has"


class Outcome(NamedTuple):
    """What a batch brought when it ended.

    Attributes:
        batch: Which one.
        finished: Requests that produced their last token.
        handed: Requests that another instance goes on with; their blocks are held until `Engine.release`.
        num_sampled: Output tokens.
        token_gaps_ns: Times since the token before of the same request, and how many tokens had each. Tokens of a
            request that come out together are one message and have one such time, as in vLLM's benchmark.
    """

    batch: Batch
    finished: list[Request]
    handed: list[Request]
    num_sampled: int
    token_gaps_ns: dict[int, int]
