"""The options of an instance, complete: what the file states, and vLLM's defaults for the rest."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from llmservingsim.config import ExpertSpec, InstanceSpec, LatencySpec, LoraSpec, SpeculativeSpec, TierSpec
from llmservingsim.config.catalog import AcceleratorSpec
from llmservingsim.config.quantities import All2AllBackend
from llmservingsim.config.tier_spec import TierName
from llmservingsim.errors import ConfigError

_LARGE_DEVICE_BYTES = 70 * 2**30


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """A complete `ServingSpec`: stated options, and vLLM's defaults for the rest (vllm 0.19.0, arg_utils.py)."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int | None = None
    block_size: int = 16
    long_prefill_token_threshold: int = 0
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = True
    scheduler_reserve_full_isl: bool = True
    async_scheduling: bool = True
    scheduling_policy: str = "fcfs"
    scheduler: str = "vllm"
    enforce_eager: bool = False
    cudagraph_capture_sizes: tuple[int, ...] | None = None
    num_gpu_blocks: int | None = None
    gpu_memory_utilization: float = 0.9
    kv_cache_dtype: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
    enable_expert_parallel: bool | Literal["auto"] = False
    expert_parallel_size: int | None = None
    all2all_backend: All2AllBackend = "allgather_reducescatter"
    experts: ExpertSpec = ExpertSpec()
    prefix_storage: TierName | tuple[TierName | TierSpec, ...] = ()
    prefix_sharing: bool | Literal["node", "cluster"] = False
    prefix_chunk_size: int = 256
    prefix_write: Literal["through", "back"] = "through"
    prefix_recall: Literal["async", "blocking", "layerwise"] = "async"
    preemption_mode: Literal["recompute", "swap"] = "recompute"
    swap_space: str = "4GiB"
    latency: LatencySpec = LatencySpec()
    speculative_config: SpeculativeSpec | None = None
    lora: LoraSpec | None = None


def with_vllm_defaults(spec: InstanceSpec, accelerator: AcceleratorSpec, model_len: int = 0) -> Serving:
    """Complete an instance's options.

    For its API server vLLM gives a device of at least 70 GiB that is no A100 1024 sequences and 8192 tokens, any
    other 256 and 2048. Without chunked prefill the default budget is at least the longest sequence, of ``model_len``
    tokens unless stated, so that every prompt fits. A budget below the number of sequences is an error there too.

    Raises:
        ConfigError: If a batch could not give every running request a token.
    """
    large = accelerator.memory_bytes >= _LARGE_DEVICE_BYTES and not accelerator.name.startswith("A100")
    options: dict[str, Any] = {
        "max_num_seqs": 1024 if large else 256,
        "max_num_batched_tokens": 8192 if large else 2048,
    }
    if spec.speculative_config is not None and spec.speculative_config.schedules_synchronously:
        options["async_scheduling"] = False
    if spec.enable_chunked_prefill is False:
        longest = model_len if spec.max_model_len is None else spec.max_model_len
        options["max_num_batched_tokens"] = max(options["max_num_batched_tokens"], longest)
    stated = {k: v for k in Serving.__struct_fields__ if (v := getattr(spec, k)) is not None}
    if spec.max_num_batched_tokens == "auto":
        del stated["max_num_batched_tokens"]
    options |= stated
    serving = Serving(**options)
    if serving.max_num_batched_tokens < serving.max_num_seqs:
        raise ConfigError(
            f"max_num_batched_tokens ({serving.max_num_batched_tokens}) is below max_num_seqs "
            f"({serving.max_num_seqs}): a batch could not give every running request a token; "
            "raise the one or lower the other"
        )
    return serving
