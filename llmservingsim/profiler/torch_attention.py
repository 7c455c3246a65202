"""Attention of a batch of chunks and decodes in torch: sequence after sequence, or all in one FlashAttention kernel."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


class Piece(NamedTuple):
    """New tokens of one sequence, and all keys that the last of them sees."""

    query_len: int
    kv_len: int


class Heads(NamedTuple):
    """Of one rank: how many, how wide, how far they look back, and where they are."""

    query: int
    kv: int
    dim: int
    window: int | None
    device: str
    dtype: torch.dtype

    def random(self, *shape: int) -> Tensor:
        """Values of a cache."""
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def cache_bytes(self, batch: Sequence[Piece]) -> int:
        """Keys and values of a batch in one layer."""
        return 2 * self.kv * self.dim * self.dtype.itemsize * sum(piece.kv_len for piece in batch)


class SequentialAttention:
    """Each sequence has a contiguous cache and a kernel call of its own (``scaled_dot_product_attention``).

    Args:
        heads: Of the rank.
        batch: Its sequences.
        layers: Caches to rotate over.
    """

    def __init__(self, heads: Heads, batch: Sequence[Piece], layers: int) -> None:
        self._window = heads.window
        self._pieces = list(batch)
        self._caches = [[heads.random(2, heads.kv, piece.kv_len, heads.dim) for piece in batch] for _ in range(layers)]
        self._masks = [self._mask(piece, heads) for piece in batch]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layer: int) -> Tensor:
        """Write keys and values, attend."""
        out, first = torch.empty_like(query), 0
        for piece, mask, cache in zip(self._pieces, self._masks, self._caches[layer % len(self._caches)], strict=True):
            here = slice(first, first + piece.query_len)
            cache[0, :, piece.kv_len - piece.query_len :] = key[here].transpose(0, 1)
            cache[1, :, piece.kv_len - piece.query_len :] = value[here].transpose(0, 1)
            keys, values = cache[:, :, self._from(piece) :]
            attended = F.scaled_dot_product_attention(
                query[here].transpose(0, 1)[None],
                keys[None],
                values[None],
                attn_mask=mask,
                is_causal=mask is None and piece.query_len > 1,
                enable_gqa=True,
            )
            out[here] = attended[0].transpose(0, 1)
            first += piece.query_len
        return out

    def _from(self, piece: Piece) -> int:
        """First key that a decode sees; a chunk's mask says which each of its tokens does."""
        return 0 if self._window is None or piece.query_len > 1 else max(0, piece.kv_len - self._window)

    def _mask(self, piece: Piece, heads: Heads) -> Tensor | None:
        """None where the kernel's own causal mask, or none, is right."""
        behind = piece.kv_len - piece.query_len
        if piece.query_len == 1 or (behind == 0 and self._window is None):
            return None
        seen = torch.ones(piece.query_len, piece.kv_len, dtype=torch.bool, device=heads.device).tril(behind)
        return seen if self._window is None else seen.triu(behind - self._window + 1)


def flash_attention() -> Callable[..., Any] | None:
    """Return torch's FlashAttention over variable lengths, or None where this torch or device has none."""
    if not torch.cuda.is_available():
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters) else None


class VarlenAttention:
    """All sequences in one kernel: FlashAttention over variable lengths.

    Args:
        kernel: From `flash_attention`.
        heads: Of the rank.
        batch: Its sequences.
        layers: Caches to rotate over.
    """

    def __init__(self, kernel: Callable[..., Any], heads: Heads, batch: Sequence[Piece], layers: int) -> None:
        self._kernel = kernel
        queries, keys = [piece.query_len for piece in batch], [piece.kv_len for piece in batch]
        ends = torch.tensor(keys).cumsum(0)
        places = [torch.arange(end - q, end) for end, q in zip(ends.tolist(), queries, strict=True)]
        self._slots = torch.cat(places).to(heads.device)
        self._starts = [_starts(lengths, heads.device) for lengths in (queries, keys)]
        self._longest = max(queries), max(keys)
        self._window = (-1 if heads.window is None else heads.window - 1, 0)
        self._caches = [heads.random(2, sum(keys), heads.kv, heads.dim) for _ in range(layers)]

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, layer: int) -> Tensor:
        """Write keys and values, attend."""
        keys, values = self._caches[layer % len(self._caches)]
        keys.index_copy_(0, self._slots, key.contiguous())
        values.index_copy_(0, self._slots, value.contiguous())
        attended: Tensor = self._kernel(
            query.contiguous(),
            keys,
            values,
            *self._starts,
            *self._longest,
            window_size=self._window,
            enable_gqa=True,
        )
        return attended


def _starts(lengths: Sequence[int], device: str) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
