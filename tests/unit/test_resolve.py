"""Specs become objects: defaults, what the file states, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmservingsim.config import InstanceSpec, RunSpec, ServingSpec
from llmservingsim.config.catalog import find_accelerator
from llmservingsim.defaults import with_vllm_defaults
from llmservingsim.errors import CapacityError, ConfigError, PluginError, ProfileError
from llmservingsim.libraries import Libraries
from llmservingsim.resolve import System, merge, resolve

Clusters = Callable[..., dict[str, Any]]


def system(data: dict[str, Any], libraries: Libraries | None = None) -> System:
    return resolve(msgspec.convert(data, RunSpec), libraries or Libraries())


def one(**instance: Any) -> dict[str, Any]:
    return {"nodes": [{"instances": [{"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", **instance}]}]}


def test_an_instance_keeps_what_it_states_and_takes_the_rest_from_the_run() -> None:
    instance = InstanceSpec(model="m", hardware="h", max_num_seqs=3, enable_chunked_prefill=False)
    merged = merge(instance, ServingSpec(max_num_seqs=9, block_size=32, enable_chunked_prefill=True))
    assert (merged.max_num_seqs, merged.block_size, merged.enable_chunked_prefill) == (3, 32, False)
    assert merged.max_num_batched_tokens is None


@pytest.mark.parametrize(
    ("hardware", "seqs", "tokens"),
    [("H100", 1024, 8192), ("RTX4090", 256, 2048), ("A100", 256, 2048), ("RTXPRO6000", 1024, 8192)],
)
def test_defaults_are_vllms_for_the_size_of_the_device(hardware: str, seqs: int, tokens: int) -> None:
    spec = with_vllm_defaults(InstanceSpec(model="m", hardware=hardware), find_accelerator(hardware))
    assert (spec.max_num_seqs, spec.max_num_batched_tokens) == (seqs, tokens)
    assert (spec.block_size, spec.gpu_memory_utilization, spec.async_scheduling) == (16, 0.9, True)


@pytest.mark.parametrize(
    ("keys", "tokens"),
    [
        ({}, 131_072),
        ({"max_model_len": 9000}, 9000),
        ({"max_model_len": 1000}, 8192),
        ({"max_num_batched_tokens": 4096}, 4096),
        ({"max_num_batched_tokens": "auto", "max_model_len": 9000}, 9000),
    ],
)
def test_without_chunked_prefill_every_prompt_fits_the_default_budget(keys: dict[str, Any], tokens: int) -> None:
    """As in vLLM 0.19 (arg_utils.py); ``auto`` of an instance stands against what `serving` states for all."""
    for_all = 2048 if "auto" in keys.values() else None
    serving = ServingSpec(enable_chunked_prefill=False, max_num_batched_tokens=for_all)
    spec = merge(InstanceSpec(model="m", hardware="H100", **keys), serving)
    assert with_vllm_defaults(spec, find_accelerator("H100"), 131_072).max_num_batched_tokens == tokens


def test_every_serving_key_reaches_the_engine() -> None:
    keys: dict[str, Any] = {
        "max_num_seqs": 3,
        "max_num_batched_tokens": 77,
        "max_model_len": 555,
        "block_size": 32,
        "long_prefill_token_threshold": 11,
        "enable_chunked_prefill": False,
        "enable_prefix_caching": False,
        "scheduler_reserve_full_isl": False,
        "async_scheduling": False,
        "scheduling_policy": "priority",
        "num_gpu_blocks": 99,
    }
    engine = system(one() | {"serving": keys}).instances[0].engine
    limits = engine.config.scheduler
    assert (limits.max_num_seqs, limits.max_num_batched_tokens, limits.max_model_len) == (3, 77, 555)
    assert (limits.long_prefill_token_threshold, limits.enable_chunked_prefill) == (11, False)
    assert (limits.scheduler_reserve_full_isl, limits.policy) == (False, "priority")
    config = engine.config
    assert (config.block_size, config.num_gpu_blocks) == (32, 99)
    assert (config.enable_prefix_caching, config.async_scheduling) == (False, False)


def test_the_models_length_is_the_default_limit() -> None:
    assert system(one()).instances[0].engine.config.scheduler.max_model_len == 131_072


def test_devices_are_counted_over_instances_and_nodes(clusters: Clusters) -> None:
    data = clusters(2)
    data["nodes"].append({"instances": [data["nodes"][0]["instances"][0] | {"tensor_parallel_size": 4}]})
    found = system(data)
    assert [i.builder.ranks for i in found.instances] == [(0,), (1,), (2, 3, 4, 5)]
    assert [(i.index, i.node) for i in found.instances] == [(0, 0), (1, 0), (2, 1)]
    assert found.network.npus_count == [6]


def test_the_network_is_the_slowest_devices_unless_stated() -> None:
    data = one()
    data["nodes"][0]["instances"].append({"model": "meta-llama/Llama-3.2-1B", "hardware": "L40S"})
    slow = find_accelerator("L40S")
    assert system(data).network.bandwidth_gbps == [slow.link_bandwidth * slow.efficiency.link / 2**30]
    stated = system(data | {"network": {"bandwidth": "10GiB/s", "latency": "3us"}}).network
    assert (stated.bandwidth_gbps, stated.latency_ns) == ([10.0], [3000])


def test_stated_memory_replaces_the_catalogues() -> None:
    default, half = (system(one(**keys)).instances[0] for keys in ({}, {"memory_size": "40GiB"}))
    assert half.memory.total_bytes == 40 * 2**30
    assert half.memory.num_blocks < default.memory.num_blocks
    assert half.memory.capacity is not None


def test_blocks_of_all_that_the_weights_leave() -> None:
    """By hand: 20 GiB * 0.5 less 2 bytes for each of 1,235,814,400 weights, in blocks of 16 tokens * 32 KiB."""
    keys: dict[str, Any] = {"kv_memory_model": "weights_only", "memory_size": "20GiB", "gpu_memory_utilization": 0.5}
    memory = system(one(**keys)).instances[0].memory
    assert memory.weights_bytes == pytest.approx(2 * 1_235_814_400, rel=1e-3)
    assert memory.block_bytes == 16 * 32 * 2**10
    assert memory.num_blocks == (10 * 2**30 - memory.weights_bytes) // memory.block_bytes
    assert memory.used_bytes(3) == memory.weights_bytes + 3 * memory.block_bytes


def test_weights_that_leave_no_room_are_an_error_for_either_way_to_count() -> None:
    with pytest.raises(CapacityError, match=r"leave no room for KV cache in 1\.80 GiB"):
        system(one(kv_memory_model="weights_only", memory_size="2GiB"))
    with pytest.raises(CapacityError, match="does not fit"):
        system(one(memory_size="2GiB"))


def test_profiles_are_used_where_they_are_given_and_a_roofline_where_not(tmp_path: Path) -> None:
    assert system(one()).instances[0].builder.source.provenance()["source"] == "calibrated"
    assert system(one(hardware="L40S")).instances[0].builder.source.provenance()["source"] == "roofline"
    with pytest.raises(ProfileError, match=r"no profile of meta-llama/Llama-3\.2-1B on H100"):
        system(one(), Libraries(profiles=(tmp_path,)))
    stated = one() | {"serving": {"latency": {"source": "roofline"}}}
    assert (
        system(stated, Libraries(profiles=(tmp_path,))).instances[0].builder.source.provenance()["source"] == "roofline"
    )


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (one() | {"router": "robin"}, PluginError, "router: 'robin' is unknown"),
        (one() | {"serving": {"scheduler": "llm"}}, PluginError, "scheduler: 'llm' is unknown"),
        (one() | {"serving": {"latency": {"source": "rooflin"}}}, PluginError, "latency: 'rooflin' is unknown"),
        (one(hardware="H1000"), ConfigError, "did you mean 'H100'"),
        (
            one(enable_expert_parallel=True),
            ConfigError,
            "enable_expert_parallel: meta-llama/Llama-3.2-1B has no experts; expected .* only for a mixture of experts",
        ),
        (
            one(model="Qwen/Qwen3-30B-A3B", expert_parallel_size=3),
            ConfigError,
            "ep 3 must divide tp \\* dp = 1",
        ),
        (
            one(model="Qwen/Qwen3-30B-A3B", experts={"num_redundant_experts": 2}),
            ConfigError,
            "2 redundant experts need expert parallelism",
        ),
        (
            one(model="Qwen/Qwen3-30B-A3B", experts={"routing": "balance"}),
            PluginError,
            "experts: expert_router: 'balance' is unknown .did you mean 'balanced'",
        ),
        (
            one(max_num_seqs=10, max_num_batched_tokens=9),
            ConfigError,
            r"max_num_batched_tokens \(9\) is below max_num_seqs",
        ),
    ],
)
def test_what_cannot_be_looked_up_is_refused(data: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        system(data)


def test_eager_execution_does_not_pad() -> None:
    """Three requests decode: padded to a captured size of 4 by default, so the message is larger."""
    padded, eager, sizes = (
        system(one(tensor_parallel_size=2, **keys)).instances[0].builder
        for keys in ({}, {"enforce_eager": True}, {"cudagraph_capture_sizes": [3]})
    )
    from llmservingsim.shapes import BatchShape

    shape = BatchShape((), 3, 30, 12, 3)
    messages = [b.sizes_bytes([shape]) for b in (padded, eager, sizes)]
    assert [m is not None and int(m.max()) for m in messages] == [4 * 4096, 3 * 4096, 3 * 4096]


def test_a_length_beyond_the_models_positions_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nodes\[0\].*max_model_len: 10000000 is beyond the 131072 positions"):
        system(one(max_model_len=10_000_000))


def test_a_router_without_a_route_is_refused_though_one_instance_never_asks_it() -> None:
    with pytest.raises(PluginError, match="router: 'os:getcwd' has no method 'route'"):
        system({**one(), "router": "os:getcwd"})


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({}, 1),
        ({"enable_expert_parallel": True}, 4),
        ({"enable_expert_parallel": "auto"}, 4),
        ({"expert_parallel_size": 2}, 2),
        ({"expert_parallel_size": 1, "enable_expert_parallel": True}, 1),
    ],
)
def test_experts_are_divided_as_the_keys_say(keys: dict[str, Any], parts: int) -> None:
    found = system(one(model="Qwen/Qwen3-30B-A3B", tensor_parallel_size=4, **keys)).instances[0].builder
    assert (found.layout.ep, found.layout.expert_slices) == (parts, 4 // parts)


def test_a_dense_model_beside_a_mixture_of_experts_has_no_experts() -> None:
    data = one() | {"serving": {"enable_expert_parallel": "auto", "experts": {"num_redundant_experts": 8}}}
    data["nodes"][0]["instances"].append({"model": "Qwen/Qwen3-30B-A3B", "hardware": "H100", "tensor_parallel_size": 8})
    dense, mixed = (i.builder for i in system(data).instances)
    assert dense.experts is None
    assert (mixed.layout.ep, mixed.layout.redundant_experts) == (8, 8)


def test_instances_draw_from_seeds_of_their_own(clusters: Clusters) -> None:
    data = clusters(2, serving={"experts": {"routing": "random"}})
    for instance in data["nodes"][0]["instances"]:
        instance |= {"model": "Qwen/Qwen3-30B-A3B", "hardware": "H100"}
    first, second = (i.builder.experts for i in system(data).instances)
    assert first is not None
    assert second is not None
    assert first.geometry.seed != second.geometry.seed
    assert (first.load(9)[0].activated_experts != second.load(9)[0].activated_experts).any()


def test_paths_of_routings_start_at_the_run_file(tmp_path: Path) -> None:
    (tmp_path / "h.csv").write_text(
        "layer,expert,tokens\n" + "".join(f"{n},{e},1\n" for n in range(48) for e in range(8))
    )
    data = one(model="Qwen/Qwen3-30B-A3B", experts={"routing": "skewed", "options": {"path": "h.csv"}})
    found = system(data, Libraries(base=tmp_path)).instances[0].builder.experts
    assert found is not None
    assert found.load(5)[0].activated_experts.tolist() == [[8.0]] * 48
