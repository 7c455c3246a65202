"""Bundles that are damaged on disk end a run, and a check, with one line and exit code 2."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmservingsim.latency import SHIPPED

Cli = Callable[..., Any]
MODEL = "Qwen/Qwen3-30B-A3B"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that ships, with prompt chunks apart and experts, where a user may damage it."""
    place = Path("H100") / MODEL / "bf16/tp1"
    return Path(shutil.copytree(SHIPPED / place, tmp_path / "profiles" / place))


@pytest.mark.parametrize("name", ["dense.csv", "per_sequence.csv", "attention.csv", "prefills.csv", "moe.csv"])
@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\0\0", b"cut,1"])
def test_a_damaged_file_ends_a_run_and_a_check_with_one_line(
    cli: Cli, bundle: Path, tmp_path: Path, name: str, damage: bytes
) -> None:
    kept = (bundle / name).read_bytes() if damage == b"cut,1" else b""
    (bundle / name).write_bytes(kept + damage)
    config, workload = tmp_path / "run.json", tmp_path / "trace.jsonl"
    config.write_text(json.dumps({"nodes": [{"instances": [{"model": MODEL, "hardware": "H100"}]}]}))
    workload.write_text('{"input_toks": 8, "output_toks": 2, "arrival_time_ns": 0}\n')
    profiles = tmp_path / "profiles"
    for command in (
        ("run", config, "--workload", workload, "--profiles", profiles, "--output", tmp_path / "out"),
        ("profile", "check", profiles),
    ):
        code, _, err = cli(*command)
        assert code == 2
        assert f"{name}:" in err
        assert err.count("\n") == 1


def test_damaged_all_reduces_end_a_run_with_one_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "collectives.csv").write_text("collective,ranks,size_bytes,time_us\nall_reduce,2,1024\n")
    instance = {"model": "meta-llama/Llama-3.1-8B", "hardware": "H100", "tensor_parallel_size": 2}
    config = {"nodes": [{"instances": [instance]}], "network": {"measured_collectives": ["collectives.csv"]}}
    (tmp_path / "run.json").write_text(json.dumps(config))
    (tmp_path / "trace.jsonl").write_text('{"input_toks": 8, "output_toks": 2, "arrival_time_ns": 0}\n')
    code, _, err = cli("run", tmp_path / "run.json", "--workload", tmp_path / "trace.jsonl", "-o", tmp_path / "out")
    assert code == 2
    assert "collectives.csv: line 2: expected collective,ranks,size_bytes,time_us" in err
    assert err.count("\n") == 1
