"""The cluster files of LLMServingSim 2.0, and variants in their format, through the command line with measured bundles:
all run or are refused in one line that says what is wrong, and their results stand to each other as they must.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

LLAMA = "sharegpt-llama-3.1-8b-300-sps10"
QWEN = "sharegpt-qwen3-32b-300-sps10"
MOE = "sharegpt-qwen3-30b-a3b-300-sps10"
CHATS = "sharegpt_pulse_req50_n6_delay15_pc"
"""Its prompts return, with token ids."""

EVICTED = "kv_evict_loc is not used: prefix_storage says where it goes"
READ_AS = "link_bw and link_latency are read as [within a node, between nodes]"

PUBLISHED: dict[str, tuple[str, tuple[str, ...]]] = {
    "rtx4090_single_instance": (LLAMA, ()),
    "single_node_cxl_instance": (LLAMA, (EVICTED,)),
    "single_node_heterogeneous": (QWEN, ()),
    "single_node_moe_dp_ep_instance": (MOE, ()),
    "single_node_multi_instance": (LLAMA, ()),
    "single_node_pd_instance": (LLAMA, ()),
    "single_node_pim_instance": (LLAMA, ("cpu_mem.pim_config is not used: nothing is offloaded to memory",)),
    "single_node_power_instance": (LLAMA, ()),
    "single_node_single_instance": (LLAMA, ()),
    "single_node_tp_pp_instance": (LLAMA, ()),
}
"""File -> the trace of its model, and what its notes say."""


class Variant(NamedTuple):
    """Changes to a published file: instances per node, each by what it has beyond the file's first one, or beyond its
    k-th, ``own``; keys of the file; overrides; and what comes of it.
    """

    file: str
    trace: str
    nodes: Sequence[Sequence[Mapping[str, Any]]] = ()
    keys: Mapping[str, Any] = {}
    overrides: Sequence[str] = ()
    notes: tuple[str, ...] = ()
    tier: str = ""
    requests: int = 20


LINKS = {"link_bw": [16, 8], "link_latency": [20000, 40000]}
FAST = {"link_bw": 400, "link_latency": 1000}
"""Over the 16 GB/s of the file the all-reduces of a long prompt take longer than half of its computation."""

HYBRID = {"num_npus": 4, "tp_size": 2, "pp_size": 2, "ep_size": 4}
TP2 = {"num_npus": 2, "tp_size": 2}
HERE = {"weights": "npu", "kv_loc": "npu", "kv_evict_loc": "npu"}
ON_CPU = {"placement": {"default": HERE | {"weights": "cpu"}}}
KV_ON_CPU = {"placement": {"default": HERE | {"kv_loc": "cpu"}}}
EXPERTS_ON_CPU = {"placement": {"default": HERE, "layers": {"experts": HERE | {"weights": "cpu"}}}}
RTX4090 = {"hardware": "RTX4090", "npu_mem": {"mem_size": 24, "mem_bw": 1008, "mem_latency": 0}}
CXL = {"cxl_mem": {"mem_size": 1024, "mem_latency": 250, "mem_bw": 60, "num_devices": 4}}
FEW = "serving.num_gpu_blocks=1500"
SINGLE, MULTI, PAIR, GROUP = (f"single_node_{name}_instance" for name in ("single", "multi", "pd", "moe_dp_ep"))
CPU = "serving.prefix_storage=cpu"

RUNS: dict[str, Variant] = {
    "dual node": Variant(SINGLE, LLAMA, [[{}], [{}]]),
    "dual node, links of each level": Variant(SINGLE, LLAMA, [[TP2], [TP2]], LINKS, notes=(READ_AS,)),
    "four instances of two": Variant(SINGLE, LLAMA, [[TP2] * 4]),
    "devices of two kinds": Variant(SINGLE, LLAMA, [[{}, RTX4090]]),
    "group of stages and ranks": Variant(GROUP, MOE, [[HYBRID, HYBRID]]),
    "group over two nodes": Variant(GROUP, MOE, [[{}], [{}]], LINKS, notes=(READ_AS,)),
    "two groups": Variant(GROUP, MOE, [[{}, {}, {"dp_group": "B"}, {"dp_group": "B"}]]),
    "a mixture without a group": Variant(GROUP, MOE, [[TP2 | {"dp_group": None}]]),
    "prefill wider": Variant(PAIR, LLAMA, [[TP2, {"own": 1}]], FAST),
    "decode wider": Variant(PAIR, LLAMA, [[{}, TP2 | {"own": 1}]], FAST),
    "a pair on two nodes": Variant(PAIR, LLAMA, [[{}], [{"own": 1}]], LINKS, notes=(READ_AS,)),
    "a pair that pushes": Variant(PAIR, LLAMA, overrides=["kv_transfer.mode=push_layerwise"]),
    "weights on cpu": Variant(SINGLE, LLAMA, [[ON_CPU]]),
    "weights of stages on cpu": Variant(SINGLE, LLAMA, [[ON_CPU | {"num_npus": 2, "pp_size": 2}]]),
    "experts of a group on cpu": Variant(GROUP, MOE, [[EXPERTS_ON_CPU] * 2]),
    "keys and values on cpu": Variant(SINGLE, LLAMA, [[KV_ON_CPU]], overrides=["serving.num_gpu_blocks=9000"]),
    "cpu tier": Variant(SINGLE, CHATS, overrides=[CPU, FEW], tier="cpu", requests=150),
    "cpu tier of stages": Variant("single_node_tp_pp_instance", CHATS, (), {}, [CPU, FEW], tier="cpu", requests=150),
    "cpu tier of each": Variant(MULTI, CHATS, overrides=[CPU, FEW], tier="cpu", requests=150),
    "cpu tier of all": Variant(
        MULTI, CHATS, overrides=[CPU, "serving.prefix_sharing=true", FEW], tier="cpu", requests=150
    ),
    "cxl tier of all": Variant(
        MULTI, CHATS, (), CXL, ["serving.prefix_storage=cxl", "serving.prefix_sharing=true", FEW], tier="cxl",
        requests=150,
    ),
}  # fmt: skip

REFUSED: dict[str, tuple[Variant, str]] = {
    "sharing nothing": (
        Variant(MULTI, LLAMA, overrides=["serving.prefix_sharing=true"]),
        "prefix_sharing: there is no tier to share; expected prefix_storage, such as cpu",
    ),
    "a pool that is not there": (
        Variant(MULTI, LLAMA, overrides=["serving.prefix_storage=cxl"]),
        "prefix_storage: 'cxl' is asked for, but the run describes no such memory; expected cxl_memory",
    ),
    "offloaded attention": (
        Variant(SINGLE, LLAMA, [[{"enable_attn_offloading": True}]]),
        "nodes[0].instances[0].enable_attn_offloading: expected pim_config in the node's cpu_mem, which computes",
    ),
    "a device without a bundle": (
        Variant(SINGLE, LLAMA, [[{}, {"hardware": "H100"}]]),
        "nodes[0].instances[1]: no profile of meta-llama/Llama-3.1-8B on H100",
    ),
    "prefill alone": (
        Variant(PAIR, LLAMA, [[{}]]),
        "instance 0 is a kv_producer, but no instance of meta-llama/Llama-3.1-8B is a kv_consumer",
    ),
    "KV elsewhere and tiers": (
        Variant(SINGLE, LLAMA, [[KV_ON_CPU]], overrides=[CPU, FEW]),
        "placement: prefix_storage 'cpu' moves KV from and to the device; expected kv_loc npu, or no prefix_storage",
    ),
    "devices that do not add up": (
        Variant(SINGLE, LLAMA, [[{"num_npus": 3, "tp_size": 2}]]),
        "nodes[0].instances[0]: num_npus 3 is not tp_size * pp_size = 2 * 1",
    ),
}

COUNTED = {"single_node_pim_instance", "single_node_power_instance"}
"""Files that say what the parts of a server draw."""

Serve = Callable[[Variant], Any]


@pytest.fixture
def serve(shared: Path, cli: Callable[..., Any], tmp_path: Path) -> Serve:
    """Writes a variant's file and runs it; the answer of the command line, and the summary if there is one."""

    def run(variant: Variant) -> Any:
        data = json.loads((shared / "data" / "clusters" / f"{variant.file}.json").read_text())
        base = data["nodes"][0]
        if variant.nodes:
            data["nodes"] = [
                base | {"num_instances": len(node), "instances": [special(base["instances"], keys) for keys in node]}
                for node in variant.nodes
            ]
        data |= {"num_nodes": len(data["nodes"]), **variant.keys}
        path = tmp_path / "cluster.json"
        path.write_text(json.dumps(data))
        folders = [f"--{name}={shared / 'data' / name}" for name in ("profiles", "models")]
        overrides = [f"--set={override}" for override in variant.overrides]
        trace = shared / "data" / "workloads" / f"{variant.trace}.jsonl"
        output = tmp_path / "out"
        answer = cli("run", path, "-w", trace, "--num-requests", variant.requests, "-o", output, *folders, *overrides)
        return answer, json.loads((output / "summary.json").read_text()) if answer.code == 0 else None

    return run


