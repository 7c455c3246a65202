"""What times execution graphs: the Backend protocol and the native backend, which keeps ASTRA-sim's rules."""

from llmservingsim.backend.collectives import CollectiveAlgorithm
from llmservingsim.backend.config import (
    FabricModel,
    LinkModel,
    MeasuredCollective,
    MemoryLevelModel,
    MemoryLinkModel,
    MemoryModel,
    MemoryRateModel,
    NetworkModel,
    SharedBusModel,
    SystemModel,
)
from llmservingsim.backend.memory import MemoryAccess, MemoryTiming, MemoryUse, QueuedMemory
from llmservingsim.backend.native import NativeBackend
from llmservingsim.backend.protocol import Backend, GraphId, Ticket
from llmservingsim.backend.steps import Step

__all__ = [
    "Backend",
    "CollectiveAlgorithm",
    "FabricModel",
    "GraphId",
    "LinkModel",
    "MeasuredCollective",
    "MemoryAccess",
    "MemoryLevelModel",
    "MemoryLinkModel",
    "MemoryModel",
    "MemoryRateModel",
    "MemoryTiming",
    "MemoryUse",
    "NativeBackend",
    "NetworkModel",
    "QueuedMemory",
    "SharedBusModel",
    "Step",
    "SystemModel",
    "Ticket",
]
