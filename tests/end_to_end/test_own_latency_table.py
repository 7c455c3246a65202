"""A run that a user's table times, by hand; and what does not go with a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmservingsim import simulate
from llmservingsim.errors import UserError
from llmservingsim.workload import ArrivalSpec, FixedLength, GeneratorSpec

MODEL = "meta-llama/Llama-3.2-1B"
ROOT = Path(__file__).parents[2]
LAYERS = 16
BLOCK = ("layernorm", "qkv_proj", "rotary_emb", "attention", "o_proj", "gate_up_proj", "act_fn", "down_proj")
AROUND = ("embedding", "final_layernorm", "lm_head", "sampler")
PROMPT, ANSWER = 40, 3
ACCEPTED = {"policy": "fixed", "rate": 0.5}


def write_table(folder: Path, per_call: dict[str, int] | None = None) -> Path:
    """Every operator takes a microsecond, whatever the batch, or so many."""
    rows = ["operator,tokens,sequences,kv,time"]
    for name in (*BLOCK, *AROUND):
        time = (per_call or {}).get(name, 1)
        if name == "attention":
            rows += [f"attention,{n},{n},{kv},{time}" for n in (1, 2) for kv in (1, 1000)]
            rows += [f"attention,{q},1,{q},{time}" for q in (2, 1000)]
        else:
            rows += [f"{name},{n},{n},,{time}" for n in (1, 1000)]
    path = folder / "times.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def run(table: dict[str, Any] | None, latency: dict[str, Any] | None = None, **instance: Any) -> Any:
    load = GeneratorSpec(1, FixedLength(PROMPT), FixedLength(ANSWER), ArrivalSpec("poisson", {"request_rate": 1}))
    stated = {"table": table} if table is not None else {}
    config = {
        "nodes": [{"instances": [{"model": MODEL, "hardware": "H100", **instance}]}],
        "serving": {"latency": {**stated, **(latency or {})}},
    }
    return simulate(config, load)


def test_an_iteration_is_the_sum_of_the_table_s_times(tmp_path: Path) -> None:
    """Sixteen blocks of nine calls (the norm twice), four operators around them, three iterations."""
    result = run({"path": str(write_table(tmp_path)), "missing": "error"})
    iteration_ns = (LAYERS * (len(BLOCK) + 1) + len(AROUND)) * 1_000
    row = result.requests[0]
    assert row.first_token_ns - row.arrival_ns == iteration_ns
    assert row.finish_ns - row.arrival_ns == ANSWER * iteration_ns
    latency = result.summary["instances"][0]["latency"]
    assert latency["source"] == "table"
    assert latency["roofline_operators"] == latency["unused_rows"] == []
    assert latency["extrapolated_shapes"] == {}


def test_a_row_that_times_the_whole_model_counts_once(tmp_path: Path) -> None:
    """160 us for all 16 attentions are 10 per block; the other operators take 1 us altogether."""
    path = write_table(tmp_path, {"attention": 160, "layernorm": 32} | dict.fromkeys((*BLOCK[1:3], *BLOCK[4:]), 16))
    row = run({"path": str(path), "per": "model"}).requests[0]
    assert row.first_token_ns - row.arrival_ns == (160 + 32 + 6 * 16 + 4) * 1_000


def test_a_table_beside_profiles_comes_first_and_another_source_is_refused(tmp_path: Path) -> None:
    path = str(write_table(tmp_path))
    with pytest.raises(UserError, match=r"table: is of no use with source 'bundle'"):
        run({"path": path}, {"source": "bundle"})
    with pytest.raises(UserError, match=r"table: expected a section with the path of a table"):
        run(None, {"source": "table"})


def test_a_table_for_another_number_of_ranks_is_refused(tmp_path: Path) -> None:
    path = str(write_table(tmp_path))
    with pytest.raises(UserError, match=r"tensor_parallel_size: the table was made for 1, and the instance has 2"):
        run({"path": path}, tensor_parallel_size=2)
    result = run({"path": path, "tensor_parallel_size": 2}, tensor_parallel_size=2)
    assert result.summary["instances"][0]["latency"]["source"] == "table"


def test_a_drafter_is_not_timed_by_the_table_of_its_model(tmp_path: Path) -> None:
    path = str(write_table(tmp_path))
    drafts: dict[str, Any] = {"method": "eagle", "num_speculative_tokens": 2, "acceptance": ACCEPTED}
    with pytest.raises(UserError, match=r"speculative_config.*a table times the model alone"):
        run({"path": path}, speculative_config=drafts)
    run({"path": path}, speculative_config=drafts | {"latency_source": "roofline"})


def test_the_example_is_what_its_script_writes_and_has_the_cycles_of_a_sum_by_hand(tmp_path: Path, python: Any) -> None:
    """q of one token: 16 x 16 tiles on 8 arrays, each 2 * 128 + 128 + 1 - 2 cycles."""
    done = python(ROOT / "scripts" / "systolic_latency_table.py", MODEL, tmp_path / "out.csv")
    assert (done.code, done.err) == (0, "")
    text = (tmp_path / "out.csv").read_text()
    assert text == (ROOT / "inputs" / "latency" / "systolic-128.csv").read_text()
    assert f"q,1,1,,{32 * 383}\n" in text


def test_the_path_is_relative_to_the_run_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    write_table(tmp_path / "runs")
    (tmp_path / "runs" / "run.yaml").write_text(
        f"nodes: [{{instances: [{{model: {MODEL}, hardware: H100}}]}}]\n"
        "serving: {latency: {table: {path: times.csv}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    load = GeneratorSpec(1, FixedLength(PROMPT), FixedLength(ANSWER), ArrivalSpec("poisson", {"request_rate": 1}))
    result = simulate(Path("runs/run.yaml"), load)
    assert result.summary["instances"][0]["latency"]["path"].endswith("times.csv")
