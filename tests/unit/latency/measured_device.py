"""Bundles of a device whose times follow a formula, written down here once more and without the simulator's help."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path

from synthetic_bundle import write_csv

from llmservingsim.config.catalog import AcceleratorSpec, find_accelerator, find_model

DEVICE = find_accelerator("H100")
SIZES = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096)
LAUNCH_US = 3.0
COMPUTE, MEMORY = 0.72, 0.88
OVERLAP = 3.0
ELEMENTWISE_LAUNCH_US, ELEMENTWISE_MEMORY = 2.2, 0.6
DECODE_LAUNCH_US, DECODE_MEMORY, START_US, PACE_US = 9.0, 0.8, 0.02, 0.0004


def product_us(rows: int, inner: int, width: int, device: AcceleratorSpec = DEVICE) -> float:
    """A product of ``rows x inner`` and ``inner x width`` in 16 bits."""
    compute = 2 * rows * inner * width / (device.bf16_flops * COMPUTE)
    memory = 2 * (rows * inner + inner * width + rows * width) / (device.memory_bandwidth * MEMORY)
    power = OVERLAP
    return LAUNCH_US + 1e6 * (compute**power + memory**power) ** (1 / power)


def norm_us(tokens: int, hidden: int) -> float:
    """A norm: state and residual read and written, and the weights read."""
    moved = 2 * hidden * (4 * tokens + 1)
    return ELEMENTWISE_LAUNCH_US + 1e6 * moved / (DEVICE.memory_bandwidth * ELEMENTWISE_MEMORY)


def decode_us(count: int, kv: int, heads: int, kv_heads: int, size: int) -> float:
    """A batch of decodes: queries read, keys and values read, outputs written."""
    moved = 2 * (2 * count * heads * size + 2 * count * kv * kv_heads * size)
    walks = START_US * count * kv_heads
    return DECODE_LAUNCH_US + walks + PACE_US * kv + 1e6 * moved / (DEVICE.memory_bandwidth * DECODE_MEMORY)


def chunk_us(count: int, query: int, context: int, heads: int) -> float:
    """Prompt chunks: tiles of 64 rows, each of which walks through what it sees."""
    blocks = -(-query // 64)
    own = blocks * context + max(query, query * (query + 64) / 128)
    return 10.0 + heads * (0.004 * count * blocks + 0.00006 * count * own) + 0.004 * (context + query)


def write_device(
    profiles: Path, name: str, *, variant: str = "bf16", from_roofline: Iterable[str] = (), slower: float = 1.0
) -> Path:
    """Write the bundle of a dense model on one rank; return its folder."""
    model = find_model(name)
    folder = profiles / "H100" / name / variant / "tp1"
    folder.mkdir(parents=True)
    hidden, mlp = model.hidden_size, model.intermediate_size
    qkv = (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    widths = {
        "qkv_proj": (hidden, qkv),
        "o_proj": (model.num_heads * model.head_dim, hidden),
        "gate_up_proj": (hidden, 2 * mlp),
        "down_proj": (mlp, hidden),
    }
    dense = [(layer, n, slower * product_us(n, *width)) for layer, width in widths.items() for n in SIZES]
    dense += [(layer, n, slower * norm_us(n, hidden)) for layer in ("layernorm", "final_layernorm") for n in SIZES]
    write_csv(folder / "dense.csv", "layer,tokens,time_us", dense)
    head = [("lm_head", n, slower * product_us(n, hidden, model.vocab_size)) for n in SIZES[:7]]
    write_csv(folder / "per_sequence.csv", "layer,sequences,time_us", head)
    heads = (model.num_heads, model.num_kv_heads, model.head_dim)
    decodes = [(0, 0, n, kv, slower * decode_us(n, kv, *heads)) for n, kv in product(SIZES[:6], SIZES[3:])]
    write_csv(folder / "attention.csv", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", decodes)
    chunks = [(n, q, 0, slower * chunk_us(n, q, 0, heads[0])) for n, q in product((1, 2, 8), SIZES[2:])]
    write_csv(folder / "prefills.csv", "prefills,prefill_chunk,kv_prefill,time_us", chunks)
    listed = ", ".join(from_roofline)
    (folder / "meta.yaml").write_text(f"from_roofline: [{listed}]\n")
    return folder
