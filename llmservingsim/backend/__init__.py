"""What times execution graphs: the Backend protocol and the native backend, which keeps ASTRA-sim's rules."""

from llmservingsim.backend.config import MemoryLevelModel, MemoryModel, NetworkModel, SystemModel
from llmservingsim.backend.memory import MemoryAccess, MemoryTiming, MemoryUse, QueuedMemory
from llmservingsim.backend.native import NativeBackend
from llmservingsim.backend.protocol import Backend, GraphId, Ticket

__all__ = [
    "Backend",
    "GraphId",
    "MemoryAccess",
    "MemoryLevelModel",
    "MemoryModel",
    "MemoryTiming",
    "MemoryUse",
    "NativeBackend",
    "NetworkModel",
    "QueuedMemory",
    "SystemModel",
    "Ticket",
]
