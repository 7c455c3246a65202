"""Runs with tiers of the prefix cache whose times can be worked out by hand.

A token takes 1,000 ns to compute. Llama-3.2-1B keeps 32,768 bytes per token, and host memory moves 65.536 GB/s, which
is 500 ns per token. Blocks hold 16 tokens, chunks 32. The pool has 6 usable blocks.
"""

from typing import Any

from constant_latency import PerToken

from llmservingsim import Run
from llmservingsim.report import RequestRecord
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec

US = 1_000
MS = 1_000_000
KV_BYTES = 32_768
CPU = {"size": "1GiB", "bandwidth": "65.536GB/s"}
STORAGE = {"size": "1GiB", "bandwidth": "16.384GB/s"}  # 2,000 ns per token


class PerBlock(PerToken):
    """Latencies by which the attention of a block takes 3 us, and nothing else any time."""

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return 3 * US if operator == "attention" else 0


def config(*node_sizes: int, serving: dict[str, Any] | None = None, **run: object) -> dict[str, Any]:
    instance = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100"}
    options = {
        "latency": {"source": "constant_latency:PerToken"},
        "enforce_eager": True,
        "num_gpu_blocks": 7,
        "async_scheduling": False,
        "prefix_storage": "cpu",
        "prefix_chunk_size": 32,
    }
    nodes = [{"instances": [instance] * size, "cpu_memory": CPU, "storage": STORAGE} for size in node_sizes or (1,)]
    network = {"topology": "Switch", "bandwidth": "32.768GB/s", "latency": "500ns"}  # 1,000 ns per token
    return {"nodes": nodes, "network": network, "serving": options | (serving or {})} | run


def request(number: int, prompt: int, arrival_ns: int, family: int = 0, output: int = 1) -> RequestSpec:
    """Prompts of a family begin alike."""
    return RequestSpec(
        number, arrival_ns, prompt, output, tuple(range(10_000 * family, 10_000 * family + prompt + output))
    )


def run(spec: dict[str, Any], *requests: RequestSpec) -> tuple[Run, list[RequestRecord]]:
    made = Run(spec, list(requests))
    result = made.execute()
    check_at_rest(made)
    return made, result.requests


def check_at_rest(made: Run) -> None:
    assert made.system.traffic is not None
    for side in made.system.traffic.sides:
        assert (side.tiers.reads, side.tiers.writes) == ([], [])
        assert side.tiers.swap is None or side.tiers.swap.used_tokens == 0
        side.instance.engine.kv.pool.check([])
        for store in side.tiers.stores:
            store.check()
            assert all(chunk.has_arrived and not chunk.pins for chunk in store)
