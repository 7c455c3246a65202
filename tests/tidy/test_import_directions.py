"""Imports follow the arrows of the house."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGE = REPOSITORY / "llmservingsim"

EVERYONE = {"errors", "units", "strict", "shapes", "graph", "plugins", "csv_rows"}
"""Small modules of travelling types that every room may import; among themselves, only what ``MAY_IMPORT`` says."""

RUN = {"activity", "workload", "serving", "trace", "backend", "power", "report", "latency", "model", "config"}
"""The rooms of one run."""

# A room may import itself, everyone's modules and what stands beside its name; a type-checking import counts.
# The longest name that fits a module is the one that holds, so `trace.chakra` is stricter than `trace`.
MAY_IMPORT: dict[str, set[str]] = {
    # everyone's modules: errors knows nobody
    "errors": set(),
    "units": {"errors"},
    "strict": {"errors"},
    "plugins": {"errors"},
    "shapes": {"errors"},
    "csv_rows": {"errors"},
    "graph": {"errors"},
    # the rooms of a run: what the user wrote, what is asked for, what things cost, who decides, who keeps the clock
    "config": set(),
    "workload": set(),
    "model": {"config"},
    "latency": {"config", "model"},
    "serving": {"config", "workload.request"},
    "trace": {"config", "model", "latency"},
    "trace.chakra": set(),
    "backend": {"config"},
    "backend.astra_files": {"config", "backend", "trace.chakra"},  # a system file may name traces
    "activity": set(),
    "power": {"config", "model", "activity"},
    "report": {
        "config",
        "power",
        "activity",
        "serving",
        "trace",
        "workload",
        "instance",
        "transfer",
        "kv_traffic",
        "scaled_pool",
    },
    # one run, put together
    "instance": RUN - {"report"},
    "owner": RUN - {"report"} | {"instance"},
    "notices": {"backend"},
    "rehearsal": {"backend", "trace"},
    "transfer": RUN - {"report"} | {"instance", "notices"},
    "push": {"backend", "model", "serving", "workload", "instance", "transfer"},
    "push_graph": {"backend", "model"},
    "push_layerwise": {"backend", "model", "serving", "trace", "workload", "instance", "push", "push_graph"},
    "disaggregation": {
        "backend",
        "config",
        "model",
        "serving",
        "trace",
        "instance",
        "push",
        "push_layerwise",
        "rehearsal",
        "transfer",
    },
    "scaled_pool": {"serving", "workload", "instance"},
    "scaling": RUN - {"report"} | {"instance", "transfer", "scaled_pool"},
    "defaults": {"config"},
    "libraries": {"config"},
    "instance_model": {"config", "model"},
    "stages": RUN - {"report"} | {"instance"},
    "pipeline": RUN - {"report"} | {"instance", "stages"},
    "lockstep": RUN - {"report"} | {"instance", "stages"},
    "ranks": set(),
    "network": {"config", "backend", "ranks"},
    "memory_fabric": {"config", "backend"},
    "memories": {"config", "backend", "memory_fabric"},
    "tier_plan": {"config", "defaults", "memories", "model", "serving"},
    "kv_layerwise": RUN - {"report"} | {"instance", "memories"},
    "kv_traffic": RUN - {"report"} | {"instance", "memories", "tier_plan", "kv_layerwise"},
    "experts": {"config", "model", "trace"},
    "speculation": {"config", "model", "latency", "trace", "serving", "defaults", "experts"},
    "placement": {"config", "model", "trace", "memories"},
    "astra_sim": {"backend", "trace"},
    "offload_plan": {"config", "latency", "model", "trace", "memories", "libraries"},
    "offloaded": RUN - {"report"} | {"instance"},
    "latency_choice": {"config", "latency", "model", "libraries"},
    "parts": RUN - {"report"}
    | {
        "instance_model",
        "libraries",
        "latency_choice",
        "instance",
        "pipeline",
        "experts",
        "speculation",
        "defaults",
        "memories",
        "placement",
        "offload_plan",
        "offloaded",
    },
    "deadlines": {"config", "serving", "workload", "instance"},
    "resolve": RUN
    | {
        "libraries",
        "instance",
        "owner",
        "transfer",
        "scaling",
        "deadlines",
        "disaggregation",
        "lockstep",
        "ranks",
        "network",
        "memories",
        "experts",
        "parts",
        "offload_plan",
        "tier_plan",
        "kv_traffic",
    },
    "memory_traffic": {"config", "backend", "memories", "resolve"},
    "energy": {"config", "power", "report", "instance", "memory_traffic", "resolve"},
    "explain": {
        "activity",
        "backend",
        "config",
        "latency",
        "model",
        "report",
        "serving",
        "trace",
        "instance",
        "memories",
        "resolve",
    },
    "admission": RUN | {"instance", "resolve", "deadlines"},
    "loop": RUN | {"owner", "resolve", "admission"},
    "export": RUN | {"instance", "resolve"},
    "api": RUN
    | {
        "instance",
        "libraries",
        "resolve",
        "loop",
        "export",
        "astra_sim",
        "placement",
        "memory_traffic",
        "energy",
        "explain",
    },
    "__main__": {"cli"},
    "": {"api", "report"},  # the package's face, `llmservingsim/__init__.py`
    # what uses runs
    "sweep": RUN | {"api", "resolve", ""},
    "bench": RUN | {"api", "resolve", ""},
    "profiler": {"config", "model", "latency"},
    "cli": RUN | {"defaults", "api", "resolve", "export", "astra_sim", "sweep", "bench", "profiler", ""},
}

PRINTING_PACKAGES = {"rich", "typer"}

# A C++ folder may include what lies below it in this list; memory stands on network, which reaches devices.
CPP_LAYERS: list[set[str]] = [
    {"base"},
    {"event"},
    {"network"},
    {"memory"},
    {"collective"},
    {"graph"},
    {"simulation"},
    {"bindings", "tests"},
]
CPP_NEVER = {("collective", "memory")}
"""Lower in the list, but no neighbour: a collective moves bytes over the network only."""


def name_of(path: Path) -> str:
    """Return a module's name without the package's: ``serving.kv.manager``, ``serving`` for its ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(p): p for p in sorted(PACKAGE.rglob("*.py"))}


