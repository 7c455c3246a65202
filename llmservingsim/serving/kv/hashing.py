"""Chained hashes of full blocks: a block's hash stands for all tokens up to its end."""

from __future__ import annotations

from collections.abc import Sequence

BlockHash = int

NO_PARENT: BlockHash = 0
"""Stands before the first block."""


def hash_blocks(token_ids: Sequence[int], block_size: int) -> list[BlockHash]:
    """Hash every full block of ``token_ids``, each chained to the block before.

    vLLM hashes (parent hash, token ids) with sha256. Python's hash of a tuple of integers has 64 bits, needs no
    seed and is the same in every process, which is enough to tell the blocks of a trace apart.
    """
    hashes = []
    parent = NO_PARENT
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        parent = hash((parent, *token_ids[start : start + block_size]))
        hashes.append(parent)
    return hashes
