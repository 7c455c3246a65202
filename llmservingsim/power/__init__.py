"""Energy from what ran: accelerators, CPU, memory, links, NIC, storage."""

from llmservingsim.power.accelerators import DeviceEnergy, Uptime, device_energy
from llmservingsim.power.capping import capped, clock_under, own_numbers
from llmservingsim.power.curve import Curve
from llmservingsim.power.ledger import Ledger, Load, StageRun, account
from llmservingsim.power.models import POWER_MODELS, PowerModel, Rest, make_power_model
from llmservingsim.power.requests import Asked, Attribution, attribute
from llmservingsim.power.server import COMPONENTS, ComputingMemory, ServerPower

__all__ = [
    "COMPONENTS",
    "POWER_MODELS",
    "Asked",
    "Attribution",
    "ComputingMemory",
    "Curve",
    "DeviceEnergy",
    "Ledger",
    "Load",
    "PowerModel",
    "Rest",
    "ServerPower",
    "StageRun",
    "Uptime",
    "account",
    "attribute",
    "capped",
    "clock_under",
    "device_energy",
    "make_power_model",
    "own_numbers",
]
