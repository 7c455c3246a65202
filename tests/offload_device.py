"""A memory that computes, and a latency source, with which iterations can be timed by hand."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmservingsim.config.catalog import find_model
from llmservingsim.shapes import BatchShape

SMALL = find_model("meta-llama/Llama-3.2-1B")
"""16 blocks, 32 query heads and 8 key heads of width 64."""

BLOCKS = 16
READ_BYTES = 2 * 32 * 64 + 2 * 2 * 8 * 64
WRITTEN_BYTES = 2 * 32 * 64
KV_BYTES = 2 * 2 * 8 * 64

ACCELERATOR_NS = {"embedding": 5_000, "qkv_proj": 10_000, "attention": 40_000, "o_proj": 20_000, "sampler": 3_000}
REQUEST_NS, GEMV_NS = 1_000, 7_000
LATENCY_NS, BYTES_PER_NS = 500, 100


class Accelerator:
    """Some operators take a constant time, others none."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return ACCELERATOR_NS.get(operator, 0)

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


class Memory:
    """A microsecond per request and a nanosecond per token, in two groups of channels; other operators take 7 us."""

    num_groups = 2
    operators = frozenset({"attention", "o_proj", "gate_up_proj", "act_fn", "down_proj"})

    def __init__(self, *parts: object) -> None:
        pass

    def attention_ns(self, requests: NDArray[np.int64], context_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        return requests * REQUEST_NS + context_tokens

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return GEMV_NS

    def provenance(self) -> dict[str, object]:
        return {"device": "made up"}


def access_ns(num_bytes: int) -> int:
    return LATENCY_NS + num_bytes // BYTES_PER_NS


def run_file(*instances: dict[str, Any], **shared: Any) -> dict[str, Any]:
    """Instances on one node, whose memory computes attention."""
    keys = {"model": SMALL.name, "hardware": "H100", "operators": {"attention": "cpu"}} | shared
    memory = {"size": "64GiB", "bandwidth": f"{BYTES_PER_NS}GB/s", "latency": f"{LATENCY_NS}ns"}
    return {
        "nodes": [
            {
                "instances": [keys | instance for instance in instances or ({},)],
                "cpu_memory": memory | {"pim": f"{__name__}:Memory"},
            }
        ],
        "serving": {"latency": {"source": f"{__name__}:Accelerator"}, "enforce_eager": True, "async_scheduling": False},
    }
