"""Chakra execution traces on disk: graphs written for ASTRA-sim, and foreign traces read as graphs."""

from llmservingsim.trace.chakra.expand import expand
from llmservingsim.trace.chakra.reader import read_traces
from llmservingsim.trace.chakra.tensors import Tensor, read_tensors
from llmservingsim.trace.chakra.writer import round_durations, write_comm_groups, write_traces

__all__ = [
    "Tensor",
    "expand",
    "read_tensors",
    "read_traces",
    "round_durations",
    "write_comm_groups",
    "write_traces",
]
