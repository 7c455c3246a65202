"""Where operator latencies come from: measured profile bundles, or a roofline over a catalogue entry."""

from llmservingsim.latency.bundle import BundleSource, find_bundle
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import ExpertLatencySource, ExpertWork, LatencySource

__all__ = ["BundleSource", "ExpertLatencySource", "ExpertWork", "LatencySource", "RooflineSource", "find_bundle"]
