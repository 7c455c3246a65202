"""Runs from the command line to the files: what is rejected, what is cut, none, one and many requests, a deadlock."""

import csv
import json
import sys
from collections.abc import Callable
from os import pathsep
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Writer = Callable[..., Path]

REQUEST_HEADER = (
    "request_id,session_id,model,instance,decode_instance,arrival_ns,scheduled_ns,first_token_ns,finish_ns,"
    "prompt_tokens,output_tokens,cached_tokens,preemptions,status"
)
SAMPLE_HEADER = (
    "time_s,scope,prompt_tokens_per_s,generation_tokens_per_s,running,waiting,npu_memory_bytes,npu_memory_pct,"
    "cpu_memory_bytes,cxl_memory_bytes,prefix_hit_pct,power_w"
)

NEVER = """
class Never:
    def __init__(self, *parts):
        self.running, self.queue = [], []
    num_waiting = property(lambda self: len(self.queue))
    def add(self, request):
        self.queue.append(request)
    def schedule(self, now_ns):
        return []
    def finish(self, request):
        raise AssertionError
    def waiting(self):
        return self.queue
"""


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def summary(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return data


def test_what_can_never_be_served_is_rejected_with_its_reason_and_the_rest_completes(
    cli: Cli, write_config: Writer, cluster: dict[str, Any], write_lines: Writer, lines: list[Any], tmp_path: Path
) -> None:
    cluster["serving"]["max_model_len"] = 2000
    lines[3]["output_toks"] = 1900  # 20 + 1900 tokens fit the model, but not 64 blocks of 16
    lines[5]["input_toks"] = 2000  # no room for a token within max_model_len
    code, out, err = cli("run", write_config(cluster), "-w", write_lines(lines), "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "18 finished, 2 rejected" in out
    assert "its KV needs more blocks than the instance has (requests 3)" in out
    found = rows(tmp_path / "out" / "requests.csv")
    assert [row["request_id"] for row in found] == [str(i) for i in range(20)]
    assert [i for i, row in enumerate(found) if row["status"] == "rejected"] == [3, 5]
    for row in (found[3], found[5]):
        assert (row["scheduled_ns"], row["first_token_ns"], row["finish_ns"]) == ("", "", "")
    requests = summary(tmp_path / "out")["requests"]
    assert (requests["arrived"], requests["finished"], requests["rejected"], requests["held"]) == (20, 18, 2, 0)
    assert requests["rejections"] == [
        {"reason": "its KV needs more blocks than the instance has", "count": 1, "request_ids": [3]},
        {"reason": "the prompt leaves no room for output within max_model_len", "count": 1, "request_ids": [5]},
    ]


def test_the_largest_request_that_fits_is_served_and_one_token_more_is_rejected(
    cli: Cli, config: Path, write_lines: Writer, tmp_path: Path
) -> None:
    """64 usable blocks hold 1024 tokens, and the last token of an answer needs no KV."""
    lines = [{"input_toks": 1000, "output_toks": n, "arrival_time_ns": 0} for n in (25, 26)]
    assert cli("run", config, "-w", write_lines(lines), "-o", tmp_path / "out").code == 0
    assert [row["status"] for row in rows(tmp_path / "out" / "requests.csv")] == ["finished", "rejected"]


def test_an_answer_ends_at_the_models_length(
    cli: Cli, write_config: Writer, cluster: dict[str, Any], write_lines: Writer, tmp_path: Path
) -> None:
    cluster["serving"]["max_model_len"] = 100
    lines = [{"input_toks": n, "output_toks": 50, "arrival_time_ns": 0} for n in (49, 50, 51, 99, 100)]
    assert cli("run", write_config(cluster), "-w", write_lines(lines), "-o", tmp_path / "out").code == 0
    found = rows(tmp_path / "out" / "requests.csv")
    assert [(row["output_tokens"], row["status"]) for row in found] == [
        ("50", "finished"),
        ("50", "finished"),
        ("49", "finished"),
        ("1", "finished"),
        ("50", "rejected"),
    ]


def test_a_run_of_nothing_writes_headers_and_zeros(cli: Cli, config: Path, trace: Path, tmp_path: Path) -> None:
    code, out, err = cli("run", config, "-w", trace, "--num-requests", 0, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "0 finished, 0 rejected" in out
    assert (tmp_path / "out" / "requests.csv").read_text() == REQUEST_HEADER + "\n"
    assert (tmp_path / "out" / "timeseries.csv").read_text() == SAMPLE_HEADER + "\n"
    found = summary(tmp_path / "out")
    assert (found["simulated_s"], found["iterations"], found["requests"]["arrived"]) == (0.0, 0, 0)
    assert set(found["latency_ms"].values()) == {None}


def test_a_run_of_one_request_within_one_long_interval(cli: Cli, config: Path, trace: Path, tmp_path: Path) -> None:
    arguments = ["--num-requests", 1, "--interval", "1h", "-o", tmp_path / "out"]
    assert cli("run", config, "-w", trace, *arguments).code == 0
    (request,) = rows(tmp_path / "out" / "requests.csv")
    assert (request["request_id"], request["prompt_tokens"], request["output_tokens"]) == ("0", "20", "5")
    assert (request["session_id"], request["decode_instance"], request["status"]) == ("", "", "finished")
    samples = rows(tmp_path / "out" / "timeseries.csv")
    assert [(s["time_s"], s["scope"]) for s in samples] == [("3600.0", s) for s in ("cluster", "node:0", "instance:0")]
    assert float(samples[0]["generation_tokens_per_s"]) == 5 / 3600
    assert float(samples[0]["prompt_tokens_per_s"]) == 20 / 3600
    assert (tmp_path / "out" / "requests.csv").read_text().splitlines()[0] == REQUEST_HEADER
    assert (tmp_path / "out" / "timeseries.csv").read_text().splitlines()[0] == SAMPLE_HEADER


def test_no_more_than_the_asked_number_of_requests_is_served(
    cli: Cli, config: Path, trace: Path, tmp_path: Path
) -> None:
    assert cli("run", config, "-w", trace, "--num-requests", 7, "-o", tmp_path / "out").code == 0
    assert [row["request_id"] for row in rows(tmp_path / "out" / "requests.csv")] == [str(i) for i in range(7)]


def test_the_file_may_name_the_workload_beside_it(
    cli: Cli, write_config: Writer, cluster: dict[str, Any], trace: Path
) -> None:
    answer = cli("run", write_config({**cluster, "workload": trace.name}), "--json")
    assert json.loads(answer.out)["requests"]["finished"] == 20


def test_a_deadlock_lists_who_waits_and_keeps_what_happened(
    cli: Cli, config: Path, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "never_schedules.py").write_text(NEVER)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["--set", "serving.scheduler=never_schedules:Never", "--num-requests", 2, "-o", tmp_path / "out"]
    code, out, err = cli("run", config, "-w", trace, *arguments)
    del sys.modules["never_schedules"]
    assert code == 1
    assert "Results until then" in out
    first, *waiting = err.splitlines()
    assert first == "error: nothing runs and nothing will arrive, but requests wait:"
    assert len(waiting) == 2
    assert "instance 0: Request(0, waiting" in waiting[0]
    assert "waits for 2 blocks; 64 of 64 are free" in waiting[1]
    found = summary(tmp_path / "out")
    assert (found["requests"]["held"], found["requests"]["arrived"]) == (2, 2)
    assert found["simulated_s"] == 1e-3  # the second one arrived a millisecond after the first
    assert rows(tmp_path / "out" / "timeseries.csv")[0]["waiting"] == "2"


def test_the_same_deadlock_in_a_process_of_its_own(
    llmservingsim: Cli, config: Path, trace: Path, tmp_path: Path
) -> None:
    (tmp_path / "never_schedules.py").write_text(NEVER)
    override = "serving.scheduler=never_schedules:Never"
    path = f"{tmp_path}{pathsep}{Path(__file__).parents[2]}"
    done = llmservingsim("run", config, "-w", trace, "--set", override, "-q", PYTHONPATH=path)
    assert (done.code, done.out) == (1, "")
    assert done.err.count("waits for 2 blocks") == 20
    assert "Traceback" not in done.err


def test_the_first_result_comes_within_two_seconds(python: Cli, llmservingsim: Cli, tmp_path: Path) -> None:
    """What `make run` runs: a trace of 300 requests is generated, then simulated on one H100.

    Measured 1.3 CPU s where starting Python with the libraries alone takes 0.2 s, 6.4 times as long. A slow or busy
    core slows both, so the limit of two seconds is counted in such starts; best of three, because the load changes.
    """
    trace = tmp_path / "trace.jsonl"
    arguments = ["--lengths", "sharegpt", "--num-requests", 300, "--arrival", "poisson", "--request-rate", 10]
    config = Path(__file__).parents[2] / "inputs" / "clusters" / "h100-llama-8b.yaml"
    ratios = []
    for _ in range(3):
        start = python("-c", "import msgspec, numpy, rich.table, typer")
        made = llmservingsim("workload", "generate", "-o", trace, *arguments)
        done = llmservingsim("run", config, "--workload", trace, "--output", tmp_path / "out")
        assert (start.code, made.code, done.code, done.err) == (0, 0, 0, "")
        assert "300 finished, 0 rejected" in done.out
        ratios.append((made.cpu_s + done.cpu_s) / start.cpu_s)
    assert min(ratios) <= 10
