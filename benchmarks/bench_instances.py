"""Time and memory per request with many instances, at the same load per instance as one.

Goal: 64 instances take at most 20 % more time per request than one, beyond what building them takes.

Run: ``python benchmarks/bench_instances.py``; exits with 1 if the goal is missed.
"""

import resource
import sys
import time

from llmservingsim import Run
from llmservingsim.workload import ArrivalSpec, GeneratorSpec, UniformLength

GOAL = 1.2
RATE_PER_INSTANCE = 10
FEW, MANY = 10_000, 100_000
"""Requests for one and for 64 instances: enough that filling the instances' tables of latencies does not count."""


def measure(instances: int, requests: int) -> float:
    """Print a line; return the CPU-seconds per request of a run, after it was built."""
    instance = {"model": "meta-llama/Llama-3.1-8B", "hardware": "H100"}
    arrivals = ArrivalSpec("poisson", {"request_rate": RATE_PER_INSTANCE * instances})
    load = GeneratorSpec(requests, UniformLength(100, 400), UniformLength(20, 100), arrivals)
    run = Run({"nodes": [{"instances": [instance] * instances}]}, load)
    start = time.process_time()
    run.execute()
    per_request = (time.process_time() - start) / requests
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{instances:3d} instances  {requests:7d} requests  {per_request * 1e6:6.0f} us each  {megabytes:6.0f} MB")
    return per_request


def main() -> int:
    """Compare one instance with 64; return 1 if the goal is missed."""
    one, many = measure(1, FEW), measure(64, MANY)
    is_missed = many > GOAL * one
    print(f"ratio {many / one:.2f}  goal {GOAL}  {'MISSED' if is_missed else 'ok'}")
    return int(is_missed)


if __name__ == "__main__":
    sys.exit(main())
