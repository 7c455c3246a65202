"""A batch becomes an execution graph; Chakra traces are written and read."""

from llmservingsim.trace.block_times import BlockTimes
from llmservingsim.trace.builder import IterationBuilder
from llmservingsim.trace.cuda_graphs import capture_sizes, padded_tokens

__all__ = ["BlockTimes", "IterationBuilder", "capture_sizes", "padded_tokens"]
