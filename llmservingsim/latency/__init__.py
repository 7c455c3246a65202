"""Where operator latencies come from: profile bundles, tables of your own, or rooflines, calibrated or plain."""

from llmservingsim.latency.bundle import BundleSource
from llmservingsim.latency.bundle_v0 import OlderBundleSource
from llmservingsim.latency.calibrated import CalibratedRoofline, fitted
from llmservingsim.latency.clocked import at_clock
from llmservingsim.latency.database_source import DatabaseSource, MeasuredKernels
from llmservingsim.latency.drafter import DrafterBundleSource
from llmservingsim.latency.find import SHIPPED, VARIANTS, bundle_name, find_bundle, is_older, shipped_model
from llmservingsim.latency.kernel_database import KernelDatabase, system_of
from llmservingsim.latency.measured import has_bundles
from llmservingsim.latency.operator_table import OperatorTableSource
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import ExpertLatencySource, ExpertWork, LatencySource

__all__ = [
    "SHIPPED",
    "VARIANTS",
    "BundleSource",
    "CalibratedRoofline",
    "DatabaseSource",
    "DrafterBundleSource",
    "ExpertLatencySource",
    "ExpertWork",
    "KernelDatabase",
    "LatencySource",
    "MeasuredKernels",
    "OlderBundleSource",
    "OperatorTableSource",
    "RooflineSource",
    "at_clock",
    "bundle_name",
    "find_bundle",
    "fitted",
    "has_bundles",
    "is_older",
    "shipped_model",
    "system_of",
]
