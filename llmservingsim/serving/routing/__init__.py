"""Which instance a request goes to, decided from what a real router can see."""

from llmservingsim.serving.routing.choose import choose
from llmservingsim.serving.routing.loads import LoadBoard, LoadView
from llmservingsim.serving.routing.make import ROUTERS, make_router
from llmservingsim.serving.routing.protocol import (
    FinishedRequest,
    InstanceLoad,
    InstanceView,
    LearningRouter,
    PreparedRouter,
    Role,
    RoutedRequest,
    Router,
)

__all__ = [
    "ROUTERS",
    "FinishedRequest",
    "InstanceLoad",
    "InstanceView",
    "LearningRouter",
    "LoadBoard",
    "LoadView",
    "PreparedRouter",
    "Role",
    "RoutedRequest",
    "Router",
    "choose",
    "make_router",
]
