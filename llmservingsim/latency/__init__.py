"""Where operator latencies come from: measured profile bundles, or a roofline over a catalogue entry."""

from llmservingsim.latency.bundle import BundleSource, find_bundle
from llmservingsim.latency.roofline import RooflineSource
from llmservingsim.latency.source import LatencySource

__all__ = ["BundleSource", "LatencySource", "RooflineSource", "find_bundle"]
