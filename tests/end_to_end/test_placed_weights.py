"""Runs whose weights, experts or KV lie off the devices: times by hand, bounds, sharing, and what the outputs say."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmservingsim import Run, RunOptions, simulate
from llmservingsim.config.catalog import find_model
from llmservingsim.errors import ConfigError
from llmservingsim.latency import ExpertWork
from llmservingsim.model import block_operators
from llmservingsim.model.weights import operator_weights
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec

SMALL, LARGE = find_model("meta-llama/Llama-3.2-1B"), find_model("meta-llama/Llama-3.1-70B")
ATTENTION_NS = 40_000


class Attention:
    """Attention takes 40 us, experts 10 us, everything else nothing."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return ATTENTION_NS if operator == "attention" else 0

    def moe_latency_ns(self, work: ExpertWork) -> NDArray[np.int64]:
        return np.full(work.pairs.shape, 10_000, dtype=np.int64)

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


def block_bytes(model: Any) -> int:
    return sum(operator_weights(model, op.name).size_bytes(model) for op in block_operators(model))


def run_file(*placements: dict[str, Any] | None, model: str = SMALL.name, **keys: Any) -> dict[str, Any]:
    """An instance per placement on one node, whose memories move 100 bytes per nanosecond."""
    shared = {"model": model, "hardware": "H100", "num_gpu_blocks": 2000, "memory_size": "192GiB"} | keys
    memory = {"size": "400GiB", "bandwidth": "100GB/s", "latency": "0ns"}
    return {
        "nodes": [{"instances": [shared | {"placement": p} for p in placements], "cpu_memory": memory}],
        "cxl_memory": memory | {"num_devices": 2},
        "serving": {"latency": {"source": f"{__name__}:Attention"}, "enforce_eager": True, "async_scheduling": False},
    }


BLOCKS = {"blocks": [{"blocks": "0-15", "weights": "cpu"}]}
REQUEST = RequestSpec(0, 0, 8, 3)


