"""From measured kernels to runs: the package itself, bundles frozen from it, and those that ship."""

from __future__ import annotations

import csv
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from llmservingsim.api import simulate
from llmservingsim.backend.measured import read_measured
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.latency import (
    SHIPPED,
    BundleSource,
    DatabaseSource,
    KernelDatabase,
    MeasuredKernels,
    RooflineSource,
    find_bundle,
)
from llmservingsim.model import ParallelLayout
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.workload import RequestSpec

Cli = Callable[..., Any]

REPOSITORY = Path(__file__).parents[2]
LLAMA, MIXTURE = "meta-llama/Llama-3.1-8B", "Qwen/Qwen3-30B-A3B"
REQUESTS = [RequestSpec(i, i * 10_000_000, 200 + 40 * i, 30) for i in range(20)]
SHIPPING = sorted(path.relative_to(SHIPPED).as_posix() for path in SHIPPED.glob("*/*/*/*/tp*"))
BUNDLES = [name for name in SHIPPING if not name.startswith("CPU")]
"""Made of the database; those of a CPU were measured by `llmservingsim profile run`."""


def shape(chunks: list[tuple[int, int]], decodes: list[int]) -> BatchShape:
    tokens = sum(query for query, _ in chunks) + len(decodes)
    return BatchShape(tuple(Chunk(*c) for c in chunks), len(decodes), sum(decodes), max(decodes, default=0), tokens)


def kernels(model: str = LLAMA, tp: int = 1) -> MeasuredKernels:
    pytest.importorskip("aiconfigurator_core", reason="needs the extra aiconfigurator")
    return MeasuredKernels(KernelDatabase("h100_sxm"), find_model(model), ParallelLayout(tp))


def run_file(source: str, model: str = LLAMA, **latency: Any) -> dict[str, Any]:
    instance = {"model": model, "hardware": "H100", "latency": {"source": source, **latency}}
    return {"nodes": [{"instances": [instance]}]}


def test_measured_points_come_back_as_they_are() -> None:
    measured = kernels()
    source = DatabaseSource(measured, find_accelerator("H100"))
    rows = measured.database.read(
        "gemm/gemm_perf", ["m"], gemm_dtype="bfloat16", n=6144, k=4096
    )  # qkv of 32 + 2 * 8 heads
    for tokens, time_us in zip(rows["m"].tolist(), rows["latency"].tolist(), strict=True):
        assert source.latency_ns("qkv_proj", shape([(tokens, 0)], [])) == round(time_us * 1000)
    for chunks, length, _, time_us in measured.attention["attention"].prefills.tolist():
        got = source.latency_ns("attention", shape([(int(length), 0)] * int(chunks), []))
        assert got == pytest.approx(time_us * 1000, abs=1)
    for count, kv, time_us in measured.attention["attention"].decodes.tolist():
        got = source.latency_ns("attention", shape([], [int(kv)] * int(count)))
        assert got == pytest.approx(time_us * 1000, abs=1)
    assert source.provenance()["extrapolated_shapes"] == {}


def test_what_the_database_lacks_comes_from_the_roofline_and_is_named() -> None:
    source = DatabaseSource(kernels(), find_accelerator("H100"))
    rest = RooflineSource(find_model(LLAMA), ParallelLayout(1), find_accelerator("H100"))
    batch = shape([(100, 0)], [500] * 8)
    assert source.latency_ns("layernorm", batch) == rest.latency_ns("layernorm", batch)
    told = source.provenance()
    assert (told["from_roofline"], told["engine"], told["attention_kernel"]) == (
        ["layernorm"],
        "vllm",
        "vllm_flash_attn_fa3",
    )


def test_few_experts_cost_their_own_reading_and_many_tokens_their_arithmetic() -> None:
    table = kernels(MIXTURE).experts
    at = {(int(tokens), int(experts)): time_us for tokens, experts, time_us in table}
    assert {experts for _, experts in at} == {8, 16, 32, 64, 128}
    assert at[1, 8] < at[2, 16] < at[16, 128]
    assert at[2048, 8] < at[2048, 128]
    for (tokens, experts), time_us in at.items():
        assert all(time_us <= at[more, experts] + 0.5 for t, e in at if e == experts and (more := t) >= tokens)


