"""What `llmservingsim run` shows: tables, one line of progress, JSON alone, or nothing."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmservingsim import Run, RunOptions
from llmservingsim.cli import progress
from llmservingsim.cli.progress import LiveProgress
from llmservingsim.cli.tables import print_summary
from llmservingsim.workload import RequestSpec

Cli = Callable[..., Any]


class Terminal(io.StringIO):
    """A standard error that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Makes standard error a wide terminal that is redrawn at every tick; called within a test, after pytest's own."""
    monkeypatch.setattr(progress, "_REFRESH_S", 0.0)
    for name, value in (("COLUMNS", "200"), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)

    def attach() -> Terminal:
        shown = Terminal()
        monkeypatch.setattr("sys.stderr", shown)
        return shown

    return attach


def plain(shown: Terminal) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.getvalue())


REQUESTS = [RequestSpec(i, 0, 20, 40) for i in range(40)]


def test_progress_shows_how_far_the_run_is_and_how_it_goes(
    cluster: dict[str, Any], terminal: Callable[[], Terminal]
) -> None:
    screen = terminal()
    with LiveProgress(enabled=True) as live:
        Run(cluster, REQUESTS, RunOptions(on_progress=live.update)).execute()
    shown = plain(screen)
    assert re.search(r"requests .*\d+/40", shown)
    for pattern in (r"ms simulated", r"\d+ tok/s", r"[1-8] running", r"\d+ waiting", r"KV \d+ %", r"\d+x real time"):
        assert re.search(pattern, shown), pattern