def imports(name: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and full dotted name of every import, wherever it stands; relative ones made absolute."""
    package = ("llmservingsim." + name).rstrip(".").split(".")
    if MODULES.get(name, Path("x.py")).name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                is_module = full.removeprefix("llmservingsim.") in MODULES
                yield node.lineno, full if is_module else base
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            literals = [a.value for a in node.args if isinstance(a, ast.Constant)]
            yield from ((node.lineno, str(v)) for v in literals)


def longest_fit(name: str, choices: set[str]) -> str | None:
    """Return the longest choice that is ``name`` or one of the packages around it."""
    parts = name.split(".")
    prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((p for p in prefixes if p in choices), None)


def offences(name: str, source: str) -> list[str]:
    """List the imports of a module that the table does not allow."""
    room = longest_fit(name, set(MAY_IMPORT)) if name else ""
    assert room is not None, f"llmservingsim/{name}: say in MAY_IMPORT what it may import"
    allowed = MAY_IMPORT[room] | {room} | (set() if room in EVERYONE else EVERYONE)
    wrong = []
    for line, target in imports(name, ast.parse(source)):
        if target.split(".")[0] != "llmservingsim":
            continue
        inner = target.removeprefix("llmservingsim").lstrip(".")
        if longest_fit(inner, allowed) is None:
            wrong.append(f"{MODULES.get(name, name)}:{line}: {room or 'the face'} must not import {target}")
    return wrong


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_its_room_may(name: str) -> None:
    assert offences(name, MODULES[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("serving.scheduler", "from llmservingsim.trace import IterationBuilder"),
        ("serving.scheduler", "from llmservingsim.workload import JsonlWorkload"),
        ("serving.scheduler", "if TYPE_CHECKING:\n    import llmservingsim.backend"),
        ("serving.kv.manager", "def f():\n    from llmservingsim import latency"),
        ("backend.native", "from llmservingsim.serving.batch import Batch"),
        ("backend.native", "from ..serving import batch"),
        ("report.recorder", "from llmservingsim.cli import main"),
        ("resolve", "from llmservingsim.profiler import measure"),
        ("resolve", "import_module('llmservingsim.profiler')"),
        ("errors", "from llmservingsim.units import format_size"),
        ("model.memory", "import llmservingsim"),
    ],
)
def test_an_arrow_against_the_direction_is_seen(name: str, source: str) -> None:
    assert len(offences(name, source)) == 1


def test_the_arrows_have_no_circle() -> None:
    reached: dict[str, set[str]] = {}

    def below(room: str, way: tuple[str, ...]) -> set[str]:
        assert room not in way, " -> ".join([*way, room])
        if room not in reached:
            inner = [longest_fit(target, set(MAY_IMPORT)) or target for target in MAY_IMPORT[room]]
            reached[room] = set(inner).union(*(below(t, (*way, room)) for t in inner))
        return reached[room]

    for room in MAY_IMPORT:
        below(room, ())
    assert not reached["cli"] & {"cli"}
    assert all("profiler" not in reached[room] for room in MAY_IMPORT if room not in ("cli", "__main__"))


def test_only_the_command_line_knows_how_to_print() -> None:
    wrong = []
    for name, path in MODULES.items():
        if name.split(".")[0] == "cli":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        wrong += [f"{path}:{line}: {t}" for line, t in imports(name, tree) if t.split(".")[0] in PRINTING_PACKAGES]
        for node in ast.walk(tree):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            is_stream = isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr")
            if is_print or is_stream:
                wrong.append(f"{path}: {ast.unparse(node)}")
    assert wrong == []


@pytest.mark.parametrize("name", [n for n, p in MODULES.items() if p.name == "__init__.py"])
def test_every_package_says_what_it_is(name: str) -> None:
    docstring = ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8")))
    assert docstring, f"{MODULES[name]} has no docstring"


def cpp_folder(path: str) -> str:
    """Return the layer of ``astra/graph/plan.h``: ``graph``; of ``astra/simulation.h``: ``simulation``."""
    parts = path.split("/")
    return parts[0] if parts[0] != "astra" else parts[1].split(".")[0]


def cpp_offences(path: str, source: str) -> list[str]:
    """List the includes of a C++ file that point up, or sideways to another folder."""
    height = {folder: h for h, layer in enumerate(CPP_LAYERS) for folder in layer}
    here = cpp_folder(path)
    wrong = []
    for target in re.findall(r'^\s*#\s*include\s*"([^"]+)"', source, flags=re.MULTILINE):
        if "/" not in target and (REPOSITORY / "cpp" / path).with_name(target).exists():
            continue
        there = cpp_folder(target)
        is_down = there == here or height[there] < height[here]
        if not is_down or (here, there) in CPP_NEVER:
            wrong.append(f"cpp/{path}: {here} must not include {target}")
    return wrong


def test_cpp_includes_point_down() -> None:
    files = [p for p in sorted((REPOSITORY / "cpp").rglob("*")) if p.suffix in (".h", ".cc")]
    assert files
    wrong = []
    for path in files:
        wrong += cpp_offences(path.relative_to(REPOSITORY / "cpp").as_posix(), path.read_text(encoding="utf-8"))
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("astra/base/types.h", "astra/event/event_queue.h"),
        ("astra/network/mailbox.h", "astra/memory/memory_model.h"),
        ("astra/collective/engine.cc", "astra/memory/memory_model.h"),
        ("astra/graph/run.cc", "astra/simulation.h"),
        ("astra/simulation.cc", "bindings/bindings.h"),
        ("bindings/module.cc", "tests/check.h"),
    ],
)
def test_a_cpp_include_that_points_up_or_sideways_is_seen(path: str, target: str) -> None:
    assert len(cpp_offences(path, f'#include <vector>\n#include "{target}"\n')) == 1


def test_the_cpp_library_includes_no_python_header() -> None:
    headers = re.compile(r"#\s*include\s*[<\"](Python\.h|nanobind|pybind11)")
    wrong = [p for p in (REPOSITORY / "cpp" / "astra").rglob("*") if p.is_file() and headers.search(p.read_text())]
    assert wrong == []