def special(instances: Sequence[Mapping[str, Any]], keys: Mapping[str, Any]) -> dict[str, Any]:
    own = instances[keys.get("own", 0)]
    return {k: v for k, v in {**own, **keys}.items() if k != "own"}


def finished(serve: Serve, variant: Variant) -> Any:
    answer, summary = serve(variant)
    assert (answer.code, answer.err) == (0, "")
    assert (summary["requests"]["finished"], summary["requests"]["held"]) == (variant.requests, 0)
    notes = summary["provenance"]["notes"]
    missing = [said for said in variant.notes if not any(said in note for note in notes)]
    assert (missing, bool(notes)) == ([], bool(variant.notes)), notes
    assert all(i["latency"]["source"] == "bundle" for i in summary["instances"])
    return summary


@pytest.mark.parametrize("file", PUBLISHED)
def test_a_published_file_serves_the_trace_of_its_model(serve: Serve, file: str) -> None:
    trace, notes = PUBLISHED[file]
    summary = finished(serve, Variant(file, trace, notes=notes, requests=40))
    assert (summary["energy_j"] is not None) == (file in COUNTED)
    assert summary["energy_j"] is None or not summary["energy_j"]["absent"]


def test_every_published_file_is_tried(shared: Path) -> None:
    assert {path.stem for path in (shared / "data" / "clusters").glob("*.json")} == set(PUBLISHED)


