"""Padding of batches to the sizes for which vLLM captured CUDA graphs (vllm 0.19.0)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

_LARGEST = 512


def capture_sizes(max_num_seqs: int, max_num_batched_tokens: int) -> tuple[int, ...]:
    """Return vLLM's default capture sizes: 1, 2, 4, then steps of 8 below 256 and of 16 up to the maximum.

    The maximum is twice ``max_num_seqs``, at most 512 and at most the token budget.
    """
    largest = min(2 * max_num_seqs, _LARGEST, max_num_batched_tokens)
    sizes = (1, 2, 4, *range(8, 256, 8), *range(256, _LARGEST + 1, 16))
    return tuple(size for size in sizes if size <= largest)


def verification_sizes(sizes: Sequence[int], query_len: int) -> tuple[int, ...]:
    """Round capture sizes up to multiples of what a request computes when it verifies drafts, and drop those above all.

    As vLLM does where uniform decodes have graphs of their own (``adjust_cudagraph_sizes_for_spec_decode``).
    """
    if query_len == 1 or not sizes:
        return tuple(sizes)
    rounded = {-(-size // query_len) * query_len for size in sizes}
    largest = max(sizes)
    return tuple(sorted(size for size in rounded if size <= largest)) or (query_len,) * (query_len <= largest)


def padded_tokens(num_tokens: int, sizes: Sequence[int]) -> int:
    """Return the tokens that dense operators compute: the next captured size, or the batch itself above them all."""
    index = bisect_left(sizes, num_tokens)
    return sizes[index] if index < len(sizes) else num_tokens
