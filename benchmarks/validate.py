"""Compare simulated with measured runs: one line per measured case, with the errors of its headline figures.

Run: ``python benchmarks/validate.py [CASE]...``. The measured data and the program that scores a run lie beside the
repository, in ``../shared``; without them there is nothing to compare, and this says so.
"""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"
OUTPUT = REPOSITORY / "out" / "validate"
PERCENT_KEYS = ("mean", "p50", "p90", "p99")


@dataclass(frozen=True)
class Case:
    """A measured run: the folder that holds it, the trace that was sent, and what its config file leaves open.

    ``source`` replaces ``latency.source``.
    """

    name: str
    workload: str
    overrides: tuple[str, ...] = ()
    source: str = ""

    @property
    def title(self) -> str:
        """The case, and where its latencies come from if not from the bundle made for it."""
        return f"{self.name}, {self.source}" if self.source else self.name


LLAMA_300 = "sharegpt_req300_rate10_llama"
SYNCHRONOUS = "serving.async_scheduling=false"  # vLLM's default when the A6000 and H100 runs were made
# The servers ran with vLLM's defaults for their memory size; a cluster file that is silent means that program's 128.
A6000 = (SYNCHRONOUS, "serving.max_num_seqs=256")
H100 = (SYNCHRONOUS, "serving.max_num_seqs=1024", "serving.max_num_batched_tokens=8192")
H100_MEANS = (*H100, "serving.enable_prefix_caching=false")
CASES = [
    Case(
        "vllm-rtx4090-llama3.1-8b",
        "sharegpt-llama-3.1-8b-300-sps10",
        ("serving.max_num_seqs=256", "serving.max_num_batched_tokens=2048", "serving.max_model_len=32768"),
    ),
    Case(
        "vllm-rtxpro6000-qwen3-30b-a3b-dp2ep2",
        "sharegpt-qwen3-30b-a3b-300-sps10",
        ("serving.max_num_seqs=128", "serving.max_num_batched_tokens=2048"),
    ),
    Case(
        "vllm-rtxpro6000-qwen3-30b-a3b-dp2ep2",
        "sharegpt-qwen3-30b-a3b-300-sps10",
        ("serving.max_num_seqs=128", "serving.max_num_batched_tokens=2048"),
        source="aiconfigurator",
    ),
    Case("h100-sd", LLAMA_300, H100_MEANS),
    Case("h100-pdd", LLAMA_300, H100_MEANS),
    Case("h100-sd-pc-throughput", LLAMA_300, H100),
    Case("a6000-sd-pc-throughput", LLAMA_300, A6000),
    Case("a6000-pdd-throughput", LLAMA_300, A6000),
    Case("a6000-power-tp1", "sharegpt_pulse_req10_n3_delay60", A6000),
    Case("a6000-memory-sd-pc", "sharegpt_pulse_req50_n6_delay15_pc", A6000),
]


def simulate(case: Case, output: Path) -> str | None:
    """Run a case through the command line; return the reason when it cannot be simulated."""
    data = SHARED / "data"
    command = [
        sys.executable,
        "-m",
        "llmservingsim.cli.main",
        "run",
        str(data / "measured" / case.name / "config.json"),
    ]
    command += ["--workload", str(data / "workloads" / f"{case.workload}.jsonl"), "--output", str(output), "--quiet"]
    source = [f"serving.latency.source={case.source}"] if case.source else []
    for override in (*case.overrides, *source):
        command += ["--set", override]
    for folder, option in (("profiles", "--profiles"), ("profiles_v0", "--profiles"), ("models", "--models")):
        if (data / folder).is_dir():
            command += [option, str(data / folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed in silence"])[-1]


def score(case: Case, output: Path) -> Mapping[str, Any]:
    """Return what the scoring program says about a run, as its JSON."""
    command = [sys.executable, str(SHARED / "tools" / "score.py"), str(output)]
    command += [str(SHARED / "data" / "measured" / case.name), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def lines(scored: Mapping[str, Any]) -> list[str]:
    """Lay a score out: the signed errors of each metric, in percent."""
    shown = []
    for metric, value in scored.items():
        if metric == "means":
            errors = [f"{name} {v['error']:+.2f} %" for name, v in value.items()]
        elif isinstance(value, dict):
            errors = [f"{k} {value[k]:+.2f} %" for k in PERCENT_KEYS if k in value]
            errors += [f"{k} {v:+.2f} %" for k, v in value.items() if k.endswith("_error")]
        else:
            continue
        shown.append(f"  {metric:14s} " + "  ".join(errors))
    return shown


def power_lines(case: Case, output: Path) -> list[str]:
    """Say how far the power of single seconds is off, and what the energy went into, where power was measured."""
    path = SHARED / "data" / "measured" / case.name / "server_power.tsv"
    if not path.is_file():
        return []
    measured = [float(row["power_w"]) for row in read(path, "\t")]
    power = [float(row["power_w"]) for row in read(output / "timeseries.csv", ",") if row["scope"] == "cluster"]
    errors = sorted(abs(p - m) for p, m in zip(power, measured, strict=False))
    mean, p95 = sum(errors) / len(errors), errors[round(0.95 * (len(errors) - 1))]
    energy = json.loads((output / "summary.json").read_text())["energy_j"]
    parts = [f"{name} {joules / 1000:.2f}" for name, joules in energy["components"].items()]
    return [f"  power of a second, W: mean error {mean:.1f}, p95 {p95:.1f}", f"  energy, kJ: {'  '.join(parts)}"]


def read(path: Path, delimiter: str) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with path.open() as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def main(names: Sequence[str]) -> int:
    """Print the table; return 1 if a name is unknown, else 0."""
    if not (SHARED / "tools" / "score.py").is_file():
        print(f"skipped: no measured runs at {SHARED}")
        return 0
    unknown = set(names) - {case.name for case in CASES}
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; expected some of {', '.join(c.name for c in CASES)}")
        return 1
    for case in CASES:
        if names and case.name not in names:
            continue
        if not (SHARED / "data" / "measured" / case.name).is_dir():
            print(f"{case.name}: skipped, no data")
            continue
        output = OUTPUT / case.title.replace(", ", "-")
        reason = simulate(case, output)
        if reason is not None:
            print(f"{case.title}: not simulated: {reason}")
            continue
        scored = score(case, output)
        shown = [*lines(scored), *power_lines(case, output)]
        print(f"{case.title}: worst {scored['worst']:.2f} %", *shown, sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
