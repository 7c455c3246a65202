"""Functions and modules stay small. The exceptions are a ratchet: one that is no longer needed fails too."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 6
MAX_NESTING = 4
MAX_MODULE_LINES = 400

# "<budget> <file>[:<function>]" -> why the budget does not hold there.
COMMAND = "one parameter per option is how the command line is declared"
EXCEPTIONS: dict[str, str] = {
    "arguments llmservingsim/cli/astra.py:astra": COMMAND,
    "arguments llmservingsim/cli/profile_import.py:import_aiconfigurator": COMMAND,
    "arguments llmservingsim/cli/profile_import.py:import_csv": COMMAND,
    "arguments llmservingsim/cli/profile_import.py:import_vidur": COMMAND,
    "arguments llmservingsim/cli/profile_run.py:run": COMMAND,
    "arguments llmservingsim/cli/run.py:run": COMMAND,
    "arguments llmservingsim/cli/workload.py:generate_trace": COMMAND,
}

Measure = tuple[str, int]


def python_files() -> list[Path]:
    """Every module of ours; what protoc wrote is not."""
    folders = ["llmservingsim", "benchmarks", "scripts", "tests"]
    found = [p for folder in folders for p in (REPOSITORY / folder).rglob("*.py")]
    return sorted(p for p in found if not p.name.endswith("_pb2.py"))


def cpp_files() -> list[Path]:
    """Every C++ source and header."""
    return sorted(p for p in (REPOSITORY / "cpp").rglob("*") if p.suffix in (".h", ".cc"))


def functions(node: ast.AST, around: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Yield every function with its qualified name."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield around + child.name, child
        inner = f"{around}{child.name}." if isinstance(child, ast.ClassDef | ast.FunctionDef) else around
        yield from functions(child, inner)


def count_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count parameters, without ``self`` and ``cls``."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args]
    if named and named[0].arg in ("self", "cls"):
        named = named[1:]
    return len(named) + len(arguments.kwonlyargs) + bool(arguments.vararg) + bool(arguments.kwarg)


def nesting(body: Sequence[ast.stmt]) -> int:
    """Return how deep blocks stand in blocks; ``elif`` is as deep as its ``if``, an inner function counts by itself."""
    deepest = 0
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        inner = [getattr(statement, key, []) for key in ("body", "finalbody")]
        inner += [part.body for key in ("handlers", "cases") for part in getattr(statement, key, [])]
        orelse = getattr(statement, "orelse", [])
        is_elif = isinstance(statement, ast.If) and len(orelse) == 1 and isinstance(orelse[0], ast.If)
        depths = [1 + nesting(block) for block in (inner if is_elif else [*inner, orelse]) if block]
        deepest = max(deepest, *depths, nesting(orelse) if is_elif else 0) if depths else deepest
    return deepest


def measure_python(path: str, source: str) -> dict[str, list[Measure]]:
    """Measure a module against each budget."""
    named = [(f"{path}:{name}", function) for name, function in functions(ast.parse(source))]
    return {
        "module lines": [(path, source.count("\n"))],
        "function lines": [(name, (f.end_lineno or f.lineno) - f.lineno + 1) for name, f in named],
        "arguments": [] if path.startswith("tests/") else [(name, count_arguments(f)) for name, f in named],
        "nesting": [(name, nesting(f.body)) for name, f in named],
    }


def measure_cpp(path: str, source: str) -> dict[str, list[Measure]]:
    """Measure a C++ file. A function ends at a lone ``}`` in the first column, as clang-format lays it out."""
    lengths = []
    start, name = 0, ""
    for number, line in enumerate(source.splitlines()):
        if line == "}" and name:
            lengths.append((f"{path}:{name}", number - start + 1))
        elif re.match(r"[A-Za-z_]", line) and not line.startswith(("namespace", "using", "template")):
            start, name = number, line.split("(")[0].split(" ")[-1]
    return {"module lines": [(path, source.count("\n"))], "function lines": lengths}


LIMITS = {
    "module lines": MAX_MODULE_LINES,
    "function lines": MAX_FUNCTION_LINES,
    "arguments": MAX_ARGUMENTS,
    "nesting": MAX_NESTING,
}


def over_budget(budget: str) -> dict[str, int]:
    """Return what breaks a budget, with its measure."""
    found: list[Measure] = []
    for path in python_files():
        relative = path.relative_to(REPOSITORY).as_posix()
        found += measure_python(relative, path.read_text(encoding="utf-8"))[budget]
    for path in cpp_files():
        relative = path.relative_to(REPOSITORY).as_posix()
        found += measure_cpp(relative, path.read_text(encoding="utf-8")).get(budget, [])
    return {f"{budget} {where}": size for where, size in found if size > LIMITS[budget]}


@pytest.mark.parametrize("budget", LIMITS)
def test_everything_is_within_its_budget_or_a_reasoned_exception(budget: str) -> None:
    over = {where: size for where, size in over_budget(budget).items() if where not in EXCEPTIONS}
    assert over == {}, f"at most {LIMITS[budget]} {budget}"


@pytest.mark.parametrize("budget", LIMITS)
def test_no_exception_outlives_its_need(budget: str) -> None:
    listed = {where for where in EXCEPTIONS if where.startswith(budget + " ")}
    assert listed <= set(over_budget(budget)), "take the exception out of the list"


def test_every_exception_has_a_reason_and_a_budget() -> None:
    for where, reason in EXCEPTIONS.items():
        assert len(reason.split()) >= 4, f"{where}: say why"
        assert any(where.startswith(budget + " ") for budget in LIMITS), f"{where}: names no budget"


def test_the_measures_count_what_they_say() -> None:
    source = (
        "class A:\n"
        "    def f(self, a, b, *c, d=1, **e):\n"
        "        for x in a:\n"
        "            if x:\n"
        "                pass\n"
        "            elif b:\n"
        "                with b:\n"
        "                    pass\n"
        "            else:\n"
        "                pass\n"
        "        def g():\n"
        "            pass\n"
    )
    measured = measure_python("x.py", source)
    assert measured["module lines"] == [("x.py", 12)]
    assert measured["function lines"] == [("x.py:A.f", 11), ("x.py:A.f.g", 2)]
    assert measured["arguments"] == [("x.py:A.f", 5), ("x.py:A.f.g", 0)]
    assert measured["nesting"] == [("x.py:A.f", 3), ("x.py:A.f.g", 0)]


def test_the_length_of_a_cpp_function_is_seen() -> None:
    source = "namespace a {\n\nint A::f(int b,\n         int c) {\n  if (b) {\n  }\n  return c;\n}\n}  // namespace a\n"
    assert measure_cpp("x.cc", source)["function lines"] == [("x.cc:A::f", 6)]
