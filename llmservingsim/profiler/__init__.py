"""Measures operators on a real device and writes the bundles that the latency room reads; an optional extra."""
