"""A GPU with memory that computes, on the workload of LLMServingSim 2.0's own study, beside that program's results.

Run: ``python benchmarks/pim_case_study.py``. Cluster files, workload, profiles and that program's results lie beside
the repository, in ``../shared``; without them there is nothing to run, and this says so. `docs/concepts/offloading.md`
explains the differences.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmservingsim import Run, RunOptions

DATA = Path(__file__).parents[2] / "shared" / "data"
STUDY = DATA / "measured" / "pim-case-study"
WORKLOAD = DATA / "workloads" / "fixed_in128_out512_req256_rate10.jsonl"
MOST_SEQUENCES = "serving.max_num_seqs=256"  # "b256" in the names of that program's results
ATTENTION = "nodes.0.instances.0.operators.attention=cpu"
INTERLEAVING = "nodes.0.instances.0.sub_batch_interleaving"


class Case(NamedTuple):
    """A run: what it is called, its file, what it sets, and the name of that program's results if it has some."""

    name: str
    config: str
    overrides: tuple[str, ...]
    peer: str | None = None


def cases() -> list[Case]:
    """GPU only; then attention in memory, by both models of it, whole and in halves."""
    found = [Case("GPU only", "config_gpu_only.json", (), "gpu_only")]
    for how in ("linear", "device"):
        model = f"nodes.0.cpu_memory.pim_model={how}"
        for split, peer in (("never", "pim"), ("always", "pim_sbi"), ("auto", None)):
            name = f"PIM, {how}" + ("" if split == "never" else f", halves {split}")
            overrides = (model, ATTENTION, f"{INTERLEAVING}={split}")
            found.append(Case(name, "config.json", overrides, peer if how == "linear" else None))
    return found


class Found(NamedTuple):
    """What a run took: seconds, tokens per second, milliseconds of decode iterations, energy of a token in J."""

    duration_s: float
    tokens_per_s: float
    decode_ms: float
    full_ms: float
    token_j: float | None


def simulate(case: Case) -> Found:
    """Run a case."""
    options = RunOptions(overrides=[MOST_SEQUENCES, *case.overrides], profiles=[DATA / "profiles_v0"])
    run = Run(STUDY / case.config, WORKLOAD, options)
    result = run.execute()
    duration_s = max(record.finish_ns for record in result.requests) / 1e9
    tokens = sum(record.output_tokens for record in result.requests)
    done = run.system.instances[0].activity[0].activity()
    taken_ms = (done.end_ns - done.begin_ns) / 1e6
    decoding = (done.prompt_tokens == 0) & (done.decodes > 0)
    full = decoding & (done.decodes >= 0.8 * done.decodes.max())
    return Found(
        duration_s,
        tokens / duration_s,
        float(np.mean(taken_ms[decoding])),
        float(np.mean(taken_ms[full])),
        energy_per_token(result.summary, tokens),
    )


def energy_per_token(summary: dict[str, Any], tokens: int) -> float | None:
    """What the run's energy comes to per generated token, if it was counted."""
    energy = summary["energy_j"]
    return None if energy is None else energy["total"] / tokens


def peer_results(name: str) -> tuple[float, float, float]:
    """Seconds, tokens per second and energy of a token in J that the other program found."""
    lines = (STUDY / f"peer_{name}_b256_throughput.tsv").read_text().split("\n")[1:]
    rows = [(float(second), float(rate)) for second, rate in (line.split("\t") for line in lines if line)]
    heads, values = (STUDY / "peer_energy_per_token.tsv").read_text().split("\n")[:2]
    energy = dict(zip(heads.split("\t"), map(float, values.split("\t")), strict=True))
    return rows[-1][0], sum(rate for _, rate in rows) / rows[-1][0], energy[name.replace("_", "-")]


def main() -> None:
    """Print a line per case."""
    if not STUDY.is_dir():
        print(f"{STUDY} is not there: nothing to compare")
        return
    columns = ("duration s", "tokens/s", "decode ms", "full ms", "J/token", "peer s", "peer tokens/s", "peer J/token")
    print(f"{'case':<26}" + "".join(f"{column:>14}" for column in columns))
    for case in cases():
        found = simulate(case)
        joules = f"{found.token_j:.4f}" if found.token_j is not None else "-"
        cells = [f"{found.duration_s:.1f}", f"{found.tokens_per_s:.0f}", f"{found.decode_ms:.1f}"]
        cells += [f"{found.full_ms:.1f}", joules]
        peer = peer_results(case.peer) if case.peer else None
        cells += [f"{peer[0]:.0f}", f"{peer[1]:.0f}", f"{peer[2]:.4f}"] if peer else ["-"] * 3
        print(f"{case.name:<26}" + "".join(f"{cell:>14}" for cell in cells))


if __name__ == "__main__":
    main()
