"""Simulate the serving points that ``aiconfigurator-core`` carries, and compare TTFT and TPOT with the measured ones.

    python scripts/validate_silicon.py -o docs/validation/silicon [--every N] [--workers 2]    (aiconfigurator, report)

`silicon_sample.csv` of the package aiconfigurator-core (NVIDIA, Apache-2.0) states 5,221 points: model, system, engine,
parallelism, precision, lengths, concurrency, and what was measured. What it does not state is assumed, once for all
points:

- The kernels are the database's for the point's engine, of its version or the nearest that has them.
- As many clients as the stated concurrency send a request each, and the next one when the answer is there. The public
  benchmark sends ten requests per client, and its means hold the first ones, which come all at once. Two or three per
  client are simulated here, and the first of each counts a tenth.
- Lengths of the public benchmark are uniform between 0.8 of the stated ones and these, as its script draws them; those
  of the package's own runs (``auto-gap-analysis``) are as stated.
- 8,192 tokens per iteration, no prefix cache, keys and values in 8 bits where weights have 8 or fewer (SGLang: 16).
- TTFT and TPOT are means. No time of an HTTP server or a tokeniser is added.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from llmservingsim import simulate
from llmservingsim.errors import LLMServingSimError
from llmservingsim.latency import KernelDatabase
from llmservingsim.latency.freeze import write_collectives
from llmservingsim.latency.kernel_database import SYSTEMS, database_folder, version_order
from llmservingsim.units import NS_PER_MS
from llmservingsim.workload import RequestSpec

HARDWARE = {system: hardware for hardware, system in SYSTEMS.items() if hardware != "A100-40GB"}
FAMILIES = {
    "DeepSeek-R1": "deepseek-ai/DeepSeek-V3",
    "DeepSeek-V3": "deepseek-ai/DeepSeek-V3",
    "DeepSeek-R1-NVFP4": "deepseek-ai/DeepSeek-V3",
    "DeepSeek-V3.1-NVFP4": "deepseek-ai/DeepSeek-V3",
    "Kimi-K2.5": "moonshotai/Kimi-K2.5",
    "Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
    "Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B",
    "Llama-3.1-8B-Instruct-FP8": "meta-llama/Llama-3.1-8B",
    "MiniMax-M2.5": "MiniMaxAI/MiniMax-M2.5",
    "Qwen3-235B-A22B-FP8": "Qwen/Qwen3-235B-A22B",
    "Qwen3.5-397B-A17B": "Qwen/Qwen3.5-397B-A17B",
    "Qwen3-32B": "Qwen/Qwen3-32B",
    "Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
    "gpt-oss-120b": "openai/gpt-oss-120b",
}
IN_BLOCKS = ("DeepSeek", "MiniMax", "Qwen3-235B", "Qwen3.5")
"""Models whose fp8 checkpoints have a scale per block, whatever the point says."""

WAVES = {True: 2, False: 3}
"""Requests per client, for long answers and others."""
LONG = 4096
FIRST_SHARE = 0.1
SHORTEST = 0.8


class Point(NamedTuple):
    """A measured point, in our words.

    Attributes:
        row: As the package states it.
        config: The run file.
        requests: What the clients send.
    """

    row: Mapping[str, str]
    config: dict[str, Any]
    requests: Sequence[RequestSpec]


class Outcome(NamedTuple):
    """What became of a point; ``problem`` is empty if it was simulated."""

    row: Mapping[str, str]
    ttft_ms: float = 0.0
    tpot_ms: float = 0.0
    problem: str = ""

    @property
    def ttft_error(self) -> float:
        """Relative error of the TTFT."""
        return self.ttft_ms / float(self.row["silicon_ttft_ms"]) - 1

    @property
    def tpot_error(self) -> float:
        """Relative error of the TPOT."""
        return self.tpot_ms / float(self.row["silicon_tpot_ms"]) - 1


class NotRepresentedError(Exception):
    """A point that we cannot state."""


def state(row: Mapping[str, str], collectives: Path) -> Point:
    """Put a point into our words.

    Raises:
        NotRepresentedError: If that cannot be done.
    """
    name = row["model_path"].split("/")[-1]
    if row["mode"] != "agg":
        raise NotRepresentedError("prompts and answers apart: the numbers of instances are not stated")
    if name not in FAMILIES:
        raise NotRepresentedError(f"attention of {name}")
    if int(row["attention_dp_size"] or 1) > 1:
        raise NotRepresentedError("data-parallel attention")
    tp, ep = _parallelism(row)
    if tp not in (1, 2, 4, 8, 16):
        raise NotRepresentedError(f"{tp} devices in one instance")
    found = re.search(r"silicon_concurrency=(\d+)", row["silicon_data_source"])
    if found is None:
        raise NotRepresentedError("a batch size alone, not how many instances share it")
    concurrency = int(found[1])
    stored = _quantization(row, name)
    instance: dict[str, Any] = {
        "model": FAMILIES[name],
        "hardware": HARDWARE[row["system"]],
        "tensor_parallel_size": tp,
        "kv_cache_dtype": "auto" if row["gemm_quant_mode"] in ("", "int4_wo") or row["backend"] == "sglang" else "fp8",
        "max_num_batched_tokens": 8192,
        "max_num_seqs": max(concurrency, 256),
        "enable_prefix_caching": False,
        "latency": {"source": "aiconfigurator", "database": _database(row)},
    }
    if stored is not None:
        instance["quantization"] = stored
    if ep > 1:
        instance |= {"enable_expert_parallel": True, "expert_parallel_size": ep}
    measured = collectives / f"{row['system']}-{row['backend']}.csv"
    config: dict[str, Any] = {"nodes": [{"instances": [instance]}], "clients": {"max_concurrency": concurrency}}
    if measured.is_file():
        config["network"] = {"measured_collectives": [str(measured)]}
    return Point(row, config, list(_requests(row, concurrency)))


def _parallelism(row: Mapping[str, str]) -> tuple[int, int]:
    """Return tensor and expert parallelism; where both exceed 1 some rows state their product as the former."""
    tp, ep, slices = int(row["tp_size"]), int(row["moe_ep_size"] or 1), int(row["moe_tp_size"] or 1)
    if slices == ep and tp == slices * ep and ep > 1 and f"_tp{ep}_ep{ep}" in row["id"]:
        tp = ep
    return tp, max(1, min(ep, tp))


def _quantization(row: Mapping[str, str], name: str) -> str | None:
    """Return the format of the weights, None for the checkpoint's."""
    if name.startswith("gpt-oss"):
        on_blackwell = row["system"] not in ("h100_sxm", "h200_sxm")
        return "mxfp4_mxfp8" if on_blackwell and row["backend"] == "trtllm" else "mxfp4"
    if row["gemm_quant_mode"] == "int4_wo":
        return None
    stored = {"": "none", "bfloat16": "none"}.get(row["gemm_quant_mode"], row["gemm_quant_mode"])
    return "fp8_block" if stored == "fp8" and name.startswith(IN_BLOCKS) else stored


