"""What times execution graphs: the Backend protocol and the native backend, which keeps ASTRA-sim's rules."""

from llmservingsim.backend.config import (
    FabricModel,
    LinkModel,
    MemoryLevelModel,
    MemoryModel,
    NetworkModel,
    SystemModel,
)
from llmservingsim.backend.native import NativeBackend
from llmservingsim.backend.protocol import Backend, GraphId, Ticket

__all__ = [
    "Backend",
    "FabricModel",
    "GraphId",
    "LinkModel",
    "MemoryLevelModel",
    "MemoryModel",
    "NativeBackend",
    "NetworkModel",
    "SystemModel",
    "Ticket",
]
