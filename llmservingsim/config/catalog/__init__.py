"""What the simulator knows by name: accelerators, models, networks and memories that compute, each number sourced."""

from llmservingsim.config.catalog.accelerator import (
    AcceleratorSpec,
    EfficiencySpec,
    PowerSpec,
    PriceSpec,
    catalogued_accelerators,
    find_accelerator,
    load_accelerators,
)
from llmservingsim.config.catalog.formats import FORMATS
from llmservingsim.config.catalog.hf_config import from_hf_config
from llmservingsim.config.catalog.model import ModelFamily, ModelSpec, quantised
from llmservingsim.config.catalog.models import catalogued_models, find_model
from llmservingsim.config.catalog.network import NetworkEntry, catalogued_networks, find_network
from llmservingsim.config.catalog.pim import PimSpec, catalogued_pim, find_pim

__all__ = [
    "FORMATS",
    "AcceleratorSpec",
    "EfficiencySpec",
    "ModelFamily",
    "ModelSpec",
    "NetworkEntry",
    "PimSpec",
    "PowerSpec",
    "PriceSpec",
    "catalogued_accelerators",
    "catalogued_models",
    "catalogued_networks",
    "catalogued_pim",
    "find_accelerator",
    "find_model",
    "find_network",
    "find_pim",
    "from_hf_config",
    "load_accelerators",
    "quantised",
]
