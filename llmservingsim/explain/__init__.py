"""What limited a run, what it cost and how far to trust it: derived afterwards from what was kept while it went on."""

from llmservingsim.explain.cost import plan_cost, summarise_cost
from llmservingsim.explain.limits import Observed, summarise_limits
from llmservingsim.explain.trust import time_shares

__all__ = ["Observed", "plan_cost", "summarise_cost", "summarise_limits", "time_shares"]