def _database(row: Mapping[str, str]) -> dict[str, str]:
    """The engine's kernels of the last version before the point's, else of the next one after it."""
    stated = {"engine": row["backend"], "system": row["system"]}
    versions = KernelDatabase(row["system"], row["backend"]).versions
    if not re.match(r"\d", row["backend_version"]):
        return stated
    asked = version_order(row["backend_version"])
    before = [version for version in versions if version_order(version) <= asked]
    return {**stated, "version": before[-1] if before else versions[0]}


def _requests(row: Mapping[str, str], concurrency: int) -> Iterator[RequestSpec]:
    lengths = int(row["isl"]), int(row["osl"])
    draw = np.random.default_rng(0)
    is_drawn = "auto-gap-analysis" not in row["silicon_data_source"]
    for number in range(WAVES[lengths[1] >= LONG] * concurrency):
        share = draw.uniform(SHORTEST, 1.0, 2) if is_drawn else (1.0, 1.0)
        prompt, output = (max(1, round(n * s)) for n, s in zip(lengths, share, strict=True))
        yield RequestSpec(number, 0, prompt, output)


def run(point: Point) -> Outcome:
    """Simulate a point."""
    try:
        result = simulate(point.config, point.requests)
    except LLMServingSimError as error:
        return Outcome(point.row, problem=f"{type(error).__name__}: {error}")
    first = point.config["clients"]["max_concurrency"]
    begun = [(record.first_token_ns, record.arrival_ns) for record in result.requests]
    ttft = [(token_ns - arrival_ns) / NS_PER_MS for token_ns, arrival_ns in begun if token_ns is not None]
    if len(ttft) < len(begun):
        return Outcome(point.row, problem="requests that never fit")
    weighted = FIRST_SHARE * np.mean(ttft[:first]) + (1 - FIRST_SHARE) * np.mean(ttft[first:])
    return Outcome(point.row, float(weighted), result.summary["latency_ms"]["tpot"]["mean"])


def run_all(rows: Sequence[Mapping[str, str]], collectives: Path, workers: int) -> Iterator[Outcome]:
    """Simulate all points, alike ones in a row, because they read the same tables."""
    points = []
    for row in rows:
        try:
            points.append(state(row, collectives))
        except NotRepresentedError as error:
            yield Outcome(row, problem=f"not represented: {error}")
    points.sort(key=lambda p: (p.row["system"], p.row["backend"], p.row["model_path"], p.row["tp_size"]))
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(run, points, chunksize=16)


