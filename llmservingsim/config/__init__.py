"""What the user wrote: frozen strict specs, their loading, and the catalogue of models and accelerators."""

from llmservingsim.config.autoscaling import AutoscalingSpec
from llmservingsim.config.clients import ClientSpec, TimeoutSpec
from llmservingsim.config.cost_spec import CostSpec, OwnSpec, RentSpec
from llmservingsim.config.instance_spec import ExpertSpec, InstanceSpec, LatencySpec, ServingSpec
from llmservingsim.config.kv_transfer import KvTransferSpec
from llmservingsim.config.load import apply_overrides, json_schema, load_run
from llmservingsim.config.lora_spec import LoraSpec
from llmservingsim.config.memory_spec import CxlSpec, MemorySpec, NodeMemorySpec, PortSpec, SwitchSpec
from llmservingsim.config.operator_table_spec import ColumnNames, OperatorTableSpec
from llmservingsim.config.placement_spec import PlacementSpec
from llmservingsim.config.power_spec import NodePowerSpec, PowerRunSpec
from llmservingsim.config.slo_spec import SLO_LIMITS, SloSpec, parse_statistic
from llmservingsim.config.spec import AdmissionSpec, NetworkSpec, NodeSpec, RunSpec
from llmservingsim.config.speculative_spec import SpeculativeSpec
from llmservingsim.config.tier_spec import TierSpec

__all__ = [
    "SLO_LIMITS",
    "AdmissionSpec",
    "AutoscalingSpec",
    "ClientSpec",
    "ColumnNames",
    "CostSpec",
    "CxlSpec",
    "ExpertSpec",
    "InstanceSpec",
    "KvTransferSpec",
    "LatencySpec",
    "LoraSpec",
    "MemorySpec",
    "NetworkSpec",
    "NodeMemorySpec",
    "NodePowerSpec",
    "NodeSpec",
    "OperatorTableSpec",
    "OwnSpec",
    "PlacementSpec",
    "PortSpec",
    "PowerRunSpec",
    "RentSpec",
    "RunSpec",
    "ServingSpec",
    "SloSpec",
    "SpeculativeSpec",
    "SwitchSpec",
    "TierSpec",
    "TimeoutSpec",
    "apply_overrides",
    "json_schema",
    "load_run",
    "parse_statistic",
]