def test_progress_that_is_not_wanted_draws_nothing(cluster: dict[str, Any], terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    with LiveProgress(enabled=False) as live:
        Run(cluster, REQUESTS, RunOptions(on_progress=live.update)).execute()
    assert screen.getvalue() == ""


def test_progress_is_redrawn_ten_times_a_second_at_most(
    cluster: dict[str, Any], terminal: Callable[[], Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_REFRESH_S", 3600.0)
    drawn: list[float] = []
    terminal()
    with LiveProgress(enabled=True) as live:
        monkeypatch.setattr(live, "_state", lambda run, now_s: str(drawn.append(now_s)))
        Run(cluster, REQUESTS, RunOptions(on_progress=live.update)).execute()
    assert len(drawn) == 1


def test_the_summary_stands_in_tables(cli: Cli, config: Path, trace: Path, tmp_path: Path) -> None:
    code, out, err = cli("run", config, "-w", trace, "-o", tmp_path / "out")
    assert (code, err) == (0, "")
    for row in ("TTFT", "TPOT", "ITL", "E2E", "queueing"):
        assert re.search(rf"{row}\W+(\d+\.\d\d\W+){{5}}", out), row
    assert "20 finished, 0 rejected" in out
    assert "roofline latencies, 65 blocks of 512.00 KiB" in out
    assert re.search(r"Results: .*requests\.csv, .*timeseries\.csv, .*summary\.json", out)


def test_lower_tiers_of_the_prefix_cache_are_told(
    cli: Cli, cluster: dict[str, Any], write_config: Callable[..., Path], trace: Path
) -> None:
    cluster["serving"] = {"prefix_storage": ["cpu", "storage"], "prefix_chunk_size": 16}
    cluster["nodes"][0] |= {kind: {"size": "1GiB", "bandwidth": "9GB/s"} for kind in ("cpu_memory", "storage")}
    shown = " ".join(cli("run", write_config(cluster), "-w", trace).out.split())
    assert "0.0 % of looked-up tokens hit, 0.0 % in cpu, 0.0 % in storage, 0 preemptions" in shown


def test_without_an_output_folder_nothing_is_written(
    cli: Cli, config: Path, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    code, out, _ = cli("run", config, "-w", trace)
    assert code == 0
    assert "Results" not in out
    assert list((tmp_path / "here").iterdir()) == []


def test_quiet_prints_nothing_and_writes_all(cli: Cli, config: Path, trace: Path, tmp_path: Path) -> None:
    assert cli("run", config, "-w", trace, "-o", tmp_path / "out", "--quiet") == (0, "", "")
    names = ["request_metrics.csv", "requests.csv", "summary.json", "timeseries.csv"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names


def test_json_prints_the_summary_and_nothing_else(cli: Cli, config: Path, trace: Path, tmp_path: Path) -> None:
    code, out, err = cli("run", config, "-w", trace, "-o", tmp_path / "out", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "out" / "summary.json").read_text())


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_nothing_is_drawn_on_a_terminal_either(
    cli: Cli, config: Path, trace: Path, terminal: Callable[[], Terminal], option: str
) -> None:
    screen = terminal()
    assert cli("run", config, "-w", trace, option).code == 0
    assert screen.getvalue() == ""


def test_a_terminal_gets_the_progress_line(
    cli: Cli, config: Path, write_lines: Callable[..., Path], terminal: Callable[[], Terminal]
) -> None:
    trace = write_lines([{"input_toks": 20, "output_toks": 200, "arrival_time_ns": 0}] * 20)
    screen = terminal()
    assert cli("run", config, "-w", trace).code == 0
    assert "real time" in plain(screen)


def test_options_reach_the_run(cli: Cli, config: Path, trace: Path) -> None:
    options = ["--seed", 9, "--num-requests", 5, "--set", "serving.max_model_len=21", "--interval", "1ms", "--json"]
    summary = json.loads(cli("run", config, "-w", trace, *options).out)
    assert summary["provenance"]["seed"] == 9
    assert summary["requests"]["finished"] == 5
    assert summary["tokens"]["output"] == 5  # 20 of 21 tokens are prompt


def test_rejections_goodput_notes_and_extrapolation_are_told(
    capsys: pytest.CaptureFixture[str], cluster: dict[str, Any]
) -> None:
    cluster["slo"] = {"ttft": "1s"}
    requests = [*REQUESTS[:3], *(RequestSpec(i, 0, 5000, 1) for i in range(100, 112))]
    summary = Run(cluster, requests).execute().summary
    summary["instances"][0]["latency"]["extrapolated_shapes"] = {"attention": 4}
    summary["provenance"]["notes"] = ["[power] is not used"]
    print_summary(summary)
    out = " ".join(capsys.readouterr().out.split())
    assert "rejected 12: its KV needs more blocks than the instance has (requests 100, 101," in out
    assert "109, ...)" in out
    assert "goodput" in out
    assert "20.0 % within SLO" in out  # rejected requests kept no limit
    assert "attainment ttft 20.0 %" in out
    assert "shapes beyond the measured grid: attention 4" in out
    assert "note: [power] is not used" in out


def test_the_verdict_and_the_cost_are_told_and_quiet_runs_tell_neither(cli: Cli, config: Path, trace: Path) -> None:
    priced = ["run", config, "-w", trace, "--set", "cost.rent.device_per_hour=3.6", "--set", "slo.e2e=1ms"]
    out = " ".join(cli(*priced).out.split())
    assert "imited by" in out
    assert "% of device time" in out
    assert "USD per million output tokens" in out
    assert "good request" not in out
    assert cli(*priced, "--quiet").out == ""


def test_an_interrupted_run_keeps_what_happened(
    cli: Cli, config: Path, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmservingsim.report import Recorder

    def interrupt(self: Recorder, *arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Recorder, "batch_ended", interrupt)
    code, out, err = cli("run", config, "-w", trace, "-o", tmp_path / "out")
    assert code != 0
    assert "Results until then" in out
    assert "Traceback" not in err
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["requests"]["held"] >= 1


def test_clients_that_gave_up_are_told(cli: Cli, config: Path, trace: Path) -> None:
    """No iteration ends within a microsecond."""
    code, out, _ = cli("run", config, "-w", trace, "--set", "timeouts.e2e=1us")
    assert code == 0
    assert "0 finished, 0 rejected, 20 aborted" in out
    assert "aborted 20: e2e (requests 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)" in " ".join(out.split())