def table(outcomes: Iterable[Outcome], key: str) -> list[list[str]]:
    """Return a row per group: its name, points, median and 90th percentile of the error of TPOT and TTFT, bias."""
    groups: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[_group(outcome.row, key)].append(outcome)
    rows = []
    for name, members in sorted(groups.items()):
        cells = [name, str(len(members))]
        for errors in ([o.tpot_error for o in members], [o.ttft_error for o in members]):
            sizes = np.abs(errors)
            cells += [f"{100 * v:.1f}" for v in (np.median(sizes), np.quantile(sizes, 0.9))]
            cells.append(f"{100 * np.median(errors):+.1f}")
        rows.append(cells)
    return rows


def _group(row: Mapping[str, str], key: str) -> str:
    if key == "all":
        return "all points"
    if key == "model":
        return row["model_path"].split("/")[-1]
    if key == "precision":
        return row["gemm_quant_mode"] or "16 bits"
    return row[key]


HEADER = ("", "points", "TPOT median %", "p90 %", "bias %", "TTFT median %", "p90 %", "bias %")


def as_markdown(outcomes: Sequence[Outcome], picture: str) -> str:
    """Return the tables as a page, above them the name of a picture."""
    done = [outcome for outcome in outcomes if not outcome.problem]
    told = (__doc__ or "").split("\n\n", 2)[2].strip()
    lines = ["# Serving points that others measured", "", "Written by `scripts/validate_silicon.py`.", told, ""]
    lines += [f"{len(done):,} of {len(outcomes):,} points were simulated.", ""]
    lines += [f"![simulated over measured]({picture})", ""]
    for key in ("all", "backend", "system", "precision", "model"):
        lines += ["| " + " | ".join(HEADER) + " |", "| --- " * len(HEADER) + "|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in table(done, key)]
        lines.append("")
    reasons = Counter(re.sub(r"[\d.]+", "N", outcome.problem)[:150] for outcome in outcomes if outcome.problem)
    lines += ["| left out | points |", "| --- | --- |"]
    lines += [f"| {reason.replace('|', '/')} | {count} |" for reason, count in reasons.most_common()]
    return "\n".join(lines) + "\n"


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw simulated over measured, TPOT and TTFT, a colour per engine."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, both = plt.subplots(1, 2, figsize=(11, 5.2))
    for axes, what in zip(both, ("tpot", "ttft"), strict=True):
        for backend in ("trtllm", "sglang", "vllm"):
            mine = [o for o in outcomes if o.row["backend"] == backend]
            measured = [float(o.row[f"silicon_{what}_ms"]) for o in mine]
            axes.scatter(measured, [getattr(o, f"{what}_ms") for o in mine], s=5, alpha=0.4, label=backend)
        low, high = axes.get_xlim()
        ends = [max(low, 1e-1), high]
        axes.plot(ends, ends, color="black", linewidth=0.8)
        for factor in (0.8, 1.25):
            axes.plot(ends, [factor * end for end in ends], color="grey", linewidth=0.6, linestyle="--")
        axes.set(xscale="log", yscale="log", xlabel=f"measured {what.upper()} (ms)", ylabel="simulated (ms)")
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def write(outcomes: Sequence[Outcome], stem: Path) -> None:
    """Write the page, a row per point, and the plot."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_suffix(".md").write_text(as_markdown(outcomes, f"{stem.name}.png"), encoding="utf-8")
    done = [outcome for outcome in outcomes if not outcome.problem]
    with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["id", "ttft_ms", "tpot_ms", "ttft_error", "tpot_error"])
        for o in done:
            errors = f"{o.ttft_error:.4f}", f"{o.tpot_error:.4f}"
            writer.writerow([o.row["id"], f"{o.ttft_ms:.2f}", f"{o.tpot_ms:.3f}", *errors])
    try:
        plot(done, stem.with_suffix(".png"))
    except ImportError:
        print("no plot: it needs pip install 'llmservingsim[report]'", file=sys.stderr)


def main() -> None:
    """Simulate every point, or every N-th."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("out/silicon"), help="stem of .md, .csv and .png")
    parser.add_argument("--every", type=int, default=1, help="take every N-th point")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="", help="points whose id, model or system has this in it")
    parser.add_argument("--json", action="store_true", help="print the points left out, with their reasons")
    asked = parser.parse_args()
    with (database_folder().parent / "silicon_sample.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if asked.only in f"{row['id']} {row['model_path']} {row['system']}"]
    rows = rows[:: asked.every]
    with TemporaryDirectory() as folder:
        for system, backend in {(row["system"], row["backend"]) for row in rows}:
            write_collectives(KernelDatabase(system, backend), Path(folder) / f"{system}-{backend}.csv")
        outcomes = []
        for number, outcome in enumerate(run_all(rows, Path(folder), asked.workers), 1):
            outcomes.append(outcome)
            if number % 50 == 0 and sys.stderr.isatty():
                print(f"\r{number} of {len(rows)}", end="", file=sys.stderr)
    write(outcomes, asked.output)
    print(asked.output.with_suffix(".md").read_text(encoding="utf-8"))
    if asked.json:
        print(json.dumps([[o.row["id"], o.problem] for o in outcomes if o.problem], indent=1))


if __name__ == "__main__":
    main()
