"""Runs with speculative decoding: whole, on several ranks, over two sides, in traces, and twice the same."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmservingsim import Run, simulate
from llmservingsim.workload import ArrivalSpec, GeneratorSpec, RequestSpec, UniformLength

MODEL = "meta-llama/Llama-3.2-1B"
EAGLE = {"method": "eagle", "num_speculative_tokens": 3, "acceptance": {"policy": "fixed", "rate": 0.6}}
OWN = EAGLE | {"method": "draft_model", "model": MODEL}
SEARCH = EAGLE | {"method": "ngram", "search_time": "40us"}
LOAD = GeneratorSpec(
    80, UniformLength(1, 60), UniformLength(1, 60), arrival=ArrivalSpec("poisson", {"request_rate": 300.0}), seed=4
)


def instance(role: str = "kv_both", **options: object) -> dict[str, Any]:
    return {"model": MODEL, "hardware": "H100", "kv_role": role, "num_gpu_blocks": 1001, **options}


def run_of(*instances: dict[str, Any], source: str | None = "constant_latency:Constant", **keys: Any) -> dict[str, Any]:
    serving = {"enforce_eager": True} | ({"latency": {"source": source}} if source else {})
    return {"nodes": [{"instances": list(instances)}], "serving": serving, **keys}


def test_the_decode_side_drafts_and_the_prefill_side_does_not() -> None:
    """1 ms for the prompt, its KV, 1 + 3 ms for the first token, then nine more, four per 4 ms."""
    network = {"topology": "Switch", "bandwidth": "1GB/s", "latency": "500ns"}
    sure = EAGLE | {"acceptance": {"policy": "fixed", "rate": 1.0}}
    sides = (instance("kv_producer"), instance("kv_consumer", speculative_config=sure))
    made = Run(run_of(*sides, network=network), [RequestSpec(0, 0, 100, 10, None)])
    summary = made.execute().summary
    (record,) = made.recorder.records
    moved_ns = 1_000_000 + 1000 + 100 * 32_768
    assert record.first_token_ns == pytest.approx(moved_ns + 4_000_000, abs=2)
    assert record.finish_ns == pytest.approx(moved_ns + 4 * 4_000_000, abs=2)
    assert ["speculative_decoding" in one for one in summary["instances"]] == [False, True]
    assert summary["speculative_decoding"]["num_drafts"] == 3


requests = st.lists(st.tuples(st.integers(1, 150), st.integers(1, 40), st.integers(0, 30)), min_size=1, max_size=20)


@given(drawn=requests, blocks=st.integers(14, 40), shared=st.booleans(), method=st.sampled_from([EAGLE, OWN]))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_over_two_sides_every_request_ends_and_every_block_comes_back(
    drawn: list[tuple[int, int, int]], blocks: int, shared: bool, method: dict[str, Any]
) -> None:
    """Both sides draft; requests wait, are preempted, lose their KV while their first token is on its way."""
    spec = run_of(
        instance("kv_producer", num_gpu_blocks=blocks, speculative_config=method),
        instance("kv_consumer", num_gpu_blocks=blocks, speculative_config=method),
        instance("kv_consumer", num_gpu_blocks=blocks + 3, speculative_config=method),
    )
    asked = [
        RequestSpec(i, at * 1_000_000, prompt, output, tuple(range(prompt + output)) if shared else None)
        for i, (prompt, output, at) in enumerate(drawn)
    ]
    made = Run(spec, asked)
    made.execute()
    assert len(made.recorder.records) == len(drawn)
    for record in made.recorder.records:
        if record.status == "finished":
            assert record.output_tokens == drawn[record.request_id][1]
            assert (record.scheduled_ns or 0) <= (record.first_token_ns or 0) <= (record.finish_ns or 0)
    assert [one.engine.kv.pool.num_held for one in made.system.instances] == [0, 0, 0]


@pytest.mark.parametrize("method", [EAGLE, OWN, SEARCH], ids=lambda m: m["method"])
@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize("is_async", [True, False])
def test_every_exported_iteration_takes_as_long_as_in_the_run(
    cli: Any, write_config: Any, trace: Path, clusters: Any, tmp_path: Path, *, method: Any, tp: int, is_async: bool
) -> None:
    serving = {"speculative_config": method, "async_scheduling": is_async and method is not SEARCH}
    data = clusters(serving=serving)
    data["nodes"][0]["instances"][0]["tensor_parallel_size"] = tp
    out = tmp_path / "out"
    arguments = ("-o", out, "--emit-traces", tmp_path, "--emit-iterations", "0:8")
    answer = cli("run", write_config(data), "-w", trace, *arguments)
    assert answer.code == 0, answer.err
    with (tmp_path / "iterations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for row in rows:
        files = {"workload": row["prefix"], "system": "system.json", "network": "network.yml"}
        files |= {"remote-memory": "memory.json"}
        pairs = [(f"--{kind}-configuration", tmp_path / name) for kind, name in files.items()]
        timed = cli("astra", *(part for pair in pairs for part in pair), "--json")
        assert timed.code == 0, timed.err
        assert {rank["finish_ns"] for rank in json.loads(timed.out)["ranks"]} == {int(row["duration_ns"])}


def test_two_processes_write_the_same_bytes(
    llmservingsim: Callable[..., Any], write_config: Any, clusters: Any, trace: Path, tmp_path: Path
) -> None:
    data = clusters(2, serving={"speculative_config": EAGLE}, router="least_loaded")
    config = write_config(data)
    seen = []
    for hash_seed in ("1", "4242"):
        folder = tmp_path / hash_seed
        done = llmservingsim("run", config, "-w", trace, "-o", folder, "-q", PYTHONHASHSEED=hash_seed)
        assert (done.code, done.out, done.err) == (0, "", "")
        summary = json.loads((folder / "summary.json").read_text())
        del summary["wall_s"]
        seen.append(((folder / "requests.csv").read_bytes(), (folder / "timeseries.csv").read_bytes(), summary))
    assert seen[0] == seen[1]


def test_instances_draw_apart_and_sum_up(clusters: Any) -> None:
    summary = simulate(clusters(2, serving={"speculative_config": EAGLE}), LOAD).summary
    first, second = (one["speculative_decoding"] for one in summary["instances"])
    total = summary["speculative_decoding"]
    assert total["num_drafts"] == first["num_drafts"] + second["num_drafts"]
    assert total["num_accepted_tokens"] == first["num_accepted_tokens"] + second["num_accepted_tokens"]
    alone = [RequestSpec(0, 0, 20, 200, None)]
    finished = []
    for seed in (0, 0, 1):
        data = run_of(instance(speculative_config=EAGLE), seed=seed)
        finished.append(simulate(data, alone).requests[0].finish_ns)
    assert finished[0] == finished[1] != finished[2]


def test_what_else_is_in_the_batch_does_not_change_which_drafts_are_accepted() -> None:
    """Request 0 alone and beside others: the same tokens per message, though at other times."""
    data = run_of(instance(speculative_config=EAGLE))
    alone = simulate(data, [RequestSpec(0, 0, 20, 200, None)])
    beside = simulate(data, [RequestSpec(i, 0, 20 + i, 200, None) for i in range(6)])
    assert alone.requests[0].finish_ns == beside.requests[0].finish_ns  # a step takes 4 ms whatever is in it


def test_under_pressure_all_tokens_come_out(clusters: Any) -> None:
    """512 tokens of KV for 8 requests of up to 120: preemptions, with shared prefixes and without."""
    for method in (EAGLE, OWN, SEARCH):
        data = clusters(serving={"speculative_config": method})
        data["nodes"][0]["instances"][0]["num_gpu_blocks"] = 33
        result = simulate(data, LOAD)
        assert sum(r.preemptions for r in result.requests) > 0
        assert result.summary["requests"]["finished"] == 80


@pytest.mark.parametrize("method", [EAGLE, SEARCH], ids=lambda m: m["method"])
@pytest.mark.parametrize("recall", ["async", "blocking"])
def test_lower_tiers_keep_what_was_verified(clusters: Any, method: Any, recall: str) -> None:
    """Few blocks, a prefix cache in host memory and swapping; later calls find prompts and answers of earlier ones."""
    serving = {"prefix_storage": "cpu", "prefix_chunk_size": 16, "prefix_recall": recall, "preemption_mode": "swap"}
    data = clusters(serving={**serving, "speculative_config": method})
    data["nodes"][0]["instances"][0]["num_gpu_blocks"] = 33
    data["nodes"][0]["cpu_memory"] = {"size": "8GiB", "bandwidth": "100GB/s"}
    ids = [tuple(range(1000 * (i % 8), 1000 * (i % 8) + 100)) for i in range(40)]
    asked = [RequestSpec(i, 1_000_000 * i, 60 if i < 8 else 90, 40 if i < 8 else 10, ids[i]) for i in range(40)]
    made = Run(data, asked)
    summary = made.execute().summary
    assert summary["requests"]["finished"] == 40
    assert summary["preemptions"] > 0
    assert summary["prefix_cache"]["cpu"]["hit_tokens"] > 0
    (engine,) = (one.engine for one in made.system.instances)
    assert engine.kv.pool.num_held == 0
    engine.kv.pool.check([])


def test_a_roofline_run_is_faster_with_good_drafts_and_slower_with_bad_ones() -> None:
    load = [RequestSpec(i, 0, 200, 100, None) for i in range(4)]

    def tpot(rate: float | None) -> float:
        section = None if rate is None else OWN | {"acceptance": {"policy": "fixed", "rate": rate}}
        data = run_of(instance(model="meta-llama/Llama-3.1-8B", speculative_config=section), source=None)
        value = simulate(data, load).summary["latency_ms"]["tpot"]["mean"]
        assert isinstance(value, float)
        return value

    assert tpot(0.95) < tpot(0.6) < tpot(None) < tpot(0.0)


def test_bundles_that_ship_time_drafts_under_a_power_cap_which_takes_longer() -> None:
    """Prompts are bound by arithmetic, so TTFT rises when the clock falls; `eh_proj` is in no bundle."""

    def ttft(**keys: str) -> float:
        made = instance(model="meta-llama/Llama-3.1-8B", speculative_config=EAGLE, **keys)
        summary = simulate(run_of(made, source=None), [RequestSpec(0, 0, 4000, 20)]).summary
        told = summary["instances"][0]["speculative_decoding"]["drafter_latency"]
        assert (told["source"], told["roofline_operators"]) == ("bundle", ["eh_proj"])
        return float(summary["latency_ms"]["ttft"]["mean"])

    assert ttft(power_cap="350W") > 1.1 * ttft()


def test_dense_layers_of_a_head_beside_measured_experts_have_a_roofline() -> None:
    made = instance(model="Qwen/Qwen3-30B-A3B", speculative_config=EAGLE, tensor_parallel_size=2)
    summary = simulate(run_of(made, source=None), [RequestSpec(0, 0, 400, 20)]).summary
    told = summary["instances"][0]["speculative_decoding"]["drafter_latency"]
    assert told["roofline_operators"] == ["eh_proj", "gate_up_proj", "act_fn", "down_proj"]
    assert summary["requests"]["finished"] == 1


def test_a_bundle_times_the_model_and_its_drafter(shared: Path) -> None:
    profiles = [shared / "data" / "profiles"]
    section = EAGLE | {"num_speculative_tokens": 2}
    data = run_of(
        instance(model="meta-llama/Llama-3.1-8B", hardware="RTX4090", speculative_config=section), source=None
    )
    load = [RequestSpec(i, 0, 200, 50, None) for i in range(8)]
    result = simulate(data, load, profiles=profiles)
    assert result.summary["speculative_decoding"]["mean_acceptance_length"] > 1.5
    mixed = json.loads(json.dumps(data))
    drafter = {"method": "draft_model", "model": "meta-llama/Llama-3.2-1B", "latency_source": "roofline"}
    mixed["nodes"][0]["instances"][0]["speculative_config"] |= drafter
    told = simulate(mixed, load, profiles=profiles).summary["instances"][0]
    assert told["latency"]["source"] == "bundle"
    assert told["speculative_decoding"]["drafter_latency"]["source"] == "roofline"
    own = result.summary["instances"][0]["speculative_decoding"]["drafter_latency"]
    assert (own["source"], own["roofline_operators"]) == ("bundle", ["eh_proj"])
