"""Against a measured vLLM: Llama-3.1-8B on an RTX 4090, 300 ShareGPT requests at 10 per second.

The tolerances are the requirement; the present figures stand beside them. 2 % of a mean is what two runs of the same
server differ by.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llmservingsim import Run, RunOptions, SimulationResult

CASE = "vllm-rtx4090-llama3.1-8b"
MEASURED_BLOCKS = 2588
DEVICE_BYTES = 25_250_627_584
WORST_PCT = 2.0
"""Present value: 1.59 (p95 of TPOT)."""

PER_REQUEST_PCT = 2.0
"""Present values: TTFT 0.94, TPOT 1.55, E2E 0.94."""

BLOCKS_PCT = 3.0
"""What vLLM's own profiling run varies by with driver and PyTorch."""

CPU_S = 2.0
ITERATIONS_PER_CPU_S = 10_000

NATIVE = {
    "nodes": [
        {
            "instances": [
                {
                    "model": "meta-llama/Llama-3.1-8B",
                    "hardware": "RTX4090",
                    "memory_size": f"{DEVICE_BYTES}B",
                    "max_num_seqs": 256,
                    "max_num_batched_tokens": 2048,
                    "max_model_len": 32768,
                    "gpu_memory_utilization": 0.9,
                }
            ]
        }
    ]
}

Score = dict[str, Any]


def prepare(shared: Path, config: Any = None, *overrides: str) -> Run:
    data = shared / "data"
    return Run(
        config or data / "clusters" / "rtx4090_single_instance.json",
        data / "workloads" / "sharegpt-llama-3.1-8b-300-sps10.jsonl",
        RunOptions(
            profiles=[data / "profiles"],
            models=[data / "models"],
            overrides=["serving.max_num_seqs=256", *overrides],
        ),
    )


