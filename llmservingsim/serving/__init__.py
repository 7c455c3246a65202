"""What a serving engine decides: which requests run in which iteration, and where their KV cache lives."""

from llmservingsim.serving.batch import Batch, Scheduled
from llmservingsim.serving.engine import Engine
from llmservingsim.serving.engine_terms import EngineConfig, Outcome, RejectReason
from llmservingsim.serving.request import Request, RequestStatus
from llmservingsim.serving.routing import ROUTERS, InstanceLoad, RoutedRequest, Router
from llmservingsim.serving.scheduler import SCHEDULERS
from llmservingsim.serving.scheduling import Scheduler, SchedulerConfig
from llmservingsim.serving.speculation import AcceptancePolicy, Speculation, SpeculationCounts, Verification
from llmservingsim.serving.speculative_engine import SpeculativeEngine

__all__ = [
    "ROUTERS",
    "SCHEDULERS",
    "AcceptancePolicy",
    "Batch",
    "Engine",
    "EngineConfig",
    "InstanceLoad",
    "Outcome",
    "RejectReason",
    "Request",
    "RequestStatus",
    "RoutedRequest",
    "Router",
    "Scheduled",
    "Scheduler",
    "SchedulerConfig",
    "Speculation",
    "SpeculationCounts",
    "SpeculativeEngine",
    "Verification",
]
