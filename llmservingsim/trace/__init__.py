"""A batch becomes an execution graph; Chakra traces are written and read."""

from llmservingsim.trace.block_times import BlockTimes
from llmservingsim.trace.builder import IterationBuilder
from llmservingsim.trace.cuda_graphs import capture_sizes, padded_tokens, verification_sizes
from llmservingsim.trace.fetches import FetchPlan, Site
from llmservingsim.trace.interleaving import InterleavedBuilder
from llmservingsim.trace.offloading import Helper, Link, OffloadBuilder, OffloadPlan
from llmservingsim.trace.speculative import DrafterBuilder, GraphBuilder, SpeculativeBuilder

__all__ = [
    "BlockTimes",
    "DrafterBuilder",
    "FetchPlan",
    "GraphBuilder",
    "Helper",
    "InterleavedBuilder",
    "IterationBuilder",
    "Link",
    "OffloadBuilder",
    "OffloadPlan",
    "Site",
    "SpeculativeBuilder",
    "capture_sizes",
    "padded_tokens",
    "verification_sizes",
]
