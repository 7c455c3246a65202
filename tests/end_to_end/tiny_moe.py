"""A mixture of experts that is small enough to be timed by hand, and its latencies."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmservingsim.latency import ExpertWork
from llmservingsim.shapes import BatchShape

US = 1_000
ATTENTION_NS = 100 * US
EXPERTS_NS = 50 * US
HIDDEN_BYTES = 64 * 2
ROUTED_BYTES = HIDDEN_BYTES + 4 * 2
"""What a dispatched token carries: its vector and a logit of every expert."""


class Blocks:
    """Latencies by which a block takes 150 us, 50 of them in its experts if it has some."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return {"attention": ATTENTION_NS, "down_proj": EXPERTS_NS}.get(operator, 0)

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.full(work.pairs.shape, EXPERTS_NS, dtype=np.int64)

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


def write_model(folder: Path, **keys: Any) -> str:
    """Write a model of four blocks, four experts of which a token visits two, hidden size 64; return its path."""
    model = {
        "model_type": "qwen3_moe",
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "intermediate_size": 128,
        "moe_intermediate_size": 64,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "vocab_size": 64,
        "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    }
    path = folder / "config.json"
    path.write_text(json.dumps(model | keys))
    return str(path)


def members(model: str, count: int = 2, pp: int = 2, tp: int = 1, **options: object) -> dict[str, Any]:
    """A run of one group; links carry 3 bytes per nanosecond after 1,000 ns, and everything else is free."""
    instance = {"model": model, "hardware": "H100", "memory_bandwidth": "1000000GB/s", "num_gpu_blocks": 101}
    instance |= {"data_parallel_group": "A", "pipeline_parallel_size": pp, "tensor_parallel_size": tp, **options}
    return {
        "nodes": [{"instances": [dict(instance) for _ in range(count)]}],
        "network": {"bandwidth": "3GB/s", "latency": "1us", "endpoint_delay": "0ns"},
        "serving": {
            "latency": {"source": f"{__name__}:Blocks"},
            "enforce_eager": True,
            "async_scheduling": False,
            "enable_expert_parallel": True,
        },
    }


def crossing_ns(size_bytes: float) -> int:
    """What a message takes."""
    return 1000 + int(size_bytes // 3)
