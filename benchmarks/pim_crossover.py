"""Where memory that computes pays: decode attention on an accelerator against that of a memory behind its host link.

For each context length and batch: how many times faster the memory is than each accelerator, a block's queries, keys
and values crossing the link on the way there and its results on the way back. The accelerators are rooflines; nothing
overlaps. A dash where the keys and values of all blocks do not fit into the memory.

Run: ``python benchmarks/pim_crossover.py [MODEL [ACCELERATOR]...]``; prints a table in Markdown.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec, find_accelerator, find_model, find_pim
from llmservingsim.latency import RooflineSource
from llmservingsim.latency.offload import OffloadDevice
from llmservingsim.latency.pim import PimModel, make_pim
from llmservingsim.latency.processor import make_processor
from llmservingsim.model import ParallelLayout, kv_bytes_per_token
from llmservingsim.shapes import BatchShape

GIB = 2**30
MEMORIES: dict[str, tuple[str, PimModel, int]] = {
    "HBM-PIM, 32 stacks": ("HBM-PIM", "device", 64),
    "the same, linear fit": ("HBM-PIM", "linear", 64),
    "GDDR6-AiM, 64 packages": ("GDDR6-AiM", "device", 64),
    "LPDDR5-PIM, 32 dies": ("LPDDR5-PIM", "device", 64),
    "DDR4-PIM, 8 modules": ("DDR4-PIM", "device", 64),
    "CXL-PNM, a card": ("CXL-PNM", "device", 512),
}
"""What it is called -> name, model, GiB."""
HOSTS = {"Xeon-8480+": 512}
BATCHES = (1, 16, 64)
CONTEXTS = (512, 2_048, 8_192, 32_768)
LINK_LATENCY_NS = 1_000
"""Of one transfer, assumed; the bandwidth is the accelerator's to its host, times the efficiency of its links."""

Device = tuple[OffloadDevice, int]


def devices(model: ModelSpec) -> dict[str, Device]:
    """Every memory and host with its size in bytes."""
    one = ParallelLayout()
    found: dict[str, Device] = {
        title: (make_pim(find_pim(name, Path()), model, one, gib * GIB, how), gib * GIB)
        for title, (name, how, gib) in MEMORIES.items()
    }
    return found | {
        name: (make_processor(find_accelerator(name), model, one), gib * GIB) for name, gib in HOSTS.items()
    }


def offloaded_ns(
    model: ModelSpec, device: OffloadDevice, accelerator: AcceleratorSpec, batch: int, context: int
) -> float:
    """Time of a block's attention elsewhere: there, computed by groups that have equally many requests, and back."""
    requests = np.full(device.num_groups, batch // device.num_groups)
    requests[: batch % device.num_groups] += 1
    computed = int(device.attention_ns(requests, requests * context).max())
    width = 2 * model.q_size + 2 * model.num_kv_heads * model.head_dim
    moved = batch * width * model.dtype_bytes / (accelerator.host_bandwidth * accelerator.efficiency.link)
    return computed + moved * 1e9 + 2 * LINK_LATENCY_NS


def speedup(model: ModelSpec, accelerator: AcceleratorSpec, device: OffloadDevice, batch: int, context: int) -> str:
    """How many times faster the device is."""
    shape = BatchShape((), batch, batch * context, context, batch)
    here = RooflineSource(model, ParallelLayout(), accelerator).latency_ns("attention", shape)
    return f"{here / offloaded_ns(model, device, accelerator, batch, context):.2f}"


def rows(model: ModelSpec, accelerators: Sequence[AcceleratorSpec]) -> Iterator[str]:
    """The table, line by line."""
    yield f"| {' / '.join(a.name for a in accelerators)} | batch | {' | '.join(f'{c:,}' for c in CONTEXTS)} |"
    yield f"| --- | --- |{' --- |' * len(CONTEXTS)}"
    per_token = kv_bytes_per_token(model)
    for title, (device, memory_bytes) in devices(model).items():
        for batch in BATCHES:
            cells = [
                " / ".join(speedup(model, accelerator, device, batch, context) for accelerator in accelerators)
                if batch * context * per_token <= memory_bytes
                else "-"
                for context in CONTEXTS
            ]
            yield f"| {title} | {batch} | {' | '.join(cells)} |"


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    model = find_model(arguments[0] if arguments else "meta-llama/Llama-3.1-8B")
    accelerators = [find_accelerator(name) for name in arguments[1:] or ("A6000", "H100")]
    print("\n".join(rows(model, accelerators)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