def test_a_run_from_the_database_says_so(tmp_path: Path) -> None:
    kernels()
    summary = simulate(run_file("aiconfigurator"), REQUESTS).summary
    assert summary["requests"]["finished"] == 20
    told = summary["instances"][0]["latency"]
    assert (told["source"], told["system"]) == ("aiconfigurator", "h100_sxm")
    assert told["tables"]["gemm/gemm_perf"] >= "0.24"


@pytest.mark.parametrize("model", [LLAMA, MIXTURE])
def test_a_frozen_bundle_gives_the_run_that_the_database_gives(cli: Cli, tmp_path: Path, model: str) -> None:
    """But for operators of the roofline, whose bend between two measured sizes a table cuts off: below 0.1 %."""
    kernels()
    answer = cli("profile", "import", "aiconfigurator", "--model", model, "--hardware", "H100", "-o", tmp_path)
    assert (answer.code, answer.err) == (0, "")
    frozen = simulate(run_file("bundle", model), REQUESTS, profiles=[tmp_path])
    direct = simulate(run_file("aiconfigurator", model), REQUESTS)
    assert [r.finish_ns for r in frozen.requests] == pytest.approx([r.finish_ns for r in direct.requests], rel=1e-3)
    (measured,) = [m for m in read_measured([tmp_path / "H100" / "collectives.csv"]) if m.ranks == 8]
    assert measured.collective == "all_reduce"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--hardware", "RTX4090"], "no kernels were measured on 'RTX4090'"),
        (["--hardware", "H100", "--engine", "vlm"], "--engine vlm: expected one of sglang, trtllm, vllm"),
        (["--hardware", "H100", "--tp", "1,x"], "--tp 1,x: expected numbers of devices"),
        (["--hardware", "H100", "--tp", "3"], "3"),
        (["--hardware", "H100", "--version", "0.1"], "no kernels of vllm 0.1 were measured"),
    ],
)
def test_a_wrong_import_is_refused_with_one_line(cli: Cli, tmp_path: Path, options: list[str], said: str) -> None:
    kernels()
    code, out, err = cli("profile", "import", "aiconfigurator", "--model", LLAMA, "-o", tmp_path, *options)
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_the_systems_are_listed(cli: Cli) -> None:
    assert "RTXPRO6000   rtx_pro_6000_server" in cli("profile", "systems").out


@pytest.mark.parametrize("bundle", BUNDLES)
def test_what_ships_lies_between_the_hardware_s_limits_and_ten_times_as_long(bundle: str) -> None:
    """No kernel is faster than its arithmetic and its traffic at the data sheet's peaks; clocks may be 5 % above."""
    hardware, org, name, _, tp = bundle.split("/")
    model, layout = find_model(f"{org}/{name}"), ParallelLayout(int(tp[2:]))
    accelerator = find_accelerator(hardware)
    source = BundleSource(SHIPPED / bundle, experts_per_token=model.experts_per_token)
    rest = RooflineSource(model, layout, accelerator)
    share = {key: getattr(accelerator.efficiency, key) for key in ("gemm", "memory", "attention")}
    for batch in (shape([], [800] * 64), shape([(2000, 0)], []), shape([(500, 0)], [800] * 64), shape([], [300])):
        for operator in ("qkv_proj", "o_proj", "attention"):
            took, model_ns = source.latency_ns(operator, batch), rest.latency_ns(operator, batch)
            floor = model_ns * min(share.values()) * 0.95 if model_ns > accelerator.kernel_launch_ns else 0
            assert floor <= took <= 10 * model_ns + 20_000, (operator, batch)


def test_what_ships_says_where_it_comes_from_and_is_small() -> None:
    import yaml

    assert len(BUNDLES) == 72
    for bundle in BUNDLES:
        meta = yaml.safe_load((SHIPPED / bundle / "meta.yaml").read_text())
        assert "Apache-2.0" in meta["source"]
        assert meta["tables"]["gemm/gemm_perf"]
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()) < 2 * 2**20


