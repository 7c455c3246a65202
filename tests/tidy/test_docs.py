"""What the pages say is true: commands and programs on them run, links lead somewhere, generated pages are fresh."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
DATA = REPOSITORY.parent / "shared" / "data"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
REFERENCE = REPOSITORY / "docs" / "reference"
FENCE = re.compile(r"^```(?P<kind>\w+)(?P<mark>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
FILE_NAME = re.compile(r"# (?P<name>[\w.-]+\.(py|yaml|toml))$")
WALL_CLOCK = re.compile(r"simulated in [\d.]+ s")
NEEDS_DATA = "profiles"
"""A block whose commands read the bundles of ``../shared``; without them it is not run."""


class Block(NamedTuple):
    """A fenced block: ``python`` runs, or is written to the file that its first line names, as ``yaml`` is;

    ``console`` runs the lines that begin with ``$ llmservingsim``; ``text`` behind ``python`` is what that prints.
    """

    kind: str
    text: str

    @property
    def file(self) -> str | None:
        found = FILE_NAME.match(self.text.partition("\n")[0])
        return found["name"] if found else None


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def blocks_of(text: str) -> list[Block]:
    return [Block(found["kind"], found["text"]) for found in FENCE.finditer(text)]


def commands_of(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """Yield each ``llmservingsim`` command of a console block as its words, with the lines that it prints."""
    for part in re.split(r"^\$ ", text.replace("\\\n", " "), flags=re.MULTILINE)[1:]:
        line, *printed = part.rstrip("\n").split("\n")
        words = shlex.split(line.removeprefix("PYTHONPATH=. "), comments=True)
        if words[0] == "llmservingsim":
            yield words[1:], printed


def tell(line: str) -> str:
    """A printed line without what differs from run to run and from terminal to terminal."""
    return WALL_CLOCK.sub("simulated in ? s", line).rstrip()


def check_printed(expected: list[str], actual: str, where: str) -> None:
    """Every line on the page, ``...`` apart, was printed, in that order."""
    lines = iter([tell(line) for line in actual.splitlines()])
    for line in map(tell, expected):
        if line not in ("", "..."):
            assert line in lines, f"{where}: the page says {line!r}, which is not (or not there) in:\n{actual}"


RUNNABLE = [page for page in PAGES if any(b.kind in ("python", "console") for b in blocks_of(page.read_text()))]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with what a reader has there; modules that a page defines are forgotten afterwards."""
    (tmp_path / "inputs").symlink_to(REPOSITORY / "inputs")
    for name in ("profiles", "models", "clusters", "workloads"):
        if (DATA / name).is_dir():
            (tmp_path / name).symlink_to(DATA / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    yield tmp_path
    own = [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", None))]
    for name in own:
        del sys.modules[name]


@pytest.mark.parametrize("page", RUNNABLE, ids=relative)
def test_every_command_and_program_on_a_page_does_what_the_page_says(
    page: Path, desk: Path, cli: Callable[..., Any]
) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in blocks_of(page.read_text()):
        if NEEDS_DATA in block.text and block.kind in ("python", "console") and not DATA.is_dir():
            continue
        if block.file is not None:
            (desk / block.file).write_text(block.text)
        elif block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(block.text, relative(page), "exec"), names)
            printed = out.getvalue()
        elif block.kind == "text" and printed:
            check_printed(block.text.splitlines(), printed, relative(page))
            printed = ""
        elif block.kind == "console":
            for words, expected in commands_of(block.text):
                answer = cli(*words)
                fails = any(line.startswith("error:") for line in expected)
                assert (answer.code != 0) == fails, f"{relative(page)}: {words}: {answer.err}"
                check_printed(expected, answer.out + answer.err, f"{relative(page)}: {shlex.join(words)}")


PAGES_WITH_PARTS = [
    *("docs/tutorial.md", "docs/write-your-own.md", "docs/extending.md", "docs/memory-tiers.md", "docs/topologies.md"),
]


@pytest.mark.parametrize("page", PAGES_WITH_PARTS)
def test_a_part_of_your_own_fits_on_half_a_page(page: str) -> None:
    """At most 30 lines that say something."""
    parts = [b.text for b in blocks_of((REPOSITORY / page).read_text()) if b.kind == "python" and "\nclass " in b.text]
    assert parts
    assert max(sum(bool(line.strip()) for line in text.splitlines()) for text in parts) <= 30


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text())
    return {slug(h) for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for found in LINK.finditer(FENCE.sub("", page.read_text())):
        target, _, anchor = found["target"].partition("#")
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{relative(page)}: {target} is missing"
        if anchor:
            assert anchor in anchors(path), f"{relative(page)}: {target} has no heading #{anchor}"


def test_the_front_page_names_every_room_and_module() -> None:
    page = (REPOSITORY / "README.md").read_text()
    package = REPOSITORY / "llmservingsim"
    modules = [p.name for p in package.glob("*.py") if not p.name.startswith("__")]
    rooms = [f"{p.parent.name}/" for p in package.glob("*/__init__.py") if len([*p.parent.iterdir()]) > 2]
    assert {"loop.py", "serving/"} <= {*modules, *rooms}
    assert [name for name in sorted([*modules, *rooms]) if f"`{name}`" not in page] == []


def test_every_page_is_linked_from_the_index() -> None:
    index = REPOSITORY / "docs" / "index.md"
    targets = {(index.parent / f["target"].partition("#")[0]).resolve() for f in LINK.finditer(index.read_text())}
    missing = [relative(p) for p in PAGES if p not in targets and p != index]
    assert missing == []


def test_the_reference_is_what_the_code_says_today(tmp_path: Path) -> None:
    from llmservingsim.cli.reference import write_reference

    for path in write_reference(tmp_path):
        assert (REFERENCE / path.name).read_text() == path.read_text(), f"{path.name}: run `make docs`"
    assert {p.name for p in REFERENCE.iterdir()} == {p.name for p in tmp_path.iterdir()}


def test_the_reference_names_every_option_of_every_command() -> None:
    import typer

    from llmservingsim.cli.main import app

    def options(command: Any, name: str) -> Iterator[tuple[str, list[str]]]:
        if getattr(command, "invoke_without_command", False):
            yield name, own(command)
        if hasattr(command, "commands"):
            for word, inner in command.commands.items():
                yield from options(inner, f"{name} {word}")
        else:
            yield name, own(command)

    def own(command: Any) -> list[str]:
        return [o for p in command.params if p.name != "help" for o in p.opts if o.startswith("-")]

    text = (REFERENCE / "cli.md").read_text()
    for name, names in options(typer.main.get_command(app), "llmservingsim"):
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        assert section, f"{name} is missing"
        assert [o for o in names if f"`{o}`" not in section] == [], name


def test_the_page_on_astra_sim_explains_every_flag() -> None:
    import typer

    from llmservingsim.cli.main import app

    run = typer.main.get_command(app).commands["astra"].commands["run"]  # type: ignore[attr-defined]
    section = (REPOSITORY / "docs" / "concepts" / "astra-sim.md").read_text().partition("\n## Flags\n")[2]
    table = section.partition("\n## ")[0]
    flags = [o for p in run.params if p.name != "help" for o in p.opts]
    assert "--dialect" in flags
    assert [o for o in flags if f"`{o}`" not in table] == []


def test_the_page_on_outputs_explains_every_column_and_key() -> None:
    from llmservingsim.report.records import REQUEST_COLUMNS, SAMPLE_COLUMNS
    from llmservingsim.report.request_metrics import METRIC_COLUMNS

    text = (REPOSITORY / "docs" / "concepts" / "outputs.md").read_text()
    clusters = REPOSITORY / "inputs" / "clusters"
    results = [small_run(path) for path in sorted(clusters.iterdir())]
    keys = [key for result in results for key in walk(result.summary)]
    sections = {"good_requests", "stall_ms", "acceptance_per_position", "evicted_chunks", "mean_active", "busy_ms"}
    assert sections <= set(keys)
    missing = [name for name in (*REQUEST_COLUMNS, *SAMPLE_COLUMNS, *METRIC_COLUMNS, *keys) if f"`{name}`" not in text]
    assert missing == []


def test_the_accuracy_on_the_front_page_is_what_a_run_has_today(desk: Path, cli: Callable[..., Any]) -> None:
    score = DATA.parent / "tools" / "score.py"
    if not score.is_file():
        pytest.skip(f"the measured run is not at {DATA}")
    page = (REPOSITORY / "README.md").read_text()
    command = next(w for b in blocks_of(page) for w, _ in commands_of(b.text) if "profiles" in w)
    assert cli(*command, "--quiet").code == 0
    measured = DATA / "measured" / "vllm-rtx4090-llama3.1-8b"
    scored = subprocess.run(
        [sys.executable, score, command[-1], measured, "--json"], capture_output=True, text=True, check=True
    )
    figures = json.loads(scored.stdout)
    for metric in ("ttft", "tpot", "e2e"):
        errors = figures[metric]
        row = [f"{errors[key]:+.2f}" for key in ("mean", "p50", "p90", "p95", "p99")]
        assert " | ".join([*row, f"{errors['per_request']:.2f}"]) in page, metric


def walk(value: Any) -> Iterator[str]:
    """Yield the keys of nested dictionaries that are names and not values."""
    if isinstance(value, list):
        for inner in value[:1]:
            yield from walk(inner)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if re.fullmatch(r"[a-z][a-z0-9_]*", key):
                yield key
            yield from walk(inner)


def test_the_page_on_errors_draws_the_whole_tree() -> None:
    from llmservingsim import errors

    text = (REPOSITORY / "docs" / "concepts" / "errors.md").read_text()
    names = [n for n, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert [n for n in names if n not in text] == []


def small_run(config: Path, workload: Any = None) -> Any:
    from llmservingsim import simulate
    from llmservingsim.workload import FixedLength, GeneratorSpec

    return simulate(config, workload or GeneratorSpec(6, FixedLength(40), FixedLength(4)))


@pytest.mark.parametrize("config", sorted((REPOSITORY / "inputs" / "clusters").iterdir()), ids=relative)
def test_every_example_cluster_serves_a_few_requests(config: Path) -> None:
    summary = small_run(config).summary
    assert summary["requests"]["finished"] == 6
    assert summary["provenance"]["notes"] == []


@pytest.mark.parametrize("trace", sorted((REPOSITORY / "inputs" / "workloads").iterdir()), ids=relative)
def test_every_example_trace_is_served_to_its_end(trace: Path) -> None:
    requests = small_run(REPOSITORY / "inputs" / "clusters" / "h100-llama-8b.yaml", trace).summary["requests"]
    assert requests["finished"] == requests["arrived"] > 0


def test_a_changed_number_on_a_page_would_be_seen() -> None:
    check_printed(["a  1", "...", "took simulated in 2.00 s"], "a  1   \nb\ntook simulated in 0.31 s\n", "page")
    with pytest.raises(AssertionError, match="the page says 'a  2'"):
        check_printed(["a  2"], "a  1\n", "page")
    with pytest.raises(AssertionError, match="the page says 'a'"):
        check_printed(["b", "a"], "a\nb\n", "page")
