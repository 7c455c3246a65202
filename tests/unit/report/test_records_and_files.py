"""From a run's events to its records, samples, summary and files."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmservingsim import Run, RunOptions, SimulationResult, simulate
from llmservingsim.report import RequestRecord
from llmservingsim.report.sampler import Sampler
from llmservingsim.workload import RequestSpec, Session

Clusters = Callable[..., dict[str, Any]]


def record(**times: int | None) -> RequestRecord:
    base = {"scheduled_ns": 1_500_000, "first_token_ns": 3_000_000, "finish_ns": 9_000_000, "output_tokens": 4}
    return RequestRecord(
        request_id=0,
        session_id=None,
        model="m",
        instance=0,
        decode_instance=None,
        arrival_ns=1_000_000,
        prompt_tokens=7,
        cached_tokens=0,
        preemptions=0,
        status="finished",
        **(base | times),  # type: ignore[arg-type]
    )


def test_latencies_count_from_arrival_in_milliseconds() -> None:
    assert (record().ttft_ms, record().tpot_ms, record().e2e_ms) == (2.0, 2.0, 8.0)


def test_a_latency_that_does_not_apply_is_none() -> None:
    assert record(output_tokens=1, finish_ns=3_000_000).tpot_ms is None
    rejected = record(scheduled_ns=None, first_token_ns=None, finish_ns=None)
    assert (rejected.ttft_ms, rejected.tpot_ms, rejected.e2e_ms) == (None, None, None)


@pytest.fixture
def result(cluster: dict[str, Any]) -> SimulationResult:
    """Three requests that share a prompt, one that never fits, a goal that some requests keep."""
    prompt = tuple(range(33))
    requests = [RequestSpec(i, i * 50_000_000, 33, 3, prompt) for i in range(3)]
    requests.append(RequestSpec(3, 1_000, 5000, 5))
    cluster |= {"slo": {"ttft": "1s", "e2e": "1us"}, "timeseries_interval": "10ms"}
    return simulate(cluster, requests)


def test_a_prefix_is_found_by_the_requests_after_the_first(result: SimulationResult) -> None:
    """Two full blocks of 16 of the 33 tokens; the first request fills them."""
    assert [r.cached_tokens for r in result.requests] == [0, 32, 32, 0]
    assert result.summary["prefix_cache"]["npu"] == {
        "queried_tokens": 99,
        "hit_tokens": 64,
        "hit_pct": pytest.approx(100 * 64 / 99),
    }
    assert result.summary["tokens"] == {"prompt": 99, "cached": 64, "output": 9}


def test_the_summary_counts_and_averages_what_the_records_hold(result: SimulationResult) -> None:
    summary, finished = result.summary, result.requests[:3]
    assert summary["requests"]["arrived"] == 4
    assert summary["requests"]["rejections"][0]["request_ids"] == [3]
    assert summary["simulated_s"] == max(r.finish_ns or 0 for r in finished) / 1e9
    assert summary["latency_ms"]["ttft"]["mean"] == pytest.approx(sum(r.ttft_ms or 0 for r in finished) / 3)
    assert summary["throughput"]["output_tokens_per_s"] == pytest.approx(9 / summary["simulated_s"])
    itl = summary["latency_ms"]["itl"]["mean"]
    assert itl == pytest.approx(summary["latency_ms"]["tpot"]["mean"])  # all answers are equally long


def test_goodput_counts_requests_that_keep_every_stated_limit(
    result: SimulationResult, cluster: dict[str, Any]
) -> None:
    goodput = result.summary["goodput"]
    assert goodput["slo"] == {"ttft": "1s", "e2e": "1us"}
    assert (goodput["good_requests"], goodput["attainment_pct"]) == (0, 0.0)
    kept = simulate(cluster | {"slo": {"ttft": "1s"}}, [RequestSpec(0, 0, 5, 1)]).summary["goodput"]
    assert (kept["good_requests"], kept["attainment_pct"]) == (1, 100.0)
    without = simulate({**cluster, "slo": None}, [RequestSpec(0, 0, 5, 1)])
    assert without.summary["goodput"] is None


def test_the_provenance_names_what_would_reproduce_the_run(cluster: dict[str, Any]) -> None:
    def provenance(**keys: Any) -> dict[str, Any]:
        found: dict[str, Any] = simulate(cluster | keys, [RequestSpec(0, 0, 5, 1)]).summary["provenance"]
        return found

    first, again, other = provenance(seed=4), provenance(seed=4), provenance(timeseries_interval="2s")
    assert first == again
    assert first["seed"] == 4
    assert first["config_hash"] != other["config_hash"]
    assert len(first["config_hash"]) == 64


def test_files_hold_what_the_result_holds(result: SimulationResult, tmp_path: Path) -> None:
    paths = result.write(tmp_path / "a" / "b")
    assert [p.name for p in paths] == ["requests.csv", "timeseries.csv", "summary.json", "request_metrics.csv"]
    with paths[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["request_id"]) for row in rows] == [0, 1, 2, 3]
    assert [row["finish_ns"] for row in rows] == [
        "" if r.finish_ns is None else str(r.finish_ns) for r in result.requests
    ]
    assert "reason" not in rows[0]
    assert json.loads(paths[2].read_text()) == result.summary
    assert all(b"\r" not in path.read_bytes() for path in paths)


def test_frames_hold_what_the_result_holds(result: SimulationResult) -> None:
    requests, series = result.requests_frame(), result.timeseries_frame()
    assert list(requests["request_id"]) == [0, 1, 2, 3]
    assert requests["ttft_ms"].mean() == pytest.approx(result.summary["latency_ms"]["ttft"]["mean"])
    assert len(series) == len(result.timeseries)
    of_every_run = [column for column in requests.columns if not column.startswith("slo_")]
    assert list(simulate_nothing().requests_frame().columns) == of_every_run


def simulate_nothing() -> SimulationResult:
    instance = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100"}
    return simulate({"nodes": [{"instances": [instance]}]}, [], num_requests=0)


def test_a_session_keeps_its_name_and_its_calls_follow_each_other(cluster: dict[str, Any]) -> None:
    calls = tuple(RequestSpec(i, 0, 10, 3, session_id="s") for i in range(2))
    first, second = simulate(cluster, [Session(calls, (5_000, 0))]).requests
    assert (first.session_id, second.session_id) == ("s", "s")
    assert first.finish_ns is not None
    assert second.arrival_ns == first.finish_ns + 5_000


def test_an_interval_holds_what_happens_at_its_end(cluster: dict[str, Any]) -> None:
    """The only token comes exactly at the end of the first interval: one row, not two."""
    (request,) = simulate(cluster, [RequestSpec(0, 0, 5, 1)]).requests
    series = simulate(cluster | {"timeseries_interval": f"{request.finish_ns}ns"}, [RequestSpec(0, 0, 5, 1)]).timeseries
    assert [s.scope for s in series] == ["cluster", "node:0", "instance:0"]
    assert series[0].generation_tokens_per_s == pytest.approx(1e9 / (request.finish_ns or 0))


def test_an_idle_gap_is_sampled_with_zeros(cluster: dict[str, Any]) -> None:
    requests = [RequestSpec(0, 0, 5, 1), RequestSpec(1, 5_500_000_000, 5, 1)]
    series = [s for s in simulate(cluster, requests).timeseries if s.scope == "cluster"]
    assert [s.time_s for s in series] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert [s.generation_tokens_per_s for s in series] == [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_memory_is_weights_and_held_blocks(cluster: dict[str, Any]) -> None:
    """Two requests of 20 tokens hold two blocks each while they run; nothing but the weights is left at the end."""
    requests = [RequestSpec(i, 0, 20, 10) for i in range(2)]
    run = Run(cluster | {"timeseries_interval": "1ms"}, requests, RunOptions())
    series = [s for s in run.execute().timeseries if s.scope == "instance:0"]
    memory = run.system.instances[0].memory
    assert series[0].npu_memory_bytes == memory.weights_bytes + 4 * memory.block_bytes
    assert series[-1].npu_memory_bytes == memory.weights_bytes
    assert series[0].npu_memory_pct == pytest.approx(100 * series[0].npu_memory_bytes / memory.total_bytes, abs=1e-3)


def test_the_sampler_closes_an_interval_only_when_the_clock_has_passed_it() -> None:
    sampler = Sampler([], 100)
    sampler.sample_until(100)
    assert sampler.next_ns == 101
    assert sampler.samples == []


def test_files_are_utf_8_wherever_they_are_written(python: Any, cluster: dict[str, Any], tmp_path: Path) -> None:
    """A process whose locale knows ASCII only writes a session's name as any other does."""
    code = (
        "import json, sys\n"
        "from llmservingsim import simulate\n"
        "from llmservingsim.workload import RequestSpec, Session\n"
        "calls = (RequestSpec(0, 0, 20, 2, session_id=chr(228)),)\n"
        "simulate(json.loads(sys.argv[1]), [Session(calls, (0,))]).write(sys.argv[2])"
    )
    done = python("-c", code, json.dumps(cluster), tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.code == 0, done.err
    assert "0,\u00e4," in (tmp_path / "requests.csv").read_text(encoding="utf-8")