@pytest.fixture(scope="module")
def scorer(shared: Path) -> ModuleType:
    """The program that compares a run with a measured one."""
    spec = importlib.util.spec_from_file_location("score", shared / "tools" / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def score(
    shared: Path, scorer: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[SimulationResult], Score]:
    """Scores a result against the measured case."""

    def of(result: SimulationResult) -> Score:
        folder = tmp_path_factory.mktemp("run")
        result.write(folder)
        out: Score = {}
        scorer.score_requests(folder, shared / "data" / "measured" / CASE, out)
        return out

    return of


@pytest.fixture(scope="module")
def result(shared: Path) -> SimulationResult:
    return prepare(shared).execute()


@pytest.fixture(scope="module")
def scored(result: SimulationResult, score: Callable[[SimulationResult], Score]) -> Score:
    return score(result)


def test_no_headline_figure_is_off_by_more_than_two_percent(scored: Score) -> None:
    assert scored["worst"] <= WORST_PCT
    errors = [abs(scored[m][k]) for m in ("ttft", "tpot", "e2e") for k in ("mean", "p50", "p90", "p95", "p99")]
    assert max(errors) == pytest.approx(scored["worst"])  # the score counts what this test says it does


def test_no_metric_is_off_by_more_than_two_percent_per_request(scored: Score) -> None:
    assert {m: scored[m]["per_request"] <= PER_REQUEST_PCT for m in ("ttft", "tpot", "e2e")} == dict.fromkeys(
        ("ttft", "tpot", "e2e"), True
    ), scored


def test_every_request_is_served_with_the_measured_blocks(result: SimulationResult, scored: Score) -> None:
    summary = result.summary
    assert (summary["requests"]["finished"], summary["requests"]["rejected"]) == (300, 0)
    assert scored["finished"] == scored["measured_requests"] == 300
    assert summary["instances"][0]["kv_cache"]["num_gpu_blocks"] == MEASURED_BLOCKS
    assert summary["instances"][0]["latency"]["source"] == "bundle"


def test_the_blocks_are_predicted_from_the_memory_of_the_card(shared: Path) -> None:
    """No fitted number: device bytes, utilisation, and what vLLM's profiling run holds. Present value: 2,594."""
    (instance,) = prepare(shared, NATIVE).system.instances
    assert abs(instance.memory.num_blocks / MEASURED_BLOCKS - 1) * 100 <= BLOCKS_PCT


def test_without_asynchronous_scheduling_new_arrivals_wait_too_short(
    shared: Path,
    scorer: ModuleType,
    result: SimulationResult,
    scored: Score,
    score: Callable[[SimulationResult], Score],
) -> None:
    """The server forms batch k + 1 while k runs, so a new arrival waits for part of a step more.

    It shows in the first 25 requests, before the queue drowns it: their mean TTFT was measured at 743 ms, is 597 ms
    here and 575 ms with synchronous scheduling. Over the whole, saturated
    run the two differ little: worst 1.59 and 1.78.
    """
    without = prepare(shared, None, "serving.async_scheduling=false").execute()
    measured = scorer.measured_latencies(shared / "data" / "measured" / CASE / "requests.jsonl")["ttft"][:25]
    error, error_without = (
        sum(abs(r.ttft_ms - m) for r, m in zip(run.requests, measured, strict=False) if r.ttft_ms is not None)
        for run in (result, without)
    )
    assert error < 0.9 * error_without
    assert scored["worst"] < score(without)["worst"]


def test_without_prefix_caching_the_prediction_fails(
    shared: Path, score: Callable[[SimulationResult], Score], result: SimulationResult
) -> None:
    """1.9 % of the tokens looked up are found, and preempted requests find their own blocks. Worst without: 14.9."""
    without = prepare(shared, None, "serving.enable_prefix_caching=false").execute()
    assert result.summary["prefix_cache"]["npu"]["hit_pct"] == pytest.approx(1.9, abs=0.1)
    assert without.summary["prefix_cache"]["npu"]["hit_pct"] == 0
    assert score(without)["worst"] > 2 * WORST_PCT


@pytest.mark.parametrize(
    ("instance", "trace", "num_devices"),
    [
        ({"model": "meta-llama/Llama-3.1-8B"}, "sharegpt-llama-3.1-8b-300-sps10", 1),
        ({"model": "Qwen/Qwen3-32B", "tensor_parallel_size": 2}, "sharegpt-qwen3-32b-300-sps10", 2),
    ],
)
def test_the_other_profiled_device_serves_its_traces(
    shared: Path, instance: dict[str, Any], trace: str, num_devices: int
) -> None:
    """No measurement is at hand; the physics hold: nobody decodes faster than the weights can be read."""
    data = shared / "data"
    stated = {"hardware": "RTXPRO6000", "max_num_seqs": 128, "max_num_batched_tokens": 2048, **instance}
    options = RunOptions(profiles=[data / "profiles"], models=[data / "models"])
    run = Run({"nodes": [{"instances": [stated]}]}, data / "workloads" / f"{trace}.jsonl", options)
    result = run.execute()
    assert result.summary["requests"]["finished"] == 300
    assert result.summary["instances"][0]["latency"]["source"] == "bundle"
    weights_ms = run.system.instances[0].memory.weights_bytes / 1.792e12 * 1e3  # 1.792 TB/s by the data sheet
    assert min(r.tpot_ms for r in result.requests if r.tpot_ms is not None) > weights_ms
    is_communicating = result.summary["bytes_moved"]["links"]["instance:0"]["collective_bytes"] > 0
    assert is_communicating is (num_devices > 1)


def test_the_run_with_its_start_takes_two_cpu_seconds(
    shared: Path, tmp_path: Path, llmservingsim: Callable[..., Any]
) -> None:
    """Best of two, because another process may have held the core. Measured: 0.75 s."""
    data = shared / "data"
    command = ["run", data / "clusters" / "rtx4090_single_instance.json", "--set", "serving.max_num_seqs=256"]
    command += ["--workload", data / "workloads" / "sharegpt-llama-3.1-8b-300-sps10.jsonl"]
    command += ["--profiles", data / "profiles", "--models", data / "models", "--output", tmp_path]
    runs = [llmservingsim(*command) for _ in range(2)]
    assert [run.code for run in runs] == [0, 0]
    assert min(run.cpu_s for run in runs) <= CPU_S
    assert json.loads((tmp_path / "summary.json").read_text())["requests"]["finished"] == 300


def test_ten_thousand_iterations_per_cpu_second(shared: Path, cpu_s: Callable[[Callable[[], object]], float]) -> None:
    """Best of three. Measured: 27,000 on a shared core."""
    rates = []
    for _ in range(3):
        run = prepare(shared)
        spent = cpu_s(run.execute)
        rates.append(sum(i.engine.iterations for i in run.system.instances) / spent)
    assert max(rates) >= ITERATIONS_PER_CPU_S
