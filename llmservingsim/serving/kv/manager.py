"""Which blocks a request gets, with the semantics of vLLM V1's KV cache manager (vllm 0.19.0)."""

from __future__ import annotations

from llmservingsim.serving.kv.block_pool import BlockPool
from llmservingsim.serving.kv.tiers import KvTiers
from llmservingsim.serving.request import Request


class KVCacheManager:
    """Blocks of one instance.

    Args:
        num_blocks: vLLM's ``num_gpu_blocks`` (one is the null block).
        block_size: Tokens per block.
        enable_prefix_caching: Whether full blocks are found again by their hash.
        recompute_last_hit: Whether the last block found is computed again, because a drafter needs its hidden states.

    Attributes:
        queried_tokens, hit_tokens: Looked up at first admissions, and found on the device.
        tiers: What lies below the device, if anything does.
    """

    def __init__(
        self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool = True, recompute_last_hit: bool = False
    ) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self.recompute_last_hit = recompute_last_hit
        self.queried_tokens = 0
        self.hit_tokens = 0
        self.tiers: KvTiers | None = None

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold ``num_tokens`` tokens."""
        return -(-num_tokens // self.block_size)

    def can_ever_hold(self, num_tokens: int) -> bool:
        """Whether a sequence of this length fits an empty cache."""
        return self.blocks_for(num_tokens) <= self.pool.num_usable

    def cached_prefix(self, request: Request) -> list[int]:
        """Return the blocks that hold the longest cached prefix.

        At least the last token is always computed, so a fully cached prompt recomputes its last block.
        """
        if not self.enable_prefix_caching:
            return []
        blocks = []
        find = self.pool.find
        for block_hash in request.block_hashes[: (request.num_tokens - 1) // self.block_size]:
            block = find(block_hash)
            if block is None:
                break
            blocks.append(block)
        return blocks[:-1] if self.recompute_last_hit else blocks

    def fits_whole(self, request: Request, prefix: list[int]) -> bool:
        """Whether the blocks of the whole current sequence, tokens that are being sampled included, could be taken now.

        Hits that lie on the free queue leave it and so count against what is free.
        """
        is_free = self.pool.is_free
        tokens = request.num_tokens + request.num_output_placeholders
        needed = self.blocks_for(tokens) - len(prefix) + sum(map(is_free, prefix))
        return needed <= self.pool.num_free

    def can_admit(self, prefix: list[int], num_new_tokens: int) -> bool:
        """Whether the blocks for the first ``num_new_tokens`` after the prefix could be taken now."""
        is_free = self.pool.is_free
        total = self.blocks_for(len(prefix) * self.block_size + num_new_tokens)
        return total - len(prefix) + sum(map(is_free, prefix)) <= self.pool.num_free

    def admit(self, request: Request, prefix: list[int]) -> None:
        """Give a waiting request its cached prefix."""
        self.pool.hold(prefix)
        request.block_ids = prefix
        request.num_cached_blocks = len(prefix)
        request.num_computed_tokens = len(prefix) * self.block_size
        if self.enable_prefix_caching and request.num_preemptions == 0:
            self.queried_tokens += request.num_tokens
            self.hit_tokens += request.num_computed_tokens

    def allocate(self, request: Request, num_new_tokens: int, num_lookahead_tokens: int = 0) -> bool:
        """Take the blocks for ``num_new_tokens`` more tokens; return False, changing nothing, if they are not free.

        Behind these there is room for ``num_lookahead_tokens`` that a drafter writes ahead.
        """
        total = request.num_computed_tokens + num_new_tokens
        missing = -(-(total + num_lookahead_tokens) // self.block_size) - len(request.block_ids)
        if missing > 0:
            if missing > self.pool.num_free:
                return False
            request.block_ids += self.pool.take(missing)
        self.cache_full_blocks(request, min(total, request.num_tokens))
        return True

    def reserve(self, request: Request, num_tokens: int) -> None:
        """Take the blocks that the first ``num_tokens`` tokens lack, for KV that comes from elsewhere.

        They are free (`fits_whole`), and enter the prefix index when the KV has come (`cache_full_blocks`). A request
        that took the blocks of its whole sequence can go on without another, so none of these waits for the others.
        """
        missing = self.blocks_for(num_tokens) - len(request.block_ids)
        if missing > 0:
            request.block_ids += self.pool.take(missing)

    def cache_full_blocks(self, request: Request, num_tokens: int) -> None:
        """Enter the blocks that the first ``num_tokens`` tokens fill into the prefix index."""
        full = num_tokens // self.block_size
        if full <= request.num_cached_blocks or not self.enable_prefix_caching:
            return
        hashes = request.block_hashes
        for i in range(request.num_cached_blocks, min(full, len(hashes))):
            self.pool.cache(request.block_ids[i], hashes[i])
        if self.tiers is not None:
            self.tiers.filled(request, request.num_cached_blocks, min(full, len(hashes)))
        request.num_cached_blocks = full

    def free(self, request: Request) -> None:
        """Release all blocks of a request, its tail first, so that the tail is reused first."""
        self.pool.release(reversed(request.block_ids))
        request.block_ids = []
        request.num_cached_blocks = 0
