"""What limited a run, and what it cost: derived afterwards from what was kept while it went on."""

from llmservingsim.explain.cost import plan_cost, summarise_cost
from llmservingsim.explain.limits import Observed, summarise_limits

__all__ = ["Observed", "plan_cost", "summarise_cost", "summarise_limits"]
