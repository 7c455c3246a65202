"""Profiles of other programs through the command line: imported, checked and run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import vidur_files as vidur

from llmservingsim.api import simulate
from llmservingsim.workload import RequestSpec

Cli = Callable[..., Any]

REQUESTS = [RequestSpec(i, i * 10_000_000, 200 + 40 * i, 20) for i in range(10)]


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    folder = tmp_path / "profiling"
    folder.mkdir()
    return vidur.write_profiles(folder)


def test_profiles_of_vidur_become_bundles_that_are_checked_and_run(cli: Cli, profiles: Path, tmp_path: Path) -> None:
    asked = ("--model", vidur.MODEL, "--hardware", "A100", "-o", tmp_path / "bundles")
    answer = cli("profile", "import", "vidur", profiles, *asked, "--tp", "1,2")
    assert (answer.code, answer.err) == (0, "")
    root = tmp_path / "bundles/A100"
    one, two, collectives, link = answer.out.splitlines()
    assert [one, two] == [str(root / vidur.MODEL / f"bf16/tp{tp}") for tp in (1, 2)]
    assert collectives == str(root / "collectives.csv")
    assert link == "send_recv.csv: a link of 25.0 GB/s and 12.0 us"

    checked = cli("profile", "check", root, "--json")
    assert {found["operator"] for found in json.loads(checked.out)[one]} >= {"qkv_proj", "attention, chunks"}

    config = {
        "nodes": [{"instances": [{"model": vidur.MODEL, "hardware": "A100", "tensor_parallel_size": 2}]}],
        "network": {"measured_collectives": [collectives]},
    }
    result = simulate(config, REQUESTS, profiles=[tmp_path / "bundles"])
    assert result.summary["requests"]["finished"] == len(REQUESTS)
    assert result.summary["instances"][0]["latency"]["path"] == two


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nowhere"], "nowhere: expected a file named all_reduce.csv, attention.csv, mlp.csv, send_recv.csv"),
        (["."], ".: holds none of mlp.csv, attention.csv"),
        (["profiling/mlp.csv"], "profiling/mlp.csv: there is no attention.csv"),
        (["profiling", "profiling/mlp.csv"], "mlp.csv is one already; expected one mlp.csv"),
        (["profiling", "--tp", "8"], "num_tensor_parallel_workers 8; expected --tp out of 1, 2"),
        (["profiling", "--hardware", "A10O"], "accelerator 'A10O' is not in the catalogue"),
    ],
)
def test_wrong_files_of_vidur_are_refused_with_one_line(
    cli: Cli, profiles: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], said: str
) -> None:
    monkeypatch.chdir(profiles.parent)
    code, out, err = cli(
        "profile", "import", "vidur", "--model", vidur.MODEL, "--hardware", "A100", "-o", "bundles", *given
    )
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
