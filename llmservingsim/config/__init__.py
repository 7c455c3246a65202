"""What the user wrote: frozen strict specs, their loading, and the catalogue of models and accelerators."""

from llmservingsim.config.clients import ClientSpec, TimeoutSpec
from llmservingsim.config.instance_spec import ExpertSpec, InstanceSpec, LatencySpec, ServingSpec
from llmservingsim.config.load import apply_overrides, json_schema, load_run
from llmservingsim.config.spec import AdmissionSpec, MemorySpec, NetworkSpec, NodeSpec, RunSpec, SloSpec

__all__ = [
    "AdmissionSpec",
    "ClientSpec",
    "ExpertSpec",
    "InstanceSpec",
    "LatencySpec",
    "MemorySpec",
    "NetworkSpec",
    "NodeSpec",
    "RunSpec",
    "ServingSpec",
    "SloSpec",
    "TimeoutSpec",
    "apply_overrides",
    "json_schema",
    "load_run",
]