def test_a_token_takes_all_loads_and_the_last_block() -> None:
    """A block has 60,821,504 weights of 2 bytes: 1,216,430 ns at 100 bytes/ns, truncated per load."""
    assert block_bytes(SMALL) == 121_643_008
    (record,) = simulate(run_file(BLOCKS), [REQUEST]).requests
    token_ns = 16 * (block_bytes(SMALL) // 100) + ATTENTION_NS
    assert (record.first_token_ns, record.finish_ns) == (token_ns, 3 * token_ns)


def test_a_token_takes_all_computation_and_the_first_load_where_that_is_longer() -> None:
    data = run_file(BLOCKS)
    data["nodes"][0]["cpu_memory"]["bandwidth"] = "10000GB/s"
    (record,) = simulate(data, [REQUEST]).requests
    assert record.first_token_ns == block_bytes(SMALL) // 10_000 + 16 * ATTENTION_NS


def test_across_iterations_a_token_takes_all_loads_and_nothing_else() -> None:
    """Two buffers. The first iteration finds blocks 0 and 1, and loads the others when block 0 is computed, at 40 us;
    the last one ends the iteration 40 us after its load. Then loads go on without a gap: 16 for every further token."""
    (record,) = simulate(run_file({**BLOCKS, "prefetch_across_iterations": True}), [REQUEST]).requests
    load_ns = block_bytes(SMALL) // 100
    first_ns = 14 * load_ns + 2 * ATTENTION_NS
    assert (record.first_token_ns, record.finish_ns) == (first_ns, first_ns + 2 * 16 * load_ns)


def test_across_iterations_a_token_takes_all_computation_and_nothing_else() -> None:
    data = run_file({**BLOCKS, "prefetch_across_iterations": True})
    data["nodes"][0]["cpu_memory"]["bandwidth"] = "10000GB/s"
    (record,) = simulate(data, [REQUEST]).requests
    assert (record.first_token_ns, record.finish_ns) == (16 * ATTENTION_NS, 3 * 16 * ATTENTION_NS)


def test_what_is_loaded_for_the_next_iteration_waits_for_it() -> None:
    """A second request comes when all has been quiet: its blocks 0 and 1 are there."""
    data = run_file({**BLOCKS, "prefetch_across_iterations": True})
    later_ns = 10**9
    first, second = simulate(data, [RequestSpec(0, 0, 8, 1), RequestSpec(1, later_ns, 8, 1)]).requests
    assert second.first_token_ns == later_ns + (first.first_token_ns or 0)


def test_across_iterations_every_iteration_moves_all_weights_once() -> None:
    summary = simulate(run_file({**BLOCKS, "prefetch_across_iterations": True}), [REQUEST]).summary
    moved = summary["bytes_moved"]["memories"]["cpu"]
    assert moved["places"]["cpu of node 0"]["loaded_bytes"] == 3 * 16 * block_bytes(SMALL)
    # The last iteration begins to fill two buffers for the next; one load runs when it ends, the other waits.
    assert moved["loaded_bytes"] == (3 * 16 - 1) * block_bytes(SMALL)


def test_buffers_in_a_circle_hold_the_last_blocks_and_the_first() -> None:
    """Weights of blocks 0 and 15 alone: one buffer of both, however deep."""
    rules = {"blocks": [{"blocks": "0,15", "weights": "cpu"}], "prefetch_depth": 3}
    times = [
        simulate(run_file(rules | {"prefetch_across_iterations": a}), [REQUEST]).requests[0] for a in (True, False)
    ]
    assert (times[0].finish_ns or 0) <= (times[1].finish_ns or 0)


def test_traces_of_iterations_that_begin_the_next_are_refused(tmp_path: Path) -> None:
    data = run_file({**BLOCKS, "prefetch_across_iterations": True})
    with pytest.raises(ConfigError, match=r"--emit-traces: with placement\.prefetch_across_iterations"):
        Run(data, [REQUEST], RunOptions(emit_traces=tmp_path))


def large_token_ms(percent: int, bandwidth: int, across: bool = False) -> tuple[float, float]:
    """Time per output token of a 70B model with so many percent of its blocks in the pool; and that of the loads."""
    away = [b for b in range(80) if (b + 1) * percent // 100 > b * percent // 100]
    assert len(away) == 80 * percent // 100
    rules = [{"blocks": ",".join(map(str, away)), "weights": "cxl:0"}] if away else []
    data = run_file({"blocks": rules, "prefetch_across_iterations": across}, model=LARGE.name)
    data["cxl_memory"]["bandwidth"] = f"{bandwidth}GB/s"
    data["serving"] = {"latency": {"source": "roofline"}}  # as by hand
    requests = [RequestSpec(i, 0, 64, 12 if across else 6) for i in range(8)]
    latency = simulate(data, requests).summary["latency_ms"]
    # The first iterations profit from buffers that were full when the run began.
    taken = float(latency["itl"]["p50"] if across else latency["tpot"]["mean"])
    return taken, len(away) * block_bytes(LARGE) / bandwidth / 1e6


@pytest.mark.parametrize("bandwidth", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("percent", [0, 25, 50, 75, 100])
def test_a_70b_model_with_weights_in_the_pool_takes_the_longer_of_computation_and_loads(
    percent: int, bandwidth: int
) -> None:
    """Within 2 %. Decoding reads all weights, 80 blocks of 1,711,308,800 bytes and a head of 2,101,346,304, at 0.85 of
    the 3,350 GB/s of an H100: 48.8 ms. Loads take the bytes of their blocks over the bandwidth. What is over that is
    attention, and what is computed behind the last load (a block and the head), which does not overlap."""
    computed = (80 * 1_711_308_800 + 2_101_346_304) / (0.85 * 3350) / 1e6
    loads = 80 * percent / 100 * 1_711_308_800 / bandwidth / 1e6
    taken, same_loads = large_token_ms(percent, bandwidth)
    assert same_loads == pytest.approx(loads)
    assert max(computed, loads) <= taken <= 1.02 * max(computed, loads)


@pytest.mark.parametrize("bandwidth", [16, 128, 256])
@pytest.mark.parametrize("percent", [5, 10, 50, 100])
def test_where_loads_go_on_across_iterations_nothing_is_added(percent: int, bandwidth: int) -> None:
    """Within 0.2 %, also where few blocks are loaded fast and the ends of iterations weigh most."""
    taken, loads = large_token_ms(percent, bandwidth, across=True)
    assert taken == pytest.approx(max(large_token_ms(0, bandwidth)[0], loads), rel=0.002)


def test_few_fast_loads_miss_the_bound_by_what_does_not_overlap() -> None:
    """Within an iteration a load (6.7 ms) or what is computed behind the last one is added: 2.5 % of 53 ms."""
    taken, loads = large_token_ms(10, 256)
    assert 1.02 * loads < taken < loads + block_bytes(LARGE) / 256 / 1e6


def test_two_instances_that_load_from_one_pool_take_twice_as_long() -> None:
    rule = {"blocks": [{"blocks": "0-15", "weights": "cxl:0"}]}
    data = run_file(rule, rule)
    requests = [RequestSpec(i, 0, 8, 1) for i in range(2)]
    first, second = sorted(simulate(data, requests).requests, key=lambda r: r.request_id)
    alone_ns = 16 * block_bytes(SMALL) / 100
    for record in (first, second):
        assert record.first_token_ns == pytest.approx(2 * alone_ns + ATTENTION_NS, abs=40)


def test_who_loads_less_is_done_earlier_and_the_other_then_has_all() -> None:
    """One loads 4 blocks, the other 16. Both have half until the first has its 4, after 8 blocks' time; the other has
    then 12 to go, alone."""
    data = run_file(
        {"blocks": [{"blocks": "0-3", "weights": "cxl:0"}]}, {"blocks": [{"blocks": "0-15", "weights": "cxl:0"}]}
    )
    requests = [RequestSpec(i, 0, 8, 1) for i in range(2)]
    fewer, more = sorted(simulate(data, requests).requests, key=lambda r: r.request_id)
    block_ns = block_bytes(SMALL) / 100
    assert fewer.first_token_ns == pytest.approx(8 * block_ns + 13 * ATTENTION_NS, abs=40)
    assert more.first_token_ns == pytest.approx((8 + 12) * block_ns + ATTENTION_NS, abs=40)


def test_instances_on_other_devices_of_the_pool_do_not_wait() -> None:
    rules = [{"blocks": [{"blocks": "0-15", "weights": f"cxl:{i}"}]} for i in range(2)]
    requests = [RequestSpec(i, 0, 8, 1) for i in range(2)]
    times = {r.first_token_ns for r in simulate(run_file(*rules), requests).requests}
    assert times == {16 * (block_bytes(SMALL) // 100) + ATTENTION_NS}


def test_stages_load_their_own_blocks() -> None:
    """Each of two stages computes its 8 blocks behind their loads; the message between them takes next to nothing."""
    data = run_file(BLOCKS, pipeline_parallel_size=2)
    data["network"] = {"bandwidth": "1000000GB/s", "latency": "0ns", "endpoint_delay": "0ns"}
    (record,) = simulate(data, [RequestSpec(0, 0, 8, 1)]).requests
    stage_ns = 8 * (block_bytes(SMALL) // 100) + ATTENTION_NS
    assert record.first_token_ns == pytest.approx(2 * stage_ns, abs=100)


def test_members_of_a_group_load_their_own_experts() -> None:
    """Two members, an expert part each, weights of experts in their nodes' own memories: no sharing."""
    model = find_model("Qwen/Qwen3-30B-A3B")
    placement = {"layers": {"experts": {"weights": "cpu"}}, "expert_prefetch": "all"}
    keys = {"data_parallel_group": "A", "enable_expert_parallel": True}
    data = run_file(placement, model=model.name, **keys)
    data["nodes"] = [data["nodes"][0], data["nodes"][0]]
    data["network"] = {"bandwidth": "1000000GB/s", "latency": "0ns", "endpoint_delay": "0ns"}
    run = Run(data, [RequestSpec(0, 0, 8, 2)])
    summary = run.execute().summary
    experts = 64 * 3 * model.hidden_size * model.moe_intermediate_size * 2
    (group,) = run.system.owners
    moved = summary["bytes_moved"]["memories"]["cpu"]
    assert moved["places"] == {
        f"cpu of node {n}": {"loaded_bytes": 2 * 48 * experts, "stored_bytes": 0} for n in range(2)
    }
    assert group.num_rounds == 2  # type: ignore[attr-defined]
    assert summary["requests"]["finished"] == 1
    loads_ns = 48 * experts / 100
    assert run.system.backend.now_ns == pytest.approx(2 * (loads_ns + 10_000), rel=1e-4)


def test_the_outputs_say_what_lay_and_moved_where() -> None:
    data = run_file({"blocks": [{"blocks": "0-3", "weights": "cpu"}, {"blocks": "4,5", "weights": "cxl"}]}, None)
    data["nodes"].append(run_file(None)["nodes"][0])
    data["timeseries_interval"] = "1ms"
    result = simulate(data, [RequestSpec(i, 0, 8, 3) for i in range(3)])
    size = block_bytes(SMALL)
    assert result.summary["bytes_moved"]["memories"] == {
        "cpu": {
            "loaded_bytes": 3 * 4 * size,
            "stored_bytes": 0,
            "accesses": 3 * 4,
            "busy_ms": pytest.approx(3 * 4 * (size // 100) / 1e6, rel=1e-6),
            "longest_queue": 1,
            "places": {"cpu of node 0": {"loaded_bytes": 3 * 4 * size, "stored_bytes": 0}},
        },
        "cxl": {
            "loaded_bytes": 3 * 2 * size,
            "stored_bytes": 0,
            "accesses": 3 * 2,
            "busy_ms": pytest.approx(3 * 2 * (size // 100) / 1e6, rel=1e-6),
            "longest_queue": 1,
            "places": {"cxl": {"loaded_bytes": 3 * 2 * size, "stored_bytes": 0}},
        },
    }
    rows = {row.scope: (row.cpu_memory_bytes, row.cxl_memory_bytes) for row in result.timeseries}
    assert rows["cluster"] == rows["node:0"] == (4 * size, 2 * size)
    assert rows["node:1"] == (0, 0)
    assert rows["instance:0"] == rows["instance:1"] == (None, None)


def test_without_placement_the_outputs_say_nothing_of_other_memories() -> None:
    result = simulate(run_file(None), [REQUEST])
    assert "memories" not in result.summary["bytes_moved"]
    assert {(row.cpu_memory_bytes, row.cxl_memory_bytes) for row in result.timeseries} == {(None, None)}


def test_collectives_are_counted_apart_from_loads() -> None:
    sent = []
    for placement in (None, BLOCKS):
        summary = simulate(run_file(placement, tensor_parallel_size=2), [REQUEST]).summary
        sent.append(summary["bytes_moved"]["links"]["instance:0"]["collective_bytes"])
    assert sent[0] == sent[1] > 0


Cli = Callable[..., Any]
MIXTRAL = "mistralai/Mixtral-8x7B"


@pytest.mark.parametrize(
    ("placement", "keys"),
    [
        ({"default": {"weights": "cpu"}}, {}),
        ({"default": {"weights": "cxl"}, "prefetch_depth": 2}, {"tensor_parallel_size": 2}),
        ({"blocks": [{"blocks": "0-7", "kv_loc": "cpu", "weights": "cxl:1"}]}, {"tensor_parallel_size": 2}),
        (
            {"layers": {"experts": {"weights": "cxl"}}, "expert_prefetch": "on_demand", "cached_experts": 1},
            {"model": MIXTRAL, "tensor_parallel_size": 2, "enable_expert_parallel": True},
        ),
    ],
    ids=["cpu", "stripes", "kv", "experts"],
)
def test_an_exported_iteration_takes_as_long_as_in_the_run(
    cli: Cli, write_config: Cli, trace: Path, tmp_path: Path, placement: dict[str, Any], keys: dict[str, Any]
) -> None:
    data = run_file(placement, **keys)
    data["serving"] = {"experts": {"routing": "random"}}
    folder = tmp_path / "t"
    answer = cli(
        *("run", write_config(data), "-w", trace, "-o", tmp_path / "out", "--emit-traces", folder),
        *("--emit-iterations", "0:6"),
    )
    assert answer.code == 0, answer.err
    with (folder / "iterations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    files = {"workload": "", "system": "system.json", "network": "network.yml", "remote-memory": "memory.json"}
    for row in rows:
        files["workload"] = row["prefix"]
        flags = [part for kind, name in files.items() for part in (f"--{kind}-configuration", folder / name)]
        answer = cli("astra", *flags, "--dialect", "llmservingsim", "--json")
        assert answer.code == 0, answer.err
        assert json.loads(answer.out)["finish_ns"] == int(row["duration_ns"])


def test_a_stock_astra_sim_has_no_such_memories(stand_in: Cli) -> None:
    from llmservingsim.astra_sim import AstraSimBackend
    from llmservingsim.backend.astra_binary import AstraSimBinary

    def stock(*models: Any) -> AstraSimBackend:
        return AstraSimBackend(*models, AstraSimBinary(stand_in()))

    with pytest.raises(ConfigError, match="--backend astra-sim"):
        Run(run_file(BLOCKS, tensor_parallel_size=2), [REQUEST], RunOptions(backend=stock))


def test_placement_does_not_change_how_ranks_communicate() -> None:
    """Two groups of four in turn, whose ranks are no neighbours, exchange tokens directly with each other."""
    times = []
    for placement in (None, {"layers": {"embedding": {"weights": "cpu"}}}):
        data = run_file(*[placement] * 8, model="Qwen/Qwen3-30B-A3B", enable_expert_parallel=True)
        for position, instance in enumerate(data["nodes"][0]["instances"]):
            instance["data_parallel_group"] = "AB"[position % 2]
        algorithms = {key: ["direct"] for key in ("all_gather", "reduce_scatter")}
        data["network"] = {"latency": "50us", "bandwidth": "1GB/s"} | algorithms
        data["nodes"][0]["cpu_memory"]["bandwidth"] = "100000000GB/s"
        times.append([r.finish_ns for r in simulate(data, [REQUEST]).requests])
    assert times[0] == times[1]


def test_the_clusters_file_with_a_pool_serves_its_workload(shared: Path) -> None:
    """Blocks, final norm and head, 15.01 GB, come from devices of 60 bytes/ns, one after another: 250.2 ms. Behind the
    last load, that of the head, nothing is computed but the head and the sampler; behind the last block's, that block.
    """
    data = shared / "data"
    config = data / "clusters" / "single_node_cxl_instance.json"
    options = RunOptions(profiles=[data / "profiles"], models=[data / "models"], num_requests=20)
    for name in ("example_trace.jsonl", "sharegpt-llama-3.1-8b-300-sps10.jsonl"):
        run = Run(config, data / "workloads" / name, options)
        summary = run.execute().summary
        assert summary["requests"]["finished"] == summary["requests"]["arrived"] > 0
        model = find_model("meta-llama/Llama-3.1-8B")
        table = operator_weights(model, "lm_head").size_bytes(model)
        loads_ms = (32 * block_bytes(model) + table) / 60 / 1e6
        assert loads_ms == pytest.approx(250.16, abs=0.01)
        assert loads_ms < summary["latency_ms"]["tpot"]["mean"] < 1.005 * loads_ms
        claims = {
            str(place): sum(c.num_bytes for c in run.system.memories.claims if c.place == place)
            for place in {c.place for c in run.system.memories.claims}
        }
        assert claims["cxl:2"] == 3 * block_bytes(model) + 2 * model.hidden_size


def test_a_model_of_32_blocks_elsewhere_is_simulated_quickly(cpu_s: Callable[[Callable[[], object]], float]) -> None:
    data = run_file({"default": {"weights": "cpu"}}, model="meta-llama/Llama-3.1-8B")
    run = Run(data, [RequestSpec(i, 0, 64, 1000) for i in range(8)])
    assert cpu_s(run.execute) < 1000 / 3000
