"""The paged KV cache of one instance: blocks, reference counts, the prefix index."""

from llmservingsim.serving.kv.block_pool import BlockPool
from llmservingsim.serving.kv.hashing import BlockHash, hash_blocks
from llmservingsim.serving.kv.manager import KVCacheManager

__all__ = ["BlockHash", "BlockPool", "KVCacheManager", "hash_blocks"]
