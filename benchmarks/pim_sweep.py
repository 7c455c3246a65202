"""Where memory that computes pays, and where halves pay: one decode iteration by context length and batch.

Run: ``python benchmarks/pim_sweep.py [ACCELERATOR [MEMORY]]``. It needs no data: latencies are rooflines over the
catalogue. A dash means that keys and values do not fit. Milliseconds: on the accelerator alone, with attention in the
memory, and that in two halves.
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmservingsim import Run
from llmservingsim.backend import NativeBackend
from llmservingsim.serving.kv_groups import HALVES
from llmservingsim.shapes import BatchShape
from llmservingsim.trace import GraphBuilder, InterleavedBuilder, OffloadBuilder
from llmservingsim.workload import RequestSpec

MODEL = "meta-llama/Llama-3.1-8B"
BATCHES = (1, 4, 16, 64, 256)
CONTEXTS = (512, 2_048, 8_192, 32_768)


def resolved(hardware: str, memory: str, *, offloads: bool) -> Run:
    """An instance whose host memory of 256 GiB computes, behind a PCIe link."""
    instance: dict[str, Any] = {"model": MODEL, "hardware": hardware, "latency": {"source": "roofline"}}
    host: dict[str, Any] = {"size": "256GiB", "bandwidth": "48GB/s", "latency": "1us", "pim": memory}
    if offloads:
        instance |= {"operators": {"attention": "cpu"}, "sub_batch_interleaving": "always"}
    return Run({"nodes": [{"instances": [instance], "cpu_memory": host}]}, [RequestSpec(0, 0, 8, 2)])


def taken_ms(run: Run, builder: GraphBuilder, shape: BatchShape) -> float:
    """What an iteration takes on the clock."""
    backend = run.system.backend
    assert isinstance(backend, NativeBackend)
    begin_ns = backend.now_ns
    graph = backend.register(builder.template)
    backend.submit(graph, builder.durations_ns((shape,)), builder.sizes_bytes((shape,)), -1)
    while not backend.advance(2**60):
        pass
    return (backend.now_ns - begin_ns) / 1e6


def decodes(batch: int, context: int) -> BatchShape:
    """A batch of requests with equal contexts."""
    return BatchShape((), batch, batch * context, context, batch)


def spread(whole: OffloadBuilder, halves: Sequence[OffloadBuilder], batch: int, context: int) -> None:
    """Give the groups of channels, and their halves, equally many of a batch's requests."""
    assert whole.offload is not None
    groups = whole.offload.helpers["attention"].device.num_groups
    requests = np.zeros((HALVES, groups), dtype=np.int64)
    for number in range(batch):
        turn, group = divmod(number, groups)
        requests[(number + turn * (groups + 1)) % HALVES, group] += 1
    for builder, own in zip((whole, *halves), (requests.sum(axis=0), *requests), strict=True):
        builder.requests, builder.context_tokens = own, own * context


def main() -> None:
    """Print a row per context and a column per batch."""
    hardware, memory = (*sys.argv[1:], *("A6000", "GDDR6-AiM")[len(sys.argv) - 1 :])[:2]
    alone, offloaded = (resolved(hardware, memory, offloads=offloads) for offloads in (False, True))
    whole = offloaded.system.instances[0].builder
    assert isinstance(whole, OffloadBuilder)
    halves = [whole.of(whole.form) for _ in range(HALVES)]
    split = InterleavedBuilder(halves[0], halves[1])
    fits = [run.system.instances[0].memory.num_blocks * 16 for run in (alone, offloaded)]
    print(f"{MODEL} on {hardware} with {memory}: ms on the accelerator, attention in memory, in halves")
    print(f"{'context':>8}" + "".join(f"{f'batch {batch}':>22}" for batch in BATCHES))
    for context in CONTEXTS:
        cells = []
        for batch in BATCHES:
            found: list[float | None] = [None, None, None]
            if batch * context <= fits[0]:
                found[0] = taken_ms(alone, alone.system.instances[0].builder, decodes(batch, context))
            if batch * context <= fits[1]:
                spread(whole, halves, batch, context)
                found[1] = taken_ms(offloaded, whole, decodes(batch, context))
            if batch >= HALVES and found[1] is not None:
                parts = [int(half.requests.sum()) for half in halves]
                split.shapes = (decodes(parts[0], context), decodes(parts[1], context))
                found[2] = taken_ms(offloaded, split, decodes(batch, context))
            cells.append(" / ".join(f"{ms:.1f}" if ms is not None else "-" for ms in found))
        print(f"{context:>8}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
