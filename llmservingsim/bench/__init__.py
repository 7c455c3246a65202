"""Replays a workload against a real OpenAI-compatible server and compares what it measures with a simulation."""
