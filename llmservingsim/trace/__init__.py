"""A batch becomes an execution graph; Chakra traces are written and read."""

from llmservingsim.trace.builder import IterationBuilder
from llmservingsim.trace.cuda_graphs import capture_sizes, padded_tokens
from llmservingsim.trace.fetches import FetchPlan, Site

__all__ = ["FetchPlan", "IterationBuilder", "Site", "capture_sizes", "padded_tokens"]
