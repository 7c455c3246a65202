"""Where operator latencies come from: profile bundles, tables of your own, or a roofline over a catalogue entry."""

from llmservingsim.latency.bundle import BundleSource
from llmservingsim.latency.bundle_v0 import OlderBundleSource
from llmservingsim.latency.drafter import DrafterBundleSource
from llmservingsim.latency.find import find_bundle, is_older
from llmservingsim.latency.operator_table import OperatorTableSource
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import ExpertLatencySource, ExpertWork, LatencySource

__all__ = [
    "BundleSource",
    "DrafterBundleSource",
    "ExpertLatencySource",
    "ExpertWork",
    "LatencySource",
    "OlderBundleSource",
    "OperatorTableSource",
    "RooflineSource",
    "find_bundle",
    "is_older",
]