def test_what_ships_is_what_the_script_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels()
    script = runpy.run_path(str(REPOSITORY / "scripts" / "ship_bundles.py"))
    script["main"].__globals__.update(SHIPPED=tmp_path, HARDWARE=("B200",), MODELS={"Qwen/Qwen3-32B": (2,)})
    script["main"]()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 6
    for path in written:
        assert path.read_bytes() == (SHIPPED / path.relative_to(tmp_path)).read_bytes()


def test_a_run_without_profiles_takes_what_ships_else_a_roofline_calibrated_by_it_else_the_plain_one() -> None:
    def told(**instance: Any) -> Any:
        data = {"nodes": [{"instances": [{"model": LLAMA, "hardware": "H100", **instance}]}]}
        return simulate(data, REQUESTS[:2]).summary["instances"][0]["latency"]

    assert told()["path"].endswith("profiles/H100/meta-llama/Llama-3.1-8B/bf16/tp1")
    assert told(model="meta-llama/Llama-3.1-8B-Instruct")["path"].endswith("meta-llama/Llama-3.1-8B/bf16/tp1")
    assert told(hardware="L40S")["source"] == "roofline"
    assert told(latency={"source": "roofline"})["source"] == "roofline"
    assert told(dtype="float16")["source"] == "calibrated"


@pytest.mark.parametrize(("slower", "source"), [(1, "bundle"), (10, "roofline")])
def test_an_accelerator_of_ones_own_takes_no_bundle_that_ships_for_its_name(
    tmp_path: Path, slower: int, source: str
) -> None:
    entry = msgspec.to_builtins(find_accelerator("H100"))
    del entry["name"]
    entry["memory_bandwidth"] /= slower
    (tmp_path / "own.yaml").write_text(json.dumps({"H100": entry}))
    data = {"nodes": [{"instances": [{"model": LLAMA, "hardware": "H100"}]}]}
    result = simulate(data, REQUESTS[:2], hardware=[tmp_path / "own.yaml"])
    assert result.summary["instances"][0]["latency"]["source"] == source


def test_a_torn_prefill_table_or_meta_file_is_named(tmp_path: Path) -> None:
    import shutil

    from llmservingsim.errors import ProfileError

    folder = tmp_path / "tp1"
    shutil.copytree(find_bundle((SHIPPED,), "H100", LLAMA, "bf16", 1), folder)
    rows = list(csv.reader((folder / "prefills.csv").open()))
    (folder / "prefills.csv").write_text("\n".join([",".join(rows[0]), "1,64,0,nan"]) + "\n")
    with pytest.raises(ProfileError, match=r"prefills.csv:2: expected prefills,prefill_chunk,kv_prefill,time_us"):
        BundleSource(folder)
    (folder / "prefills.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    (folder / "meta.yaml").write_text("tiles_per_decode: many\n")
    with pytest.raises(ProfileError, match=r"meta.yaml: expected a table with a number tiles_per_decode"):
        BundleSource(folder)
    (folder / "meta.yaml").write_text(json.dumps({"tiles_per_decode": 0}))
    assert BundleSource(folder).latency_ns("attention", shape([(64, 0)], [])) > 0
    assert np.isfinite(BundleSource(folder).latency_ns("attention", shape([(64, 64)], [9])))


def test_a_bundle_is_checked_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    folder = SHIPPED / "H100" / LLAMA / "bf16" / "tp1"
    code, out, err = cli("profile", "check", folder, "--json")
    assert (code, err) == (0, "")
    (findings,) = json.loads(out).values()
    assert {"qkv_proj", "attention, decodes", "attention, chunks"} <= {found["operator"] for found in findings}
    assert all(found["peak_flops"] < 100 for found in findings if found["peak_flops"] is not None)
    assert "attention, chunks" in cli("profile", "check", folder).out


def test_a_folder_without_a_bundle_and_an_unknown_device_are_refused(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("profile", "check", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "there is no bundle" in err
    code, _, err = cli("profile", "check", SHIPPED / "H100" / LLAMA, "--hardware", "H10O")
    assert (code, "did you mean" in err) == (2, True)
