"""The commands beside `run`: config, catalog, workload, and what the program says of itself."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmservingsim.config import RunSpec, load_run
from llmservingsim.workload import iter_requests

Cli = Callable[..., Any]
Writer = Callable[..., Path]


def test_what_config_show_prints_is_the_same_run(cli: Cli, config: Path, write_config: Writer) -> None:
    code, out, err = cli("config", "show", config, "--set", "serving.max_num_seqs=5")
    assert (code, err) == (0, "")
    shown, notes = load_run(write_config(out, "shown.json"))
    assert (shown, notes) == load_run(config, ["serving.max_num_seqs=5"])
    assert shown.serving.max_num_seqs == 5


def test_config_show_turns_a_file_of_the_other_format_into_ours(cli: Cli, write_config: Writer) -> None:
    memory = {"mem_size": 24, "mem_bw": 1008, "mem_util": 0.8}
    instance = {"model_name": "meta-llama/Llama-3.1-8B", "hardware": "RTX4090", "npu_mem": memory}
    path = write_config({"num_nodes": 1, "nodes": [{"instances": [instance]}]})
    data = json.loads(cli("config", "show", path).out)
    assert data["nodes"][0]["instances"][0]["model"] == "meta-llama/Llama-3.1-8B"
    assert data["nodes"][0]["instances"][0]["kv_memory_model"] == "weights_only"


def test_config_check_tells_what_each_instance_would_have(cli: Cli, write_config: Writer) -> None:
    path = write_config({"nodes": [{"instances": [{"model": "meta-llama/Llama-3.1-8B", "hardware": "H100"}]}]})
    code, out, err = cli("config", "check", path)
    assert (code, err) == (0, "")
    assert "instance 0: meta-llama/Llama-3.1-8B on 1 device(s), bundle latencies" in out
    assert "weights" in out
    assert "-14.96 GiB" in out  # 8.03e9 parameters of 2 bytes
    assert out.endswith("run.json: ok\n")


def test_config_check_refuses_what_run_would_refuse(cli: Cli, write_config: Writer) -> None:
    path = write_config({"nodes": [{"instances": [{"model": "meta-llama/Llama-3.1-70B", "hardware": "H100"}]}]})
    code, out, err = cli("config", "check", path)
    assert (code, out) == (2, "")
    assert "does not fit" in err


def test_config_schema_prints_or_writes_the_same(cli: Cli, tmp_path: Path) -> None:
    printed = cli("config", "schema").out
    assert cli("config", "schema", "-o", tmp_path / "s.json") == (0, "", "")
    assert (tmp_path / "s.json").read_text() == printed
    assert set(json.loads(printed)["$defs"]["RunSpec"]["properties"]) == set(RunSpec.__struct_fields__)


def test_a_file_that_cannot_be_written_is_named(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("config", "schema", "-o", tmp_path / "no" / "s.json")
    assert (code, out) == (2, "")
    assert err == f"error: {tmp_path / 'no' / 's.json'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("hardware", "H100"),
        ("models", "meta-llama/Llama-3.1-8B"),
        ("networks", "DGX-H100"),
        ("pim", "GDDR6-AiM"),
    ],
)
def test_the_catalogue_lists_and_shows(cli: Cli, kind: str, name: str) -> None:
    assert name.rsplit("/", maxsplit=1)[-1] in cli("catalog", kind).out
    listed = json.loads(cli("catalog", kind, "--json").out)
    shown = json.loads(cli("catalog", kind, name).out)
    assert [entry for entry in listed if entry["name"] == name] == [shown]


def test_an_unknown_entry_is_answered_with_the_nearest(cli: Cli) -> None:
    code, out, err = cli("catalog", "hardware", "H10")
    assert (code, out) == (2, "")
    assert "did you mean 'H100'?" in err


def test_generated_requests_are_as_asked(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "w.jsonl"
    arguments = ["--num-requests", 30, "--arrival", "fixed", "--request-rate", 100, "--input-length", 12]
    code, out, err = cli("workload", "generate", "-o", path, *arguments, "--output-length", "uniform:3-5")
    assert (code, out, err) == (0, f"30 requests: {path}\n", "")
    requests = list(iter_requests(path))
    assert {r.prompt_tokens for r in requests} == {12}
    assert {r.output_tokens for r in requests} == {3, 4, 5}
    gaps = {b.arrival_ns - a.arrival_ns for a, b in itertools.pairwise(requests)}
    assert gaps == {10_000_000}


def test_shared_prefixes_bring_their_token_ids(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    assert (
        cli("workload", "generate", "-o", path, "--num-requests", 20, "--num-prefixes", 2, "--prefix-length", 9).code
        == 0
    )
    prefixes = {r.token_ids[:9] for r in iter_requests(path) if r.token_ids is not None}
    assert len(prefixes) == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--input-length", "unifrm:1-2"], "did you mean 'uniform'?"),
        (["--input-length", "uniform:1"], "expected uniform:MIN-MAX"),
        (["--input-length", "lognormal:mean"], "expected KEY=VALUE"),
        (["--arrival", "poison"], "'poison' is unknown (did you mean 'poisson'?)"),
        (["--request-rate", "0"], "request_rate"),
        (["--num-requests", "0"], "--num-requests"),
    ],
)
def test_what_cannot_be_generated_is_refused(cli: Cli, tmp_path: Path, arguments: list[str], said: str) -> None:
    code, _, err = cli("workload", "generate", "-o", tmp_path / "w.jsonl", *arguments)
    assert code == 2
    assert said in err
    assert "Traceback" not in err


def test_astra_refuses_what_it_cannot_read(cli: Cli, tmp_path: Path) -> None:
    names = ["workload", "system", "network", "remote-memory"]
    arguments = [part for name in names for part in (f"--{name}-configuration", tmp_path / name)]
    code, out, err = cli("astra", *arguments)
    assert (code, out) == (2, "")
    assert "error: " in err
    assert str(tmp_path) in err


def test_help_lists_the_commands_and_an_unknown_one_is_refused(cli: Cli) -> None:
    code, out, _ = cli("--help")
    assert code == 0
    assert all(command in out for command in ("run", "astra", "catalog", "config", "workload"))
    assert cli("rum").code == 2


def test_a_reader_that_leaves_is_no_error_of_ours(python: Cli) -> None:
    """`llmservingsim catalog models | head -1` ends in silence."""
    script = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-m', 'llmservingsim.cli.main', 'config', 'schema'],"
        " stdout=subprocess.PIPE, stderr=subprocess.PIPE)\n"
        "p.stdout.close()\n"
        "err = p.stderr.read().decode()\n"
        "p.wait()\n"
        "print(err)\n"
    )
    assert "Traceback" not in python("-c", script).out


def test_config_check_refuses_directories_that_are_none(cli: Cli, config: Path) -> None:
    for option in ("--profiles", "--models"):
        code, _, err = cli("config", "check", config, option, "nowhere")
        assert (code, err) == (2, "error: nowhere: no such directory\n")


def test_a_piped_catalogue_is_neither_wrapped_nor_cut(cli: Cli) -> None:
    for kind in ("hardware", "models", "networks"):
        out = cli("catalog", kind).out
        assert "…" not in out
        rows = [line for line in out.splitlines() if line.startswith("│")]
        assert len(rows) == len(json.loads(cli("catalog", kind, "--json").out))


def test_a_length_of_other_digits_is_refused(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("workload", "generate", "-o", tmp_path / "t.jsonl", "--input-length", "²")
    assert code == 2
    assert "--input-length ²: expected a number or one of" in err


def test_the_package_is_a_program_too(python: Cli) -> None:
    done = python("-m", "llmservingsim", "profile", "systems")
    assert (done.code, done.err) == (0, "")
    assert "h100_sxm" in done.out
