"""ASTRA-sim's own input files, read and written: network YAML, system JSON, memory JSON, communicator groups JSON."""

from llmservingsim.backend.astra_files.groups import read_groups, write_groups
from llmservingsim.backend.astra_files.memory import read_memory, write_memory
from llmservingsim.backend.astra_files.network import read_network, write_network
from llmservingsim.backend.astra_files.programs import CHAKRA_DIALECTS
from llmservingsim.backend.astra_files.system import (
    read_programs_by_node,
    read_system,
    read_tensor_tracking,
    write_system,
)

__all__ = [
    "CHAKRA_DIALECTS",
    "read_groups",
    "read_memory",
    "read_network",
    "read_programs_by_node",
    "read_system",
    "read_tensor_tracking",
    "write_groups",
    "write_memory",
    "write_network",
    "write_system",
]
