"""``llmservingsim profile run``: what it writes is read, what is wrong is said in one line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_engine import CONFIG, FakeEngine, InterruptedEngine, chunk_us

from llmservingsim.latency import BundleSource, ExpertLatencySource
from llmservingsim.shapes import BatchShape, Chunk

LIMITS = ("--max-num-seqs", 16, "--max-num-batched-tokens", 256, "--max-model-len", 512)
TP1 = Path("MyChip/org/tiny/fp32/tp1")


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "models" / "org" / "tiny.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.fixture
def profile(cli: Callable[..., Any], model_file: Path, tmp_path: Path) -> Callable[..., Any]:
    """Profiles the tiny model with the fake engine into ``out``; options come behind those, so they win."""

    def run(*options: object, engine: str = "fake_engine:FakeEngine", hardware: str = "MyChip") -> Any:
        out = ("-o", tmp_path / "out", "--noise", 0.5)
        return cli("profile", "run", model_file, "--hardware", hardware, "--engine", engine, *out, *LIMITS, *options)

    return run


def test_the_bundle_is_read_and_says_what_the_engine_said(profile: Callable[..., Any], tmp_path: Path) -> None:
    assert profile("--error", 0.02).code == 0
    source = BundleSource(tmp_path / "out" / TP1)
    for count, kv in ((1, 16), (16, 512), (5, 100)):
        found = source.latency_ns("attention", BatchShape((), count, count * kv, kv, count))
        assert found == pytest.approx(1000 * (3 + count * (1 + 0.01 * kv)), rel=1e-3)  # linear, so met everywhere
    for tokens in (1, 50, 83, 120, 256):
        found = source.latency_ns("qkv_proj", BatchShape((Chunk(tokens, 0),), 0, 0, 0, tokens))
        assert found == pytest.approx(1000 * max(50, 0.6 * tokens), rel=0.03)  # a bend: half the error is a share of it
    assert source.provenance()["extrapolated_shapes"] == {}


def test_the_host_file_has_what_steps_take_beyond_their_operators(profile: Callable[..., Any], tmp_path: Path) -> None:
    profile("--error", 0.005)
    with (tmp_path / "out" / TP1 / "host.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["sequences"]) for row in rows] == [1, 4, 16]
    steps_us = 3 * 4 * 50  # what the products of a step take; the tables may be off by half a percent of it
    assert all(float(row["time_us"]) == pytest.approx(FakeEngine.host_us, abs=0.005 * 2 * steps_us) for row in rows)


def test_the_check_finds_nothing_wrong_with_it(
    profile: Callable[..., Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    assert profile("--error", 0.01).code == 0
    told = json.loads(cli("profile", "check", tmp_path / "out", "--json").out)
    findings = [finding for bundle in told.values() for finding in bundle]
    assert {f["operator"] for f in findings} >= {"qkv_proj", "lm_head", "attention, decodes", "attention, chunks"}
    assert [problem for finding in findings for problem in finding["problems"]] == []


def test_meta_says_where_when_and_how_well(profile: Callable[..., Any], tmp_path: Path) -> None:
    profile()
    meta = yaml.safe_load((tmp_path / "out" / TP1 / "meta.yaml").read_text())
    assert meta["engine"] == "fake_engine:FakeEngine"
    assert meta["clocks"] == "steady"
    assert meta["device_name"] == "fake"
    assert meta["power_w"] == "not read"
    assert meta["collectives"] == "not measured: one device"
    assert meta["error_reached"] <= 0.03
    assert meta["limits"] == {"max_num_seqs": 16, "max_num_batched_tokens": 256, "max_model_len": 512}
    assert [step["sequences"] for step in meta["steps_us"]] == [1, 4, 16]


def test_the_command_that_is_printed_simulates(
    profile: Callable[..., Any], cli: Callable[..., Any], trace: Path, tmp_path: Path
) -> None:
    words = profile().out.split("llmservingsim run ")[1].split()
    answer = cli("run", *[str(trace) if word == "WORKLOAD.jsonl" else word for word in words], "-o", tmp_path / "run")
    assert answer.code == 0, answer.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["requests"]["finished"] == 20
    assert str(tmp_path / "out" / TP1) in json.dumps(summary)


def test_a_catalogued_device_needs_no_entry_of_its_own(profile: Callable[..., Any], tmp_path: Path) -> None:
    assert "--hardware" not in profile(hardware="H100").out
    assert not (tmp_path / "out" / "H100" / "accelerator.yaml").exists()
    assert (tmp_path / "out" / "H100" / "run.yaml").exists()


def test_every_degree_gets_a_folder_and_experts_are_measured_once(
    profile: Callable[..., Any], model_file: Path, tmp_path: Path
) -> None:
    moe = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    model_file.write_text(json.dumps({**CONFIG, **moe}))
    assert profile("--tp", "1,2").code == 0
    folder = tmp_path / "out" / TP1.parent
    assert (folder / "tp1" / "moe.csv").exists()
    assert not (folder / "tp2" / "moe.csv").exists()
    source = BundleSource(folder / "tp2", experts_per_token=2, expert_slices=2)
    assert isinstance(source, ExpertLatencySource)


def test_one_kernel_for_all_gives_mixed_and_uneven_batches(profile: Callable[..., Any], tmp_path: Path) -> None:
    assert profile(engine="fake_engine:OneKernelEngine").code == 0
    source = BundleSource(tmp_path / "out" / TP1)
    shape = BatchShape((Chunk(64, 0),), 4, 4 * 128, 128, 68)
    expected = 5 + chunk_us(64, 0) + 4 * (1 + 0.02 * 128)
    assert source.latency_ns("attention", shape) == pytest.approx(1000 * expected, rel=0.1)  # a fitted model of tiles
    assert (tmp_path / "out" / TP1 / "skew.csv").read_text().count("pure") > 3


def test_a_second_run_goes_on_and_measures_nothing_twice(profile: Callable[..., Any], tmp_path: Path) -> None:
    profile("--error", 0.05)
    first = (tmp_path / "out" / TP1 / "journal.jsonl").read_bytes()
    answer = profile("--error", 0.01)
    assert "shots are measured already" in answer.err
    second = (tmp_path / "out" / TP1 / "journal.jsonl").read_bytes()
    assert second.startswith(first)
    assert len(second) > len(first)


def test_stopped_by_hand_it_writes_what_is_there(profile: Callable[..., Any], tmp_path: Path) -> None:
    InterruptedEngine.shots = 0
    answer = profile("--error", 0.001, engine="fake_engine:InterruptedEngine")
    assert answer.code == 0
    assert "stopped; what was measured is kept" in answer.err
    assert BundleSource(tmp_path / "out" / TP1).holds("down_proj")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "torhc"), r"engine: 'torhc' is unknown (did you mean 'torch'?)"),
        (("--engine", "vllm"), "--engine vllm: the package vllm is not installed here"),
        (("--engine", "fake_engine:dense_us"), "engine: 'fake_engine:dense_us' cannot be built from"),
        (("--budget", "soon"), "--budget soon: expected a time such as 90s, 15m or 1h"),
        (("--budget", "0s"), "--budget 0s: expected more than nothing"),
        (("--dtype", "bf16"), "--dtype bf16: expected bfloat16"),
        (("--error", "3"), "--error 3: expected a share between 0 and 1"),
        (("--tp", "1;2"), "--tp 1;2: expected numbers of devices"),
        (("--tp", "3"), "tp 3 does not divide the 4 attention heads"),
        (("--max-num-batched-tokens", 4), "--max-num-batched-tokens: expected at least 32, got 4"),
        (("--hardware", "a/b"), "--hardware 'a/b': expected a name such as MyChip"),
        (("--engine", "torch", "--device", "npu"), "--device npu: expected cpu or cuda"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    profile: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...], message: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    answer = profile(*options)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert message in answer.err
    assert answer.err.count("\n") == 1


def test_a_journal_of_another_model_is_not_gone_on_with(
    profile: Callable[..., Any], model_file: Path, tmp_path: Path
) -> None:
    profile()
    answer = profile("--threads", 2)
    assert answer.code == 2
    assert "measured under other conditions: threads None; now threads 2" in answer.err
    assert profile("--threads", 2, "--restart").code == 0


def test_an_unknown_model_is_answered_with_the_nearest(cli: Callable[..., Any]) -> None:
    answer = cli("profile", "run", "HuggingFaceTB/SmolLM2-136M", "--hardware", "X")
    assert answer.code == 2
    assert "did you mean 'HuggingFaceTB/SmolLM2-135M'" in answer.err
