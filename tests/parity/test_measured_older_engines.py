"""Against servers that older profile bundles describe: Llama-3.1-70B on four H100, Llama-3.1-8B on an A6000
and, prompts and answers apart, on two.

The runs were made with a vLLM that schedules synchronously, at its own defaults for the device. Tolerances are the
requirement; the present figures stand beside them.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmservingsim import Run, RunOptions, SimulationResult

SYNCHRONOUS = "serving.async_scheduling=false"
H100 = (SYNCHRONOUS, "serving.max_num_seqs=1024", "serving.max_num_batched_tokens=8192")
A6000 = (SYNCHRONOUS, "serving.max_num_seqs=256")
LLAMA_300 = "sharegpt_req300_rate10_llama"

MEANS_PCT = {"throughput_tok_s": 1.5, "mean_tpot_ms": 2.0, "mean_ttft_ms": 5.0}
"""Present values: +0.15, -0.93, +0.94."""

THROUGHPUT_PCT = 3.0
"""Present values: H100 +0.13, A6000 +0.90, which is what the servers were asked for but did not count; two A6000
+0.03."""

SHAPE_PCT = 10.0
"""Per second, the clocks aligned to a second. Present values: H100 5.2, A6000 8.5, two A6000 3.6; with the measured
attention kernel for decodes too, 12 and 40 for one instance."""

HIT_POINTS = 0.5
"""Present value: 25.73 against 25.7 %."""

Score = dict[str, Any]


@pytest.fixture(scope="module")
def scorer(shared: Path) -> ModuleType:
    """The program that compares a run with a measured one."""
    if not (shared / "data" / "profiles_v0").is_dir():
        pytest.skip("no older profile bundles beside the repository")
    spec = importlib.util.spec_from_file_location("score", shared / "tools" / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def execute(shared: Path, case: str, trace: str, *overrides: str) -> SimulationResult:
    data = shared / "data"
    options = RunOptions(profiles=[data / "profiles_v0"], models=[data / "models"], overrides=list(overrides))
    return Run(data / "measured" / case / "config.json", data / "workloads" / f"{trace}.jsonl", options).execute()


def means(shared: Path, scorer: ModuleType, folder: Path, *overrides: str) -> dict[str, float]:
    """Errors of the means of h100-sd in percent."""
    result = execute(shared, "h100-sd", LLAMA_300, *H100, "serving.enable_prefix_caching=false", *overrides)
    assert result.summary["instances"][0]["latency"]["layout"] == "older"
    result.write(folder)
    out: Score = {}
    scorer.score_means(folder, shared / "data" / "measured" / "h100-sd", out)
    return {name: value["error"] for name, value in out["means"].items()}


def test_the_means_of_four_h100_are_met(shared: Path, scorer: ModuleType, tmp_path: Path) -> None:
    errors = means(shared, scorer, tmp_path)
    assert {name: abs(errors[name]) <= limit for name, limit in MEANS_PCT.items()} == dict.fromkeys(MEANS_PCT, True), (
        errors
    )


def test_asynchronous_scheduling_would_have_new_requests_wait_a_step_more(
    shared: Path, scorer: ModuleType, tmp_path: Path
) -> None:
    """TTFT +44 %: the measured server did not form a batch while another ran."""
    assert means(shared, scorer, tmp_path, "serving.async_scheduling=true")["mean_ttft_ms"] > 30


@pytest.mark.parametrize(
    ("kv_transfer", "ttft_pct"),
    [((), (-15, 15)), (("kv_transfer.first_token=prefill", "kv_transfer.get_finished=at_end"), (-100, -60))],
)
def test_the_first_token_of_a_pair_comes_from_the_decode_side(
    shared: Path, scorer: ModuleType, tmp_path: Path, kv_transfer: tuple[str, ...], ttft_pct: tuple[float, float]
) -> None:
    """Present values: -10.8 and -68.4 % of the measured mean TTFT."""
    execute(shared, "h100-pdd", LLAMA_300, *H100, "serving.enable_prefix_caching=false", *kv_transfer).write(tmp_path)
    out: Score = {}
    scorer.score_means(tmp_path, shared / "data" / "measured" / "h100-pdd", out)
    assert ttft_pct[0] < out["means"]["mean_ttft_ms"]["error"] < ttft_pct[1]


THROUGHPUTS = [("h100-sd-pc-throughput", H100), ("a6000-sd-pc-throughput", A6000), ("a6000-pdd-throughput", A6000)]


@pytest.mark.parametrize(("case", "overrides"), THROUGHPUTS)
def test_generated_tokens_per_second_follow_the_measured_ones(
    shared: Path, scorer: ModuleType, tmp_path: Path, case: str, overrides: tuple[str, ...]
) -> None:
    execute(shared, case, LLAMA_300, *overrides).write(tmp_path)
    out: Score = {}
    measured = shared / "data" / "measured" / case
    scorer.score_series(tmp_path, measured, out, "throughput.tsv", "throughput", "generation_tokens_per_s")
    assert abs(out["throughput.tsv"]["mean_error"]) <= THROUGHPUT_PCT
    truth = [float(row["throughput"]) for row in scorer.rows(measured / "throughput.tsv", "\t")]
    _, mine = scorer.per_second(tmp_path, "generation_tokens_per_s")
    late = [0.0, *mine]  # the measured row 0 holds what was generated before time 0: nothing
    length = max(len(late), len(truth))
    late, truth = late + [0.0] * (length - len(late)), truth + [0.0] * (length - len(truth))
    assert 100 * sum(abs(m - t) for m, t in zip(late, truth, strict=True)) / sum(truth) <= SHAPE_PCT


def test_the_prefix_cache_of_the_a6000_ends_at_the_measured_ratio(shared: Path, scorer: ModuleType) -> None:
    result = execute(shared, "a6000-memory-sd-pc", "sharegpt_pulse_req50_n6_delay15_pc", *A6000)
    truth = scorer.rows(shared / "data" / "measured" / "a6000-memory-sd-pc" / "memory.tsv", "\t")
    hit_pct = result.summary["prefix_cache"]["npu"]["hit_pct"]
    assert abs(hit_pct - float(truth[-1]["prefix_hit_pct"])) <= HIT_POINTS
