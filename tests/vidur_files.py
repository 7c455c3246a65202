"""Profiles as Vidur writes them, from formulas in microseconds, for a model of the catalogue."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

MODEL = "meta-llama/Llama-3.1-8B"
SHAPE = {"n_head": 32, "n_kv_head": 8, "n_embd": 4096, "n_expanded_embd": 14336, "vocab_size": 128256}
TOKENS = (1, 8, 64, 512, 4096)
CHUNKS = (64, 128, 512, 2048)
CACHED = (0, 1024, 8192)
SEQUENCES = (1, 8, 64)
KV = (31, 1023, 8191)
DEGREES = (1, 2)

MLP = {
    "emb": 2.0,
    "input_layernorm": 3.0,
    "post_attention_layernorm": 5.0,
    "add": 1.0,
    "attn_pre_proj": 40.0,
    "attn_rope": 4.0,
    "attn_post_proj": 30.0,
    "mlp_up_proj": 90.0,
    "mlp_act": 6.0,
    "mlp_down_proj": 50.0,
}
"""Of one token; the next ones take a hundredth each."""
BESIDE = {"attn_kv_cache_save": 3.0, "attn_input_reshape": 1.0, "attn_output_reshape": 0.5}


def dense_us(operator: str, tokens: float, tp: int = 1) -> float:
    return MLP[operator] * (1 + tokens / 100) / tp


def chunk_us(chunk: int, cached: int, tp: int = 1) -> float:
    tiles = -(-chunk // 64)
    return (10 + tiles + 0.01 * (tiles * cached + chunk * (chunk + 64) / 128)) / tp


def decode_us(sequences: float, kv: float, tp: int = 1) -> float:
    return (6 + 0.004 * sequences * kv) / tp


def statistics(times_us: Mapping[str, float | None]) -> dict[str, object]:
    """Columns in milliseconds whose median is right and whose mean is spoilt by outliers."""
    columns: dict[str, object] = {}
    for operator, time in times_us.items():
        for name, factor in (("min", 0.9), ("max", 9), ("mean", 1.5), ("median", 1), ("std", 0.2)):
            columns[f"time_stats.{operator}.{name}"] = "" if time is None else time * factor / 1000
    return columns


def mlp_rows() -> list[dict[str, object]]:
    return [
        statistics({name: dense_us(name, n, tp) for name in MLP})
        | SHAPE
        | {"use_gated_mlp": True, "num_tokens": n, "num_tensor_parallel_workers": tp}
        for tp, n in product(DEGREES, TOKENS)
    ]


def attention_rows() -> list[dict[str, object]]:
    def row(tp: int, kernels: Mapping[str, float | None], *shape: int, is_prefill: bool) -> dict[str, object]:
        names = ("batch_size", "prefill_chunk_size", "kv_cache_size")
        heads = {"n_embd": 4096, "n_q_head": 32, "n_kv_head": 8, "block_size": 16, "max_model_len": 16384}
        told = {"num_tensor_parallel_workers": tp, "is_prefill": is_prefill, "attention_backend": "FLASHINFER"}
        return statistics(kernels | BESIDE) | heads | dict(zip(names, shape, strict=True)) | told

    chunks = [
        row(tp, {"attn_prefill": chunk_us(q, c, tp), "attn_decode": None}, 1, q, c, is_prefill=True)
        for tp, q, c in product(DEGREES, CHUNKS, CACHED)
    ]
    decodes = [
        row(tp, {"attn_prefill": None, "attn_decode": decode_us(n, c + 1, tp)}, n, 0, c, is_prefill=False)
        for tp, n, c in product(DEGREES, SEQUENCES, KV)
    ]
    return chunks + decodes


def transfer_rows(operator: str, time_us: Callable[[int, int], float]) -> list[dict[str, object]]:
    """Rank 1 is the slower one, and rows over two nodes take ten times as long."""
    return [
        statistics({operator: time_us(ranks, size) * (0.5 + 0.5 * (rank == 1)) * (1 if per_node == ranks else 10)})
        | {"rank": rank, "num_workers": ranks, "size": size, "collective": operator, "devices_per_node": per_node}
        for ranks, size, rank in product((2, 4), (4096, 1 << 20, 1 << 26), (0, 1))
        for per_node in (ranks // 2, ranks)
    ]


def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write a table with an index column in front, as older profiles have it."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *rows[0]])
        writer.writerows([i, *row.values()] for i, row in enumerate(rows))
    return path


def write_profiles(folder: Path) -> Path:
    """Write all four files; return the folder."""
    write(folder / "mlp.csv", mlp_rows())
    write(folder / "attention.csv", attention_rows())
    write(folder / "all_reduce.csv", transfer_rows("all_reduce", lambda n, size: 10 * n + size / 1e4))
    write(folder / "send_recv.csv", transfer_rows("send_recv", lambda n, size: 12 + size / 25e3))
    return folder
