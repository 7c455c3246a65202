"""A small bundle of the older layout, written from formulas: a tile walks 50 ns per key, a device holds 100 tiles."""

from __future__ import annotations

from pathlib import Path

from llmservingsim.config.catalog import AcceleratorSpec, ModelSpec, find_accelerator, find_model
from llmservingsim.latency import OlderBundleSource
from llmservingsim.model import ParallelLayout
from llmservingsim.model.layout import ONE_RANK

MODEL: ModelSpec = find_model("meta-llama/Llama-3.1-8B")  # 32 query heads over 8 KV heads
DEVICE: AcceleratorSpec = find_accelerator("A6000")
LAYERS_HEADER = "layer_name,input,kv_cache,tp_size,latency(ns)"
GPU_HEADER = (
    "time_stats.attn_prefill.mean,time_stats.attn_decode.mean,batch_size,prefill_chunk_size,kv_cache_size,is_prefill"
)
TPU_HEADER = "prefill_chunk_size,kv_cache_size,batch_size,is_prefill,mean_ns"
COUNTS = (1, 2, 8, 64, 256, 2048)
START_NS = 5000
HIDDEN, KV_WIDTH, MLP, VOCAB = 4096, 1024, 14336, 128256
WEIGHTS = {
    "q_proj": HIDDEN * HIDDEN,
    "k_proj": HIDDEN * KV_WIDTH,
    "v_proj": HIDDEN * KV_WIDTH,
    "o_proj": HIDDEN * HIDDEN,
    "gate_proj": HIDDEN * MLP,
    "up_proj": HIDDEN * MLP,
    "down_proj": HIDDEN * MLP,
    "lm_head": HIDDEN * VOCAB,
}
OTHERS = {
    "embedding": 2000,
    "input_layernorm": 4000,
    "post_layernorm": 6000,
    "rope": 3000,
    "act_fn": 2500,
    "final_layernorm": 4500,
}


def product_ns(layer: str, tokens: int) -> float:
    """A start and the time to read bfloat16 weights at 1 byte/ns; 10 ns more per token."""
    return START_NS + 2 * WEIGHTS[layer] / 1000 + 10 * tokens


def decode_ns(count: int, keys: int) -> float:
    return 4000 + 20 * count * (keys + 30)


def chunk_ns(chunk: int, context: int) -> float:
    return 4500 + 0.2 * chunk * context + 0.1 * chunk * chunk


def layer_rows() -> list[str]:
    rows = [f"{name},{n},0,1,{product_ns(name, n)}" for name in WEIGHTS for n in COUNTS]
    return rows + [f"{name},{n},0,1,{base + 5 * n}" for name, base in OTHERS.items() for n in COUNTS]


def attention_rows() -> list[str]:
    decodes = [
        f",{decode_ns(n, keys) / 1e6},{n},0,{n * keys},False"
        for n in (1, 2, 8, 16, 32, 64)
        for keys in (16, 128, 1024, 4096)
        if n * keys <= 32768
    ]
    empty = [",0.0023,64,0,32,False"]  # 32 keys over 64 sequences: nothing to read
    chunks = [
        f"{chunk_ns(chunk, context) / 1e6},,1,{chunk},{chunk + context},True"
        for chunk in (32, 128, 512)
        for context in (0, 128, 1024)
    ]
    return [*decodes, *empty, *chunks]


def write_older_bundle(folder: Path) -> Path:
    """Write ``layers.csv`` and ``attention.csv`` (GPU form) into a ``tp1`` folder."""
    folder.mkdir(parents=True)
    (folder / "layers.csv").write_text("\n".join([LAYERS_HEADER, *layer_rows()]) + "\n")
    (folder / "attention.csv").write_text("\n".join([GPU_HEADER, *attention_rows()]) + "\n")
    return folder


def source_of(
    folder: Path, *, skew: str = "fitted", model: ModelSpec = MODEL, layout: ParallelLayout = ONE_RANK
) -> OlderBundleSource:
    return OlderBundleSource(folder, model, layout, DEVICE, skew=skew)
