"""A small profile bundle written from formulas, so that interpolation can be held against theory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from pathlib import Path

from llmservingsim.shapes import BatchShape, Chunk

ROWS_PER_TILE = 64
CHUNKS = (16, 64, 128, 256, 512, 1024)
CONTEXTS = (0, 64, 256, 1024, 4096)
DECODES = (0, 1, 4, 16, 64)
KV_LENGTHS = (16, 64, 256, 1024, 4096)


def batch(prefills: Sequence[tuple[int, int]] = (), decodes: Sequence[int] = ()) -> BatchShape:
    """The shape of a batch of chunks (query, context) and decodes (KV length)."""
    tokens = sum(query for query, _ in prefills) + len(decodes)
    return BatchShape(tuple(Chunk(*c) for c in prefills), len(decodes), sum(decodes), max(decodes, default=0), tokens)


def dense_us(tokens: float) -> float:
    return 3.0 + 0.25 * tokens


def head_us(sequences: float) -> float:
    return 500.0 + 0.5 * sequences


def decode_us(count: float, kv: float) -> float:
    return 5.0 + 0.002 * count * kv


def mixed_us(shape: BatchShape) -> float:
    """A grid of (blocks of the longest chunk) x (sequences) tiles, each of which walks through the keys it sees."""
    tiles = [
        min(query, (row + 1) * ROWS_PER_TILE) + context
        for query, context in shape.prefills
        for row in range(-(-query // ROWS_PER_TILE))
    ]
    blocks = max(-(-query // ROWS_PER_TILE) for query, _ in shape.prefills)
    launched = blocks * shape.num_sequences
    active = len(tiles) + shape.num_decodes
    longest = max(shape.max_decode_kv_tokens, *(query + context for query, context in shape.prefills))
    return 6.0 + 0.05 * launched + 0.5 * active + 0.004 * (sum(tiles) + shape.decode_kv_tokens) + 0.012 * longest


def attention_rows() -> list[tuple[int, int, int, int, float]]:
    """Measured points: pure decodes, and chunks with and without decodes."""
    rows = [(0, 0, n, kv, decode_us(n, kv)) for n, kv in product(DECODES[1:], KV_LENGTHS)]
    for chunk, context, n in product(CHUNKS, CONTEXTS, DECODES):
        for kv in KV_LENGTHS if n else (0,):
            rows.append((chunk, context, n, kv, mixed_us(batch([(chunk, context)], [kv] * n))))
    return rows


def write_csv(path: Path, header: str, rows: Iterable[Sequence[object]]) -> None:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def write_bundle(profiles: Path) -> Path:
    """Write a whole bundle; return its ``tp1`` folder."""
    folder = profiles / "H100/acme/tiny-1B/bf16/tp1"
    folder.mkdir(parents=True)
    sizes = [2**i for i in range(11)]
    write_csv(
        folder / "dense.csv",
        "layer,tokens,time_us",
        [(layer, n, dense_us(n)) for layer in ("qkv_proj", "o_proj") for n in sizes],
    )
    write_csv(
        folder / "per_sequence.csv",
        "layer,sequences,time_us",
        [(layer, n, head_us(n)) for layer in ("lm_head", "sampler") for n in sizes],
    )
    write_attention(folder, attention_rows())
    return folder


def write_attention(folder: Path, rows: Iterable[Sequence[object]]) -> None:
    write_csv(folder / "attention.csv", "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us", rows)


SKEW_HEADER = "regime,n,nb,ratio,skew,pc,kp,kvs,kv_big,kv_mean,t_mean_us,t_max_us,t_skew_us,alpha"


def write_skew(folder: Path, rows: Iterable[tuple[int, int, float, float]], mean_us: Callable[..., float]) -> None:
    """Write ``skew.csv`` from (sequences, longest, mean KV length, t_skew in us)."""
    write_csv(
        folder / "skew.csv",
        SKEW_HEADER,
        [("pure", n, 1, 0.5, 4.0, 0, 0, 16, big, kv, mean_us(n, kv), 0, skew, 0) for n, big, kv, skew in rows],
    )
