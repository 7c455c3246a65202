"""What several rooms of tests share: small inputs, the measured data beside the repository, the command line."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import settings

# The same examples in every run, so that a change is judged by what it changed. `make explore` draws others.
settings.register_profile("repeatable", derandomize=True)
settings.register_profile("explore", derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

REPOSITORY = Path(__file__).parents[1]
SHARED = REPOSITORY.parent / "shared"
MODEL = "meta-llama/Llama-3.2-1B"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")


class Answer(NamedTuple):
    """What the command line did."""

    code: int
    out: str
    err: str


class Finished(NamedTuple):
    """What a process of its own did, and what it took."""

    code: int
    out: str
    err: str
    cpu_s: float
    peak_bytes: int


def run_process(*arguments: object, **environment: str) -> Finished:
    """Run ``python ARGUMENTS`` with the repository on its path; CPU seconds and memory are this process's alone."""
    command = [sys.executable, *map(str, arguments)]
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    inherited = {key: value for key, value in os.environ.items() if key != "FORCE_COLOR"}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**inherited, "PYTHONPATH": path, **environment},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    process.stderr.close()
    return Finished(process.returncode, out, err, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


@pytest.fixture(scope="session")
def python() -> Callable[..., Finished]:
    """Runs Python in a process of its own."""
    return run_process


@pytest.fixture(scope="session")
def llmservingsim() -> Callable[..., Finished]:
    """Runs the command line in a process of its own, as a user does."""

    def call(*arguments: object, **environment: str) -> Finished:
        return run_process("-m", "llmservingsim.cli.main", *arguments, **environment)

    return call


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs the command line in this process, errors and exit code included."""
    from llmservingsim.cli.main import main

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["llmservingsim", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


STAND_IN = """#!{python}
import sys, time
from pathlib import Path
sys.path.insert(0, {repository!r})
from llmservingsim.backend.astra import run_traces
from llmservingsim.backend.astra_files import read_groups, read_memory, read_network, read_system
from llmservingsim.trace.chakra import read_traces, round_durations

options = dict(argument.removeprefix("--").split("=", 1) for argument in sys.argv[1:])
file = lambda name: Path(options[name + "-configuration"])
Path(options["logging-folder"]).mkdir()
network, groups = read_network(file("network")), read_groups(file("comm-group"))
if min(network.npus_count) < 2:
    sys.exit("npus_count must be larger than 1")
graph = round_durations(read_traces(file("workload"), ranks=network.npus, groups=groups))
results = run_traces(graph, network, read_system(file("system")), read_memory(file("remote-memory")))
{behaviour}
for rank, finish, exposed in results:
    line = f"sys[{{rank}}] finished, {{finish}} cycles, exposed communication {{exposed}} cycles."
    print("[2026-03-01 12:00:00.000] [workload] [info]", line)
    print("[2026-03-01 12:00:00.000] [statistics] [info]", f"sys[{{rank}}], Wall time: {{finish}}")
"""


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[..., Path]:
    """Writes an executable that stands in for an ASTRA-sim: it reads what a stock one reads and answers in its format.

    It answers as our own backend does, unless a ``behaviour``, Python that sees ``results``, changes that.
    """

    def write(behaviour: str = "") -> Path:
        path = tmp_path / "AstraSim_Stand_In"
        path.write_text(STAND_IN.format(python=sys.executable, repository=str(REPOSITORY), behaviour=behaviour))
        path.chmod(0o755)
        return path

    return write


@pytest.fixture(scope="session")
def cpu_s() -> Callable[[Callable[[], object]], float]:
    """Measures the CPU seconds of a call, as a core would need that does `yardstick` in `YARDSTICK_S`.

    A core that is slower, or shares its caches and clock with busy neighbours, would miss budgets of absolute seconds
    through no fault of what is measured. A faster one gets no harder budget.
    """

    def spend(call: Callable[[], object]) -> float:
        start = time.process_time()
        call()
        return time.process_time() - start

    def measure(call: Callable[[], object]) -> float:
        before = spend(yardstick)
        spent = spend(call)
        return spent / max(1.0, min(before, spend(yardstick)) / YARDSTICK_S)

    return measure


YARDSTICK_S = 0.011
"""What `yardstick` takes on the core on which the budgets were set."""


def yardstick() -> None:
    """Work of the kind that a simulation does: small objects, tuples, a dictionary."""
    found: dict[int, object] = {}
    for number in range(60_000):
        found[number & 1023] = (number, found.get(number & 511))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of measured runs and profiles beside the repository; without it the test is skipped."""
    if not (SHARED / "data" / "measured").is_dir():
        pytest.skip(f"the measured runs and profiles are not at {SHARED}")
    return SHARED


def make_cluster(instances: int = 1, serving: Mapping[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """A run of small instances on one node: 64 KV blocks of 16 tokens, 8 sequences, 64 tokens per iteration.

    Times are the roofline's, which nothing that ships or is fitted can move.
    """
    instance = {
        "model": MODEL,
        "hardware": "H100",
        "num_gpu_blocks": 65,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 64,
    }
    return {
        "nodes": [{"instances": [dict(instance) for _ in range(instances)]}],
        "serving": {"latency": {"source": "roofline"}, **(serving or {})},
        **keys,
    }


@pytest.fixture
def cluster() -> dict[str, Any]:
    """One small instance."""
    return make_cluster()


@pytest.fixture(scope="session")
def clusters() -> Callable[..., dict[str, Any]]:
    """Makes runs of small instances."""
    return make_cluster


def make_line(index: int = 0, prompt: int = 20, output: int = 5, gap_ns: int = 1_000_000) -> dict[str, Any]:
    """A line of a request trace."""
    return {"input_toks": prompt, "output_toks": output, "arrival_time_ns": index * gap_ns}


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    """Twenty lines of a request trace, one per millisecond."""
    return [make_line(i) for i in range(20)]


@pytest.fixture
def write_lines(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines, dictionaries or text, as a request trace."""
    from json import dumps

    def write(lines: Sequence[object], name: str = "trace.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((x if isinstance(x, str) else dumps(x)) + "\n" for x in lines))
        return path

    return write


@pytest.fixture
def trace(write_lines: Callable[..., Path], lines: list[dict[str, Any]]) -> Path:
    """The twenty lines as a file."""
    return write_lines(lines)


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a run file: a dictionary as JSON, or text as it is."""
    from json import dumps

    def write(data: object, name: str = "run.json") -> Path:
        path = tmp_path / name
        path.write_text(data if isinstance(data, str) else dumps(data))
        return path

    return write


@pytest.fixture
def config(write_config: Callable[..., Path], cluster: dict[str, Any]) -> Path:
    """One small instance as a run file."""
    return write_config(cluster)