@pytest.mark.parametrize("name", RUNS)
def test_a_variant_runs(serve: Serve, name: str) -> None:
    variant = RUNS[name]
    found = finished(serve, variant)["prefix_cache"]
    assert set(found) == {"npu", variant.tier or "npu"}
    if variant.tier:
        assert found[variant.tier]["hit_tokens"] > 0


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_run_says_why_in_one_line(serve: Serve, name: str) -> None:
    variant, said = REFUSED[name]
    answer, _ = serve(variant)
    assert answer.code == 2
    assert answer.err.startswith("error: ")
    assert said in answer.err.replace("\n", " ")


def latency(serve: Serve, name: str, metric: str) -> float:
    return float(finished(serve, RUNS[name])["latency_ms"][metric]["mean"])


def test_weights_on_cpu_take_their_bytes_over_its_bandwidth(serve: Serve) -> None:
    """Llama-3.1-8B: 32 blocks of 218,112,000 weights and a head of 128,256 x 4,096, two bytes each, at 256 GB/s, and
    embedding rows. A decode takes that and, as two stages load from one memory, both together no less.
    """
    bound_ms = 2 * (32 * 218_112_000 + 128_256 * 4096) / 256e9 * 1e3
    for name in ("weights on cpu", "weights of stages on cpu"):
        assert latency(serve, name, "tpot") > bound_ms
    assert latency(serve, "weights on cpu", "tpot") == pytest.approx(bound_ms, rel=0.02)


def test_a_wider_side_of_a_pair_is_the_faster_one(serve: Serve) -> None:
    """Prefill on two devices brings the first token earlier, decode on two the others."""
    assert latency(serve, "prefill wider", "ttft") < latency(serve, "decode wider", "ttft")
    assert latency(serve, "decode wider", "tpot") < latency(serve, "prefill wider", "tpot")


def test_a_shared_tier_finds_what_others_computed(serve: Serve) -> None:
    found = {name: finished(serve, RUNS[name])["prefix_cache"] for name in ("cpu tier of each", "cpu tier of all")}
    assert found["cpu tier of all"]["cpu"]["hit_pct"] > found["cpu tier of each"]["cpu"]["hit_pct"]
