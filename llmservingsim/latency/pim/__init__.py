"""Memory that computes: attention and matrix-vector products where keys, values and weights lie."""

from llmservingsim.latency.pim.bank import BankPim
from llmservingsim.latency.pim.device import PimDevice, PimPower
from llmservingsim.latency.pim.linear import LinearPim
from llmservingsim.latency.pim.make import PimModel, make_pim

__all__ = ["BankPim", "LinearPim", "PimDevice", "PimModel", "PimPower", "make_pim"]
