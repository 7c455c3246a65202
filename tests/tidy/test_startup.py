"""Starting is fast: a user's script and the command line do not pay for what they do not use."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "pandas", "ray", "scipy", "matplotlib", "google.protobuf", "yaml", "rich", "typer"}

PROBE = """
import json, sys, time
start = time.process_time()
import {module}
spent = time.process_time() - start
print(json.dumps([spent, sorted(sys.modules)]))
"""


def probe(module: str) -> tuple[float, set[str]]:
    """Import a module in a fresh interpreter; return the CPU seconds it took and what is loaded afterwards."""
    command = [sys.executable, "-c", PROBE.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    spent, loaded = json.loads(done.stdout)
    return spent, set(loaded)


# The face imports nothing until a name is used, about 0.01 s; all that a run needs takes about 0.4 s, of which NumPy
# takes 0.1. The budgets leave room for a shared core, and are those of a core on which NumPy takes as long.
NUMPY_S = 0.1


@pytest.mark.parametrize(("module", "cpu_budget_s"), [("llmservingsim", 0.3), ("llmservingsim.api", 0.6)])
def test_the_import_is_quick_and_light(module: str, cpu_budget_s: float) -> None:
    """Best of three, because another process may have held the core."""
    probes = [(probe("numpy")[0], probe(module)) for _ in range(3)]
    assert sorted(HEAVY & probes[0][1][1]) == []
    slower = max(1.0, min(numpy_s for numpy_s, _ in probes) / NUMPY_S)
    assert min(spent for _, (spent, _) in probes) < cpu_budget_s * slower
