"""Profile the CPU at hand, serve requests on it for real, and compare with the simulation from the profile.

Run: ``python benchmarks/validate_cpu.py``; exits with 1 if TPOT or throughput is off by more than 10 %. The server is
`tests/reference_server.py`: real forward passes of all blocks. The speed of a shared machine drifts by a tenth and more
within minutes, so each real run has a profile of its own, measured right before it; of three such pairs the median
error counts, and the spread of the real runs says how calm the machine was. Needs torch (the extra ``profiler``).
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import torch  # noqa: E402
from reference_server import Arrival, Served, Server  # noqa: E402

from llmservingsim import simulate  # noqa: E402
from llmservingsim.config.catalog import find_model  # noqa: E402
from llmservingsim.workload.request import RequestSpec  # noqa: E402

GOAL = 0.10
MODEL = "HuggingFaceTB/SmolLM2-135M"
LIMITS = {"max_num_seqs": 16, "max_num_batched_tokens": 256, "max_model_len": 1024}


class Figures(NamedTuple):
    """What is compared."""

    tpot_ms: float
    throughput: float
    ttft_ms: float


def main() -> None:
    """Profile, serve, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", default="90s", help="of each profile")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "out" / "validate-cpu")
    parser.add_argument("--rate", type=float, default=5.0, help="requests per second")
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3, help="pairs of a profile and a real run")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    arrivals = make_arrivals(options.requests, options.rate)
    torch.set_num_threads(options.threads)
    server = Server(find_model(MODEL), *LIMITS.values())
    real, predicted = [], []
    for number in range(options.runs):
        folder = options.output / str(number)
        begun_s = time.perf_counter()
        profile(folder, options.budget, options.threads)
        taken_s = time.perf_counter() - begun_s
        server.serve(arrivals[:4])
        real.append(figures(server.serve(arrivals)))
        predicted.append(simulated(folder, arrivals))
        print(f"profile in {taken_s:.0f} s, then served, load average {os.getloadavg()[0]:.2f}", flush=True)
    sys.exit(0 if report(real, predicted) else 1)


def profile(output: Path, budget: str, threads: int) -> None:
    """Run the one command, in a process of its own as a user would."""
    limits = [word for key, value in LIMITS.items() for word in ("--" + key.replace("_", "-"), str(value))]
    command = ["profile", "run", MODEL, "--hardware", "CPU-here", "--budget", budget, "-o", str(output), *limits]
    subprocess.run(
        [sys.executable, "-m", "llmservingsim", *command, "--threads", str(threads)],
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def make_arrivals(count: int, rate: float) -> list[Arrival]:
    """Poisson arrivals; prompts of 32 to 400 tokens, some beyond the token budget, answers of 16 to 64."""
    draw = random.Random(0)
    at_s, made = 0.0, []
    for _ in range(count):
        made.append(Arrival(at_s, draw.randint(32, 400), draw.randint(16, 64)))
        at_s += draw.expovariate(rate)
    return made


def figures(served: Sequence[Served]) -> Figures:
    """Means over requests; generated tokens per second from the first arrival to the last token."""
    tokens = sum(each.arrival.output for each in served)
    return Figures(
        statistics.mean(each.tpot_ms for each in served),
        tokens / max(each.last_s for each in served),
        1e3 * statistics.mean(each.first_s - each.arrival.at_s for each in served),
    )


def simulated(profiles: Path, arrivals: Sequence[Arrival], hardware: str = "CPU-here", model: str = MODEL) -> Figures:
    """Simulate the same requests with the bundle, under the options of the server."""
    run = {
        "nodes": [{"instances": [{"model": model, "hardware": hardware}]}],
        "serving": {
            **LIMITS,
            "async_scheduling": False,
            "enforce_eager": True,
            "enable_prefix_caching": False,
            "latency": {"source": "bundle"},
        },
    }
    requests = [RequestSpec(i, round(a.at_s * 1e9), a.prompt, a.output) for i, a in enumerate(arrivals)]
    result = simulate(run, requests, profiles=[profiles], hardware=[profiles / hardware / "accelerator.yaml"])
    rows = [(arrivals[record.request_id], record) for record in result.requests]
    return figures([Served(a, r.first_token_ns / 1e9, r.finish_ns / 1e9) for a, r in rows])


def report(real: Sequence[Figures], predicted: Sequence[Figures]) -> bool:
    """Print medians, spread of the real runs, median and all errors of each figure; return whether goals are kept."""
    kept = True
    print(f"{'':<22}{'measured':>10}{'spread':>9}{'simulated':>11}{'error':>9}")
    for index, name in enumerate(("TPOT, ms", "throughput, tokens/s", "TTFT, ms")):
        values, told = [run[index] for run in real], [run[index] for run in predicted]
        errors = [b / a - 1 for a, b in zip(values, told, strict=True)]
        median, error = statistics.median(values), statistics.median(errors)
        spread = (max(values) - min(values)) / median
        each = " ".join(f"{e:+.1%}" for e in errors)
        print(f"{name:<22}{median:>10.1f}{spread:>9.1%}{statistics.median(told):>11.1f}{error:>+9.1%}  ({each})")
        kept &= name.startswith("TTFT") or abs(error) <= GOAL
    return kept


if __name__ == "__main__":
    main()
