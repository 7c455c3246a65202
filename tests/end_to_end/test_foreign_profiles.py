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


TABLE = """kernel,dtype,tp,batch,new,cached,ms
qkv,fp16,1,,8,,0.02
qkv,fp16,1,,512,,0.2
qkv,fp16,2,,8,,0.012
qkv,bf16,1,,8,,9
decode,fp16,1,4,4,99,0.03
decode,fp16,1,32,32,999,0.3
prompt,fp16,1,1,64,0,0.04
prompt,fp16,1,1,512,0,0.4
decode,fp16,2,4,4,99,0.02
prompt,fp16,2,1,64,0,0.03
"""
MAPPING = """unit: ms
columns:
  {operator: kernel, tokens: new, sequences: batch, context: cached, time: ms, tensor_parallel_size: tp}
where: {dtype: fp16}
operators:
  qkv_proj: [qkv]
  attention: [decode, prompt]
"""


def import_table(cli: Cli, folder: Path, mapping: str, *options: object) -> Any:
    (folder / "times.csv").write_text(TABLE)
    (folder / "mapping.yaml").write_text(mapping)
    given = (folder / "times.csv", "--mapping", folder / "mapping.yaml")
    return cli("profile", "import", "csv", *given, "--model", vidur.MODEL, "--hardware", "A100", "-o", folder, *options)


def test_a_table_and_its_mapping_become_a_bundle_that_runs(cli: Cli, tmp_path: Path) -> None:
    answer = import_table(cli, tmp_path, MAPPING, "--tp", "1,2")
    assert (answer.code, answer.err) == (0, "")
    bundle = Path(answer.out.splitlines()[0])
    assert "qkv_proj,8,20.0\nqkv_proj,512,200.0\n" in (bundle / "dense.csv").read_text()
    assert "0,0,4,100,30.0\n0,0,32,1000,300.0\n" in (bundle / "attention.csv").read_text()
    assert "qkv_proj,8,12.0\n" in (bundle.with_name("tp2") / "dense.csv").read_text()
    config = {"nodes": [{"instances": [{"model": vidur.MODEL, "hardware": "A100"}]}]}
    assert simulate(config, REQUESTS, profiles=[tmp_path]).summary["requests"]["finished"] == len(REQUESTS)


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        ("- columns", "mapping.yaml: expected keys and their values, 'columns' and 'operators' among them"),
        ("colums: {}", "mapping.yaml: unknown key 'colums' in a section (did you mean 'columns'?)"),
        (MAPPING.replace("kernel", "kernle"), "has no column 'kernle' (did you mean 'kernel'?)"),
        (MAPPING.replace("[decode,", "[decodes,"), "has no row 'decodes' (did you mean 'decode'?)"),
        (MAPPING.replace("fp16", "fp8"), "no row has dtype fp8; expected one of bf16, fp16"),
        (MAPPING.replace("unit: ms", "unit: minutes"), "unit: "),
    ],
)
def test_a_wrong_mapping_is_refused_with_one_line(cli: Cli, tmp_path: Path, mapping: str, said: str) -> None:
    code, out, err = import_table(cli, tmp_path, mapping)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
