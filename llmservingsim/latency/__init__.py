"""Where operator latencies come from: profile bundles, tables of your own, or rooflines, calibrated or plain."""

from llmservingsim.latency.adapters import with_adapters
from llmservingsim.latency.bundle import BundleSource
from llmservingsim.latency.bundle_v0 import OlderBundleSource
from llmservingsim.latency.calibrated import CalibratedRoofline, fitted
from llmservingsim.latency.clocked import ClockedSource, at_clock
from llmservingsim.latency.database_source import DatabaseSource
from llmservingsim.latency.drafter import DrafterBundleSource
from llmservingsim.latency.find import SHIPPED, VARIANTS, bundle_name, find_bundle, is_older, shipped_model, variant_of
from llmservingsim.latency.kernel_database import KernelDatabase, system_of
from llmservingsim.latency.measured import has_bundles
from llmservingsim.latency.measured_kernels import MeasuredAttention, MeasuredKernels
from llmservingsim.latency.operator_table import OperatorTableSource
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import (
    ExpertLatencySource,
    ExpertWork,
    Grade,
    GradedLatencySource,
    LatencySource,
    PartialLatencySource,
)

__all__ = [
    "SHIPPED",
    "VARIANTS",
    "BundleSource",
    "CalibratedRoofline",
    "ClockedSource",
    "DatabaseSource",
    "DrafterBundleSource",
    "ExpertLatencySource",
    "ExpertWork",
    "Grade",
    "GradedLatencySource",
    "KernelDatabase",
    "LatencySource",
    "MeasuredAttention",
    "MeasuredKernels",
    "OlderBundleSource",
    "OperatorTableSource",
    "PartialLatencySource",
    "RooflineSource",
    "at_clock",
    "bundle_name",
    "find_bundle",
    "fitted",
    "has_bundles",
    "is_older",
    "shipped_model",
    "system_of",
    "variant_of",
    "with_adapters",
]
