from pathlib import Path

import pytest
from synthetic_bundle import write_bundle


@pytest.fixture
def tp_folder(tmp_path: Path) -> Path:
    """The ``tp1`` folder of a bundle written from formulas."""
    return write_bundle(tmp_path / "profiles")
