"""What the tests over the reference runs of ASTRA-sim share."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "validate_astra.py"


@pytest.fixture(scope="module")
def validation() -> ModuleType:
    """Return the benchmark that reads and judges the reference runs; skip where they are absent."""
    spec = importlib.util.spec_from_file_location("validate_astra", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    if not module.DATA.is_dir():
        pytest.skip(f"the reference runs of ASTRA-sim are not at {module.DATA}")
    return module
