"""Cluster files of LLMServingSim 2.0: read unchanged, and nothing that would change the timing left out in silence."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmservingsim.config import RunSpec, load_run
from llmservingsim.config.peer import import_peer_file, is_peer_file
from llmservingsim.errors import ConfigError

FILE: dict[str, Any] = {
    "num_nodes": 1,
    "link_bw": 16,
    "link_latency": 1000,
    "nodes": [
        {
            "num_instances": 1,
            "cpu_mem": {"mem_size": 64, "mem_bw": 50, "mem_latency": 0},
            "instances": [
                {
                    "model_name": "meta-llama/Llama-3.1-8B",
                    "hardware": "RTX4090",
                    "npu_mem": {"mem_size": 24, "mem_bw": 1008, "mem_latency": 0, "mem_util": 0.8},
                    "num_npus": 2,
                    "tp_size": 2,
                    "pd_type": None,
                }
            ],
        }
    ],
}

Change = Callable[[dict[str, Any]], None]


def changed(change: Change) -> dict[str, Any]:
    data = copy.deepcopy(FILE)
    change(data)
    return data


def instance_with(**keys: Any) -> dict[str, Any]:
    """The file with keys of its only instance set, or taken out where None is given for a stated one."""
    return changed(lambda data: data["nodes"][0]["instances"][0].update(keys))


def imported(data: object) -> RunSpec:
    return import_peer_file(data, "file")[0]


def test_a_file_becomes_a_run() -> None:
    spec, notes = import_peer_file(FILE, "file")
    instance = spec.nodes[0].instances[0]
    assert notes == []
    assert (instance.model, instance.hardware, instance.tensor_parallel_size) == (
        "meta-llama/Llama-3.1-8B",
        "RTX4090",
        2,
    )
    assert (instance.memory_size, instance.memory_bandwidth) == ("24.0GiB", "1008.0GB/s")
    assert (instance.gpu_memory_utilization, instance.kv_memory_model) == (0.8, "weights_only")
    assert (spec.network.bandwidth, spec.network.latency) == ("16.0GiB/s", "1000.0ns")
    assert (spec.serving.max_num_seqs, spec.serving.max_num_batched_tokens) == (128, 2048)
    assert spec.nodes[0].cpu_memory is not None
    assert spec.nodes[0].cpu_memory.size == "64.0GiB"


def test_without_a_fitted_utilisation_capacity_is_predicted_as_vllm_does() -> None:
    data = changed(lambda d: d["nodes"][0]["instances"][0]["npu_mem"].pop("mem_util"))
    instance = imported(data).nodes[0].instances[0]
    assert (instance.kv_memory_model, instance.gpu_memory_utilization) == ("vllm", None)


def test_run_time_overrides_of_an_instance_keep_their_meaning() -> None:
    keys: dict[str, Any] = {"max_num_seqs": 7, "block_size": 32, "reserve_full_isl": False, "dtype": "float16"}
    instance = imported(instance_with(**keys, max_num_batched_tokens=0)).nodes[0].instances[0]
    assert (instance.max_num_seqs, instance.block_size, instance.dtype) == (7, 32, "float16")
    assert instance.scheduler_reserve_full_isl is False
    assert instance.max_num_batched_tokens == "auto"


def test_the_older_spelling_is_read() -> None:
    data = instance_with(npu_num=4, npu_group=1)
    del data["nodes"][0]["instances"][0]["num_npus"], data["nodes"][0]["instances"][0]["tp_size"]
    assert imported(data).nodes[0].instances[0].tensor_parallel_size == 4


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"enable_local_offloading": True}, "enable_local_offloading: not simulated: the format does not say"),
        ({"enable_attn_offloading": True}, "enable_attn_offloading: expected pim_config in the node's cpu_mem"),
        ({"enable_sub_batch_interleaving": True}, "enable_sub_batch_interleaving: expected enable_attn_offloading"),
    ],
)
def test_offloading_that_lacks_what_it_needs_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(instance_with(**keys))
    assert str(caught.value).startswith(f"file: nodes[0].instances[0].{message}")


def test_attention_in_memory_is_read_with_that_programs_fits() -> None:
    data = instance_with(enable_attn_offloading=True, enable_sub_batch_interleaving=True)
    memory = {"mem_size": 64, "mem_bw": 128, "mem_latency": 0, "pim_config": "HBM2_1GB_2000_pim"}
    data["nodes"][0]["cpu_mem"] = memory
    run, notes = import_peer_file(data, "file")
    (node,) = run.nodes
    assert node.cpu_memory is not None
    assert (node.cpu_memory.pim, node.cpu_memory.pim_model) == ("HBM2_1GB_2000_pim", "linear")
    assert node.instances[0].operators == {"attention": "cpu"}
    assert node.instances[0].sub_batch_interleaving == "always"
    assert not [note for note in notes if "pim_config" in note]
    assert [note for note in notes if "lie in cpu_mem, where attention runs" in note]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (instance_with(tp_sze=2), "nodes[0].instances[0]: unknown key 'tp_sze' in a section (did you mean 'tp_size'?)"),
        (changed(lambda d: d.update(link_bandwidth=1)), "file: unknown key 'link_bandwidth'"),
        (changed(lambda d: d.update(num_nodes=2)), "file: num_nodes is 2, but the file lists 1 nodes"),
        (changed(lambda d: d["nodes"][0].update(num_instances=3)), "nodes[0].num_instances is 3, but the file lists 1"),
        (instance_with(num_npus=3), "nodes[0].instances[0]: num_npus 3 is not tp_size * pp_size = 2 * 1"),
        (instance_with(npu_mem={"mem_size": 24}), "nodes[0].instances[0].npu_mem: the section lacks the key 'mem_bw'"),
        (instance_with(npu_mem={"mem_size": 0, "mem_bw": 1}), "npu_mem.mem_size: expected float > 0.0, got 0"),
        (instance_with(dtype="bf17"), "nodes[0].instances[0].dtype: Invalid enum value 'bf17'"),
        (changed(lambda d: d.update(link_bw=0)), "file: link_bw: expected float > 0.0, got 0"),
        (
            changed(lambda d: d.update(link_bw=float("inf"))),
            "file: link_bw: expected float <= 1000000000000.0, got inf",
        ),
        (instance_with(npu_mem={"mem_size": 1e30, "mem_bw": 1}), "npu_mem.mem_size: expected float <= 1000000000000.0"),
        (changed(lambda d: d.update(link_bw=[])), "file: link_bw: expected array of length >= 1, got []"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        imported(data)
    assert said in str(caught.value)


def test_a_placement_is_read_as_it_is() -> None:
    rule = {"weights": "cxl:1", "kv_loc": "npu", "kv_evict_loc": "cpu"}
    section = {"default": rule, "blocks": [{"blocks": "0-3,8", **rule}], "layers": {"lm_head": rule}}
    found = imported(instance_with(placement=section)).nodes[0].instances[0].placement
    assert found is not None
    assert (found.default.weights, found.blocks[0].blocks, found.layers["lm_head"].kv_evict_loc) == (
        "cxl:1",
        "0-3,8",
        "cpu",
    )
    with pytest.raises(ConfigError, match=r"placement.default.*'cxl1' is no memory \(did you mean 'cxl'\?\)"):
        imported(instance_with(placement={"default": {"weights": "cxl1"}}))


def test_what_is_stated_in_vain_is_noted() -> None:
    def add(data: dict[str, Any]) -> None:
        data.update(link_bw=[16, 8])
        data["nodes"][0]["cpu_mem"].update(pim_config="DDR4", mem_latency=3)
        data["nodes"][0]["instances"][0]["npu_mem"].update(mem_latency=5)

    spec, notes = import_peer_file(changed(add), "file")
    assert spec.network.bandwidth == "16.0GiB/s"
    assert [note.split(" is ")[0] for note in notes] == [
        "nodes[0].cpu_mem.pim_config",
        "nodes[0].instances[0].npu_mem.mem_latency",
        "link_bw and link_latency are read as [within an instance, between instances of a node]; nothing",
    ]


@pytest.mark.parametrize(
    ("data", "is_peer"),
    [
        (FILE, True),
        ({"link_bw": 1}, True),
        ({"nodes": [{"instances": [{"model": "m", "hardware": "h"}]}]}, False),
        ({"nodes": [{"instances": [3]}]}, False),
        ({"nodes": [3]}, False),
        ({"nodes": {}}, False),
        ([], False),
        (None, False),
    ],
)
def test_the_two_formats_are_told_apart_whatever_they_hold(data: object, is_peer: bool) -> None:
    assert is_peer_file(data) is is_peer


def test_every_published_cluster_file_loads(shared: Path) -> None:
    paths = sorted((shared / "data" / "clusters").glob("*.json"))
    assert paths
    for path in paths:
        load_run(path)


def test_experts_are_divided_as_the_file_says_and_over_tp_ranks_where_it_is_silent() -> None:
    """That program's default is tp for a mixture of experts and 1 for a dense model."""
    silent, stated = (imported(instance_with(**keys)).nodes[0].instances[0] for keys in ({}, {"ep_size": 2}))
    assert (silent.enable_expert_parallel, silent.expert_parallel_size) == ("auto", None)
    assert (stated.enable_expert_parallel, stated.expert_parallel_size) == (None, 2)
