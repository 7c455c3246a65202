"""A stock ASTRA-sim as the other opinion, with a stand-in for it: whole runs, and single traces rank by rank."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Writer = Callable[..., Path]
LATE = "results = [r._replace(finish_ns=r.finish_ns + 7 * r.rank) for r in results]"
SILENT = "results = results[:-1]"
FAILS = "sys.exit('critical: topology Rnig is not known')"
HANGS = "time.sleep(60)"


@pytest.fixture
def cluster_of(clusters: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Instances of the given sizes whose latencies are whole microseconds."""

    def make(*sizes: int, source: str = "whole_microseconds:WholeMicroseconds", **network: Any) -> dict[str, Any]:
        data = clusters(len(sizes), serving={"latency": {"source": source}}, network=network)
        for instance, size in zip(data["nodes"][0]["instances"], sizes, strict=True):
            instance["tensor_parallel_size"] = size
        return data

    return make


@pytest.fixture
def few(write_lines: Writer) -> Path:
    """Four requests, two at a time."""
    return write_lines(
        [{"input_toks": 20, "output_toks": 4, "arrival_time_ns": 9_000_000 * (i // 2)} for i in range(4)]
    )


@pytest.fixture
def run(cli: Cli, few: Path, write_config: Writer) -> Cli:
    """Runs a cluster under the few requests."""
    return lambda data, *options: cli("run", write_config(data), "-w", few, *options)


@pytest.mark.parametrize(
    ("sizes", "network"),
    [
        ((2,), {"topology": "FullyConnected"}),
        ((4,), {"topology": "Ring"}),
        ((1,), {"topology": "Ring"}),  # ASTRA-sim knows no network of one: a second rank idles
        ((2, 4), {"topology": "Switch"}),  # systems of their own
    ],
)
def test_a_run_timed_by_astra_sim_gives_the_same_requests(
    run: Cli,
    cluster_of: Callable[..., dict[str, Any]],
    stand_in: Callable[..., Path],
    tmp_path: Path,
    sizes: tuple[int, ...],
    network: dict[str, Any],
) -> None:
    data = cluster_of(*sizes, **network)
    assert run(data, "-o", tmp_path / "native", "-q") == (0, "", "")
    options = ["--backend", "astra-sim", "--astra-binary", stand_in(), "--astra-directory", tmp_path / "kept"]
    assert run(data, "-o", tmp_path / "astra", "-q", *options) == (0, "", "")
    for name in ("requests.csv", "timeseries.csv"):
        assert (tmp_path / "native" / name).read_bytes() == (tmp_path / "astra" / name).read_bytes()
    summary = json.loads((tmp_path / "astra" / "summary.json").read_text())
    runs = len(list((tmp_path / "kept").iterdir()))
    (note,) = summary["provenance"]["notes"]
    assert note.startswith(f"timed by {tmp_path}/AstraSim_Stand_In, run {runs} times for {summary['iterations']} iter")
    assert 0 < runs < summary["iterations"]  # equal iterations are run once


def test_durations_of_other_nanoseconds_are_rounded_and_the_run_says_so(
    cli: Cli, cluster_of: Callable[..., dict[str, Any]], write_lines: Writer, write_config: Writer, stand_in: Any
) -> None:
    """One request of one output token: one iteration, of one COMP node. Its time is a whole microsecond there."""
    config = write_config(cluster_of(1, source="roofline"))
    trace = write_lines([{"input_toks": 20, "output_toks": 1, "arrival_time_ns": 0}])
    exact_ns = json.loads(cli("run", config, "-w", trace, "--json").out)["latency_ms"]["ttft"]["mean"] * 1e6
    options = ["--backend", "astra-sim", "--astra-binary", stand_in(), "--json"]
    summary = json.loads(cli("run", config, "-w", trace, *options).out)
    rounded_ns = summary["latency_ms"]["ttft"]["mean"] * 1e6
    assert round(rounded_ns) == round(exact_ns / 1000) * 1000 != round(exact_ns)
    change = round(rounded_ns) - round(exact_ns)
    assert summary["provenance"]["notes"][1] == (
        "1 of 1 compute durations are no whole microseconds, which is all that ASTRA-sim reads: rounding changed them "
        f"by {change:+d} ns in all, by {abs(change)} ns at most"
    )


@pytest.mark.parametrize(
    ("behaviour", "timeout", "said"),
    [
        (FAILS, 60, "ended with exit code 1:\n  critical: topology Rnig is not known\n"),
        (SILENT, 60, "of 2 ranks expected, ranks 1 never finished\n"),
        (HANGS, 3, "did not end within 3 s; allow more with --astra-timeout\n"),
    ],
)
def test_a_binary_that_does_not_answer_ends_the_run_with_the_reason(
    run: Cli, cluster_of: Callable[..., dict[str, Any]], stand_in: Any, behaviour: str, timeout: int, said: str
) -> None:
    options = ["--backend", "astra-sim", "--astra-binary", stand_in(behaviour), "--astra-timeout", timeout]
    code, out, err = run(cluster_of(2), *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith(said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--backend", "astra-sim"], "--backend astra-sim: give --astra-binary PATH"),
        (["--astra-binary", "x"], "--astra-binary: the native backend runs no binary; add --backend astra-sim"),
        (["--astra-timeout", "1"], "--astra-timeout: the native backend runs no binary"),
        (["--astra-directory", "x"], "--astra-directory: the native backend runs no binary"),
        (["--backend", "astra-sim", "--astra-binary", "nowhere/x"], "ASTRA-sim binary nowhere/x: no such file"),
        (["--backend", "astra-sim", "--astra-binary", __file__], "cannot be executed"),
    ],
)
def test_options_that_do_not_fit_are_refused(cli: Cli, config: Path, trace: Path, options: Any, said: str) -> None:
    code, out, err = cli("run", config, "-w", trace, *options)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())


@pytest.fixture
def traces(run: Cli, cluster_of: Callable[..., dict[str, Any]], tmp_path: Path) -> list[object]:
    """Options that name an exported iteration of two ranks whose durations are no whole microseconds."""
    data, folder = cluster_of(2, source="roofline"), tmp_path / "traces"
    assert run(data, "-q", "--emit-traces", folder, "--emit-iterations", "1").code == 0
    (tmp_path / "groups.json").write_text("{}")
    return [
        f"--workload-configuration={folder}/instance0/iteration_00001",
        "--system-configuration",
        folder / "system.json",
        f"--network-configuration={folder}/network.yml",
        "--remote-memory-configuration",
        folder / "memory.json",
        f"--comm-group-configuration={tmp_path}/groups.json",
    ]


def test_equal_answers_compare_equal(cli: Cli, traces: list[object], stand_in: Any) -> None:
    code, out, err = cli("astra", "compare", *traces, "--astra-binary", stand_in())
    assert (code, err) == (0, "")
    assert out.endswith("all 2 ranks equal\n")


def test_a_rank_that_differs_is_shown_and_told_by_the_exit_code(cli: Cli, traces: list[object], stand_in: Any) -> None:
    code, out, err = cli("astra", "compare", *traces, "--astra-binary", stand_in(LATE), "--json")
    assert (code, err) == (1, "")
    found = json.loads(out)
    assert found["differing_ranks"] == 1
    assert [rank["astra_finish_ns"] - rank["finish_ns"] for rank in found["ranks"]] == [0, 7]
    code, out, err = cli("astra", "compare", *traces, "--astra-binary", stand_in(LATE))
    assert (code, err) == (1, "")
    assert [line.split()[7] for line in out.splitlines() if line.startswith("│")] == ["0", "-7"]
    assert out.endswith("1 of 2 ranks differ\n")


def test_a_saved_log_is_as_good_as_a_binary(cli: Cli, traces: list[object], tmp_path: Path) -> None:
    answer = cli("astra", *traces, "--whole-microseconds")
    lines = [f"[2026-03-01 12:00:00.000] [workload] [info] {line}" for line in reversed(answer.out.splitlines())]
    (tmp_path / "log.log").write_text("\n".join(["[other] [info] nothing", *lines]))
    assert cli("astra", "compare", *traces, "--astra-output", tmp_path / "log.log").code == 0
    (tmp_path / "log.log").write_text(cli("astra", *traces).out)  # exact durations, as no stock one has them
    assert cli("astra", "compare", *traces, "--astra-output", tmp_path / "log.log").code == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "of 2 ranks expected, ranks 0, 1 never finished"),
        (
            "".join(f"sys[{r}] finished, 5 cycles, exposed communication 5 cycles.\n" for r in range(4)),
            "ranks 2, 3 are",
        ),
    ],
)
def test_a_log_of_another_run_is_refused(cli: Cli, traces: list[object], tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "log.log").write_text(text)
    code, out, err = cli("astra", "compare", *traces, "--astra-output", tmp_path / "log.log")
    assert (code, out) == (2, "")
    assert said in err


def test_a_comparison_needs_one_other_side(cli: Cli, traces: list[object], tmp_path: Path) -> None:
    both = ["--astra-binary", "/bin/true", "--astra-output", tmp_path / "log"]
    for sides in ([], both):
        code, out, err = cli("astra", "compare", *traces, *sides)
        assert (code, out) == (2, "")
        assert err == "error: expected --astra-binary PATH or --astra-output FILE, one of them\n"
    code, _, err = cli("astra", "compare", *traces, "--astra-output", tmp_path / "none")
    assert (code, err) == (2, f"error: --astra-output {tmp_path}/none: No such file or directory\n")
    code, _, err = cli("astra", "compare", "--astra-binary", "/bin/true")
    assert code == 2
    assert "Missing option '--workload-configuration'" in err


def test_run_may_be_said_or_left_out(cli: Cli, traces: list[object]) -> None:
    said = cli("astra", "run", *traces)
    assert said.code == 0
    assert said == cli("astra", *traces)
