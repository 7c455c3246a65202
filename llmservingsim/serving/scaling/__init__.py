"""How many instances there should be, decided from what a real autoscaler can see."""

from llmservingsim.serving.scaling.make import SCALING_POLICIES, make_policy
from llmservingsim.serving.scaling.protocol import PlannedPolicy, ScalingPolicy, ScalingView, ServedRequest

__all__ = [
    "SCALING_POLICIES",
    "PlannedPolicy",
    "ScalingPolicy",
    "ScalingView",
    "ServedRequest",
    "make_policy",
]
