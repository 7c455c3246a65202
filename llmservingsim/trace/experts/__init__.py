"""Mixture of experts: which experts tokens go to, where these stand, and what that makes of a rank's work."""

from llmservingsim.trace.experts.placement import cache_experts, place_copies, place_experts
from llmservingsim.trace.experts.policies import EXPERT_ROUTERS, BalancedRouter
from llmservingsim.trace.experts.router import ExpertGeometry, ExpertRouter, ExpertSplit
from llmservingsim.trace.experts.routing import ExpertLoad, ExpertRouting

__all__ = [
    "EXPERT_ROUTERS",
    "BalancedRouter",
    "ExpertGeometry",
    "ExpertLoad",
    "ExpertRouter",
    "ExpertRouting",
    "ExpertSplit",
    "cache_experts",
    "place_copies",
    "place_experts",
]
