"""Cluster files of LLMServingSim 2.0 with several nodes and hybrid layouts: they load unchanged, run, and use the
links that they state.

Where times are worked out by hand, attention takes 125 us per block of Llama-3.2-1B and nothing else takes time.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_moe import Blocks, write_model

from llmservingsim import Run, RunOptions
from llmservingsim.config import load_run
from llmservingsim.errors import ConfigError
from llmservingsim.lockstep import DataParallelGroup
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec

MS, US = 1_000_000, 1_000
GIB_PER_NS = 2**30 / 10**9
BYTES = 100 * 2048 * 2
"""Hidden states of a prompt of 100 tokens."""

INSTANCE: dict[str, Any] = {
    "model_name": "meta-llama/Llama-3.2-1B",
    "hardware": "H100",
    "npu_mem": {"mem_size": 80, "mem_bw": 1_000_000, "mem_latency": 0},
    "pd_type": None,
}


class EighthOfAMillisecond(Blocks):
    """Latencies by which a block takes 125 us."""

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return 125 * US if operator == "attention" else 0


def cluster(*nodes: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    """A file, its instances given by what is special about them."""
    memory = {"mem_size": 512, "mem_bw": 256, "mem_latency": 0}
    return {
        "num_nodes": len(nodes),
        "link_bw": [8, 0.5],
        "link_latency": [1000, 5000],
        "nodes": [
            {"num_instances": len(node), "cpu_mem": memory, "instances": [INSTANCE | keys for keys in node]}
            for node in nodes
        ],
    } | keys


def run(data: dict[str, Any], count: int, source: str = "EighthOfAMillisecond") -> tuple[Run, list[int | None]]:
    """Serve prompts of 100 tokens with one token of output; return the times of these."""
    overrides = [
        f"serving.latency.source={__name__}:{source}",
        "serving.enforce_eager=true",
        "serving.num_gpu_blocks=101",
        "network.endpoint_delay=0ns",
        "router=round_robin",
    ]
    made = Run(copy.deepcopy(data), [RequestSpec(i, 0, 100, 1) for i in range(count)], RunOptions(overrides=overrides))
    made.execute()
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    assert [r.status for r in records] == ["finished"] * count
    return made, [r.finish_ns for r in records]


def inside(size_bytes: float) -> int:
    return 1000 + int(size_bytes / (8 * GIB_PER_NS))


def between(size_bytes: float) -> int:
    return 5000 + int(size_bytes / (0.5 * GIB_PER_NS))


def test_two_nodes_of_one_instance() -> None:
    """Tensor parallel over the two devices of each node: 32 all-reduces of two messages of half the size."""
    made, found = run(cluster([{"tp_size": 2, "num_npus": 2}], [{"tp_size": 2, "num_npus": 2}]), 2)
    assert [(i.node, i.ranks) for i in made.system.instances] == [(0, (0, 1)), (1, (2, 3))]
    assert (made.system.network.npus_count, made.system.network.latency_ns) == ([2, 2], [1000, 5000])
    assert found == [2 * MS + 32 * 2 * inside(BYTES / 2)] * 2


def test_four_instances_of_two_ranks_on_two_nodes() -> None:
    made, found = run(cluster([{"tp_size": 2}] * 2, [{"tp_size": 2}] * 2), 4)
    assert made.system.network.npus_count == [4, 2]
    assert found == [2 * MS + 32 * 2 * inside(BYTES / 2)] * 4


@pytest.mark.parametrize(
    "nodes",
    [([{"tp_size": 2}], [{"tp_size": 2}] * 2), ([{"tp_size": 4}], [{"tp_size": 2}], [{"tp_size": 2}])],
)
def test_unequal_nodes_keep_both_numbers(nodes: tuple[list[dict[str, Any]], ...]) -> None:
    """Of two ranks, whose instance comes last."""
    made, found = run(cluster(*nodes), sum(map(len, nodes)))
    assert made.system.network.fabric is not None
    assert found[-1] == 2 * MS + 32 * 2 * inside(BYTES / 2)
    links = {(link.source, link.target): link.latency_ns for link in made.system.network.fabric.links}
    assert (links[0, 1], links[0, made.system.network.npus - 1]) == (1000, 5000)


def test_a_kv_cache_crosses_between_nodes_over_the_second_number() -> None:
    """100 tokens, 16 blocks, 8 heads of 64 elements, keys and values in two bytes."""
    data = cluster([{"pd_type": "prefill"}], [{"pd_type": "decode"}])
    data["nodes"][0]["instances"][0]["tp_size"] = data["nodes"][1]["instances"][0]["tp_size"] = 1
    overrides = [f"serving.latency.source={__name__}:EighthOfAMillisecond", "serving.num_gpu_blocks=101"]
    made = Run(data, [RequestSpec(0, 0, 100, 2)], RunOptions(overrides=overrides))
    made.execute()
    assert made.system.transfers is not None
    (record,) = made.system.transfers.records
    assert record.num_bytes == 100 * 16 * 2 * 8 * 64 * 2
    assert record.end_ns - record.start_ns == between(record.num_bytes)


def test_devices_may_differ_from_instance_to_instance() -> None:
    """What an instance runs on decides its latencies; the links are those of the file, whatever the devices."""
    spec = cluster([{"hardware": "H100"}], [{"hardware": "A100", "npu_mem": {"mem_size": 40, "mem_bw": 1555}}])
    made = Run(spec, [RequestSpec(i, 0, 100, 5) for i in range(2)], RunOptions(overrides=["router=round_robin"]))
    made.execute()
    fast, slow = sorted(made.recorder.records, key=lambda r: r.request_id)
    assert [i.hardware for i in made.system.instances] == ["H100", "A100"]
    assert (fast.finish_ns or 0) < (slow.finish_ns or 0)
    assert made.system.network.bandwidth_gbps == [0.5]


MOE = {"tp_size": 2, "pp_size": 2, "ep_size": 4, "num_npus": 4, "dp_group": "A"}


def moe(tmp_path: Path, *nodes: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    path = write_model(tmp_path)
    return cluster(*([MOE | {"model_name": path} | special for special in node] for node in nodes), **keys)


def test_a_group_with_stages_and_tensor_parallel_ranks_runs(tmp_path: Path) -> None:
    made, found = run(moe(tmp_path, [{}, {}]), 2, "Blocks")
    (owner,) = made.system.owners
    assert isinstance(owner, DataParallelGroup)
    layout = owner.members[0].builder.layout
    assert (layout.tp, layout.pp, layout.dp, layout.ep, layout.expert_slices) == (2, 2, 2, 4, 1)
    assert owner.members[0].builder.template.groups == ((0, 1), (4, 5), (0, 1, 4, 5))
    assert found[0] == found[1]


def test_two_groups_in_one_cluster_run_apart(tmp_path: Path) -> None:
    data = moe(tmp_path, [{}, {}], [{"dp_group": "B"}, {"dp_group": "B"}])
    made, _ = run(data, 4, "Blocks")
    assert [[m.index for m in owner.members] for owner in made.system.owners] == [[0, 1], [2, 3]]
    assert [i.node for i in made.system.instances] == [0, 0, 1, 1]


def test_a_group_over_two_nodes_exchanges_tokens_between_them(tmp_path: Path) -> None:
    """With a slower link between nodes its rounds take longer; within a node they would not."""
    times = {}
    for name, nodes in {"apart": ([{}], [{}]), "together": ([{}, {}],)}.items():
        for link in (0.5, 0.05):
            times[name, link] = run(moe(tmp_path, *nodes, link_bw=[8, link]), 2, "Blocks")[1][0] or 0
    assert times["apart", 0.05] > times["apart", 0.5]
    assert times["together", 0.05] > times["together", 0.5]
    assert run(moe(tmp_path, [{}, {}], link_bw=8, link_latency=1000), 2, "Blocks")[1][0] < times["together", 0.5]


@pytest.mark.parametrize(
    ("special", "said"),
    [
        ({"tp_size": 1, "num_npus": 2}, r"tensor_parallel_size: members of the data-parallel group 'A' must be alike"),
        (
            {"pp_size": 1, "num_npus": 2},
            r"pipeline_parallel_size: members of the data-parallel group 'A' must be alike",
        ),
        ({"ep_size": 2}, r"expert_parallel_size: members of the data-parallel group 'A' must be alike"),
    ],
)
def test_members_agree_on_their_layout(tmp_path: Path, special: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(moe(tmp_path, [{}, special]), 1, "Blocks")


@pytest.mark.parametrize(
    ("ep", "said"),
    [(8, r"ep 8 must divide tp \* dp = 4"), (3, r"ep 3 must divide tp \* dp = 4")],
)
def test_experts_are_divided_over_one_stage_of_the_group(tmp_path: Path, ep: int, said: str) -> None:
    """Two members of two ranks per stage: at most four parts, however many stages there are."""
    with pytest.raises(ConfigError, match=said):
        run(moe(tmp_path, [{"ep_size": ep}, {"ep_size": ep}]), 1, "Blocks")


def test_the_published_group_runs_with_stages_and_ranks_from_its_bundle(shared: Path) -> None:
    """`single_node_moe_dp_ep_instance.json` with two stages of two ranks each, and over two nodes."""
    data = json.loads((shared / "data" / "clusters" / "single_node_moe_dp_ep_instance.json").read_text())
    for instance in data["nodes"][0]["instances"]:
        instance |= {"num_npus": 4, "tp_size": 2, "pp_size": 2, "ep_size": 4}
    apart = copy.deepcopy(data) | {"num_nodes": 2, "link_bw": [16, 8], "link_latency": [20000, 40000]}
    apart["nodes"] = [apart["nodes"][0] | {"num_instances": 1, "instances": [i]} for i in data["nodes"][0]["instances"]]
    options = RunOptions(profiles=[shared / "data" / "profiles"], models=[shared / "data" / "models"])
    requests = [RequestSpec(i, i * 10 * MS, 200 + i, 20) for i in range(12)]
    ends = []
    for spec in (data, apart):
        made = Run(spec, requests, options)
        result = made.execute()
        assert result.summary["requests"]["finished"] == 12
        assert result.summary["instances"][0]["latency"]["source"] == "bundle"
        ends.append(result.summary["simulated_s"])
    assert ends[1] > ends[0]


def test_a_file_of_two_nodes_is_told_how_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "dual.json"
    path.write_text(json.dumps(cluster([{"tp_size": 2}], [{"tp_size": 2}])))
    assert load_run(path)[1] == [
        "link_bw and link_latency are read as [within a node, between nodes]",
        "the network is a grid of 2 x 2, each dimension linked all to all",
    ]
