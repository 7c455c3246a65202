"""The section ``placement``: what it may say, what that means in bytes, and that no more lies anywhere than fits."""

from typing import Any

import pytest

from llmservingsim import Run, simulate
from llmservingsim.config import PlacementSpec
from llmservingsim.config.catalog import ModelSpec, find_model
from llmservingsim.config.placement_spec import parse_blocks
from llmservingsim.errors import CapacityError, ConfigError
from llmservingsim.model import ParallelLayout, Placement, stage_range, weight_bytes
from llmservingsim.placement import plan_placement
from llmservingsim.strict import convert
from llmservingsim.workload import RequestSpec

LLAMA = find_model("meta-llama/Llama-3.1-8B")
TIED = find_model("meta-llama/Llama-3.2-1B")
MIXTRAL = find_model("mistralai/Mixtral-8x7B")
BLOCK_BYTES = 2 * (4096 * (4096 + 2 * 1024) + 4096 * 4096 + 3 * 4096 * 14336 + 2 * 4096)
TABLE_BYTES = 2 * 128256 * 4096


def spec(**data: Any) -> PlacementSpec:
    return convert(data, PlacementSpec, "placement", ConfigError)


def planned(model: ModelSpec = LLAMA, layout: ParallelLayout | None = None, **data: Any) -> Placement:
    found = plan_placement(spec(**data), model, layout or ParallelLayout())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("text", "blocks"), [("0", (0,)), ("0-3,8", (0, 1, 2, 3, 8)), (" 2 - 3 , 5 ", (2, 3, 5)), ("7-7", (7,))]
)
def test_blocks_are_numbers_and_ranges(text: str, blocks: tuple[int, ...]) -> None:
    assert parse_blocks(text) == blocks


@pytest.mark.parametrize("text", ["", "3-1", "a", "1,,2", "1-", "-1", "1.5", "0-3;8"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no block or range; expected as in '0-3,8'"):
        spec(blocks=[{"blocks": text, "weights": "cpu"}])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"default": {"weights": "cpux"}}, "weights: 'cpux' is no memory (did you mean 'cpu'?)"),
        ({"default": {"weights": "cpu:1"}}, "expected npu, cpu, cxl, cxl:<i> or storage"),
        ({"default": {"wieghts": "cpu"}}, "unknown key 'wieghts' in a section (did you mean 'weights'?)"),
        ({"prefetch_depth": -1}, "prefetch_depth"),
        ({"blocks": [{"blocks": "30-32", "weights": "cpu"}]}, "'30-32' has block 32, but"),
        (
            {"blocks": [{"blocks": "0-3", "weights": "cpu"}, {"blocks": "3,9", "weights": "npu"}]},
            "placement.blocks[1]: weights of block 3 is 'npu' here, but 'cpu' in blocks '0-3'; expected one answer",
        ),
        ({"layers": {"lm_haed": {"weights": "cpu"}}}, "no layer with weights 'lm_haed' (did you mean 'lm_head'?)"),
        ({"layers": {"act_fn": {"weights": "cpu"}}}, "no layer with weights 'act_fn'"),
        ({"layers": {"o_proj": {"kv_loc": "cpu"}}}, "placement.layers.o_proj.kv_loc: keys and values belong to blocks"),
        ({"cached_experts": 1}, "placement.cached_experts: meta-llama/Llama-3.1-8B has no experts"),
        ({"expert_prefetch": "on_demand"}, "placement.expert_prefetch: meta-llama/Llama-3.1-8B has no experts"),
    ],
)
def test_a_wrong_section_is_refused_with_the_place(data: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        planned(**data)
    assert said in str(caught.value)


def test_blocks_that_two_rules_name_alike_are_fine() -> None:
    rules = [{"blocks": "0-3", "weights": "cpu"}, {"blocks": "3", "weights": "cpu", "kv_loc": "npu"}]
    assert planned(blocks=rules).stored_bytes(0) == {"cpu": 4 * BLOCK_BYTES}


def test_nothing_elsewhere_is_no_placement() -> None:
    for data in ({}, {"default": {"weights": "npu"}}, {"blocks": [{"blocks": "0-31", "weights": "npu"}]}):
        assert plan_placement(spec(**data), LLAMA, ParallelLayout()) is None
    assert plan_placement(None, LLAMA, ParallelLayout()) is None


def test_a_layer_comes_before_its_block_and_that_before_the_default() -> None:
    found = planned(
        default={"weights": "cpu"},
        blocks=[{"blocks": "0-30", "weights": "npu"}],
        layers={"lm_head": {"weights": "storage"}, "embedding": {"weights": "npu"}, "layernorm": {"weights": "cxl:0"}},
    )
    norms = 2 * 2 * 4096
    assert found.stored_bytes(0) == {"cxl:0": 32 * norms, "cpu": BLOCK_BYTES - norms + 2 * 4096, "storage": TABLE_BYTES}


@pytest.mark.parametrize("layout", [ParallelLayout(), ParallelLayout(tp=4), ParallelLayout(tp=2, pp=3)], ids=str)
@pytest.mark.parametrize("model", [LLAMA, TIED, MIXTRAL], ids=lambda m: m.name)
def test_with_everything_elsewhere_the_device_has_buffers_alone(model: ModelSpec, layout: ParallelLayout) -> None:
    found = planned(model, layout, default={"weights": "cpu"})
    for stage in range(layout.pp):
        assert sum(found.stored_bytes(stage).values()) == weight_bytes(model, layout, stage)
        assert found.weight_bytes(model, layout, stage) == found.buffer_bytes(stage) > 0


def test_the_buffer_holds_the_blocks_that_are_fetched_ahead_and_the_one_that_is_computed() -> None:
    every = {"default": {"weights": "cpu"}, "layers": {"lm_head": {"weights": "npu"}}}
    for depth in range(4):
        assert planned(prefetch_depth=depth, **every).buffer_bytes(0) == (depth + 1) * BLOCK_BYTES
    some = {"blocks": [{"blocks": "4,9", "weights": "cpu"}]}
    assert planned(prefetch_depth=3, **some).buffer_bytes(0) == 2 * BLOCK_BYTES
    head = planned(default={"weights": "cpu"})
    assert head.buffer_bytes(0) == BLOCK_BYTES + TABLE_BYTES + 2 * 4096


def test_each_stage_has_its_own_blocks() -> None:
    layout = ParallelLayout(pp=2)
    found = planned(LLAMA, layout, blocks=[{"blocks": "0-19", "weights": "cpu"}])
    assert [found.stored_bytes(stage) for stage in range(2)] == [{"cpu": 16 * BLOCK_BYTES}, {"cpu": 4 * BLOCK_BYTES}]
    assert stage_range(32, 2, 1) == range(16, 32)


def test_a_table_that_embedding_and_head_share_lies_at_one_place() -> None:
    table = 2 * 128256 * 2048
    found = planned(TIED, layers={"embedding": {"weights": "cpu"}})
    assert found.stored_bytes(0) == {"cpu": table}
    assert found.buffer_bytes(0) == table  # the head reads all of it
    with pytest.raises(ConfigError, match=r"one table for embedding and lm_head; expected 'npu' as for the embedding"):
        planned(TIED, layers={"lm_head": {"weights": "cpu"}})


def test_a_rank_must_hold_more_experts_than_it_caches() -> None:
    with pytest.raises(ConfigError, match=r"a rank holds 4 experts of a block, got 4; expected fewer"):
        planned(MIXTRAL, ParallelLayout(tp=2, ep=2), default={"weights": "cpu"}, cached_experts=4)


def run_file(placement: dict[str, Any], instances: int = 1, **keys: Any) -> dict[str, Any]:
    instance = {"model": LLAMA.name, "hardware": "H100", "placement": placement} | keys
    memory = {"size": "20GiB", "bandwidth": "64GB/s"}
    return {"nodes": [{"instances": [instance] * instances, "cpu_memory": memory}]}


REQUESTS = [RequestSpec(0, 0, 8, 2)]


def test_a_memory_that_the_run_does_not_describe_is_refused() -> None:
    said = r"nodes\[0\].instances\[0\]: placement: 'cxl' is asked for, but the run describes no"
    with pytest.raises(ConfigError, match=said):
        Run(run_file({"default": {"weights": "cxl"}}), REQUESTS)


def test_too_many_weights_for_a_memory_are_refused_with_who_is_there() -> None:
    with pytest.raises(CapacityError) as caught:
        Run(run_file({"default": {"weights": "cpu"}}, 2), REQUESTS)
    assert "weights of instance 1: 14.96 GiB do not fit into cpu of node 0" in str(caught.value)
    assert "14.96 GiB  cpu of node 0  weights of instance 0" in str(caught.value)


def test_weights_elsewhere_leave_the_device_to_the_kv_cache() -> None:
    blocks = []
    for placement in ({}, {"default": {"weights": "cpu"}}):
        memory = Run(run_file(placement), REQUESTS).system.instances[0].memory
        blocks.append(memory.num_blocks)
    held = weight_bytes(LLAMA) - (BLOCK_BYTES + TABLE_BYTES + 2 * 4096)
    assert blocks[1] - blocks[0] == pytest.approx(held / (2 * 2**20), abs=1)
    assert memory.weights_bytes == BLOCK_BYTES + TABLE_BYTES + 2 * 4096


def test_a_model_that_is_too_large_for_its_device_fits_with_weights_elsewhere() -> None:
    """Qwen3-32B has 61 GiB of weights; an RTX 4090 has 24 GiB."""
    small = {"model": "Qwen/Qwen3-32B", "hardware": "RTX4090", "max_model_len": 4096}
    with pytest.raises(CapacityError):
        Run(run_file({}, **small), REQUESTS)
    data = run_file({"default": {"weights": "cpu"}}, **small)
    data["nodes"][0]["cpu_memory"]["size"] = "64GiB"
    assert simulate(data, REQUESTS).summary["requests"]["finished"] == 1


def test_kv_elsewhere_needs_a_stated_number_of_blocks_and_room() -> None:
    placement = {"default": {"kv_loc": "cpu"}}
    with pytest.raises(ConfigError, match="device memory does not tell how many KV blocks there are; expected num_gpu"):
        Run(run_file(placement), REQUESTS)
    run = Run(run_file(placement, num_gpu_blocks=1000), REQUESTS)
    assert [c.num_bytes for c in run.system.memories.claims] == [1000 * 16 * 32 * 4096]
    assert run.system.instances[0].memory.block_bytes == 0
    with pytest.raises(CapacityError, match=r"KV of instance 0: 39\.06 GiB do not fit into cpu of node 0"):
        Run(run_file(placement, num_gpu_blocks=20000), REQUESTS)


def test_kv_of_some_blocks_elsewhere_makes_room_for_more_tokens() -> None:
    half = {"blocks": [{"blocks": "0-15", "kv_loc": "cpu"}]}
    whole = Run(run_file({}), REQUESTS).system.instances[0].memory
    data = run_file(half)
    data["nodes"][0]["cpu_memory"]["size"] = "200GiB"
    memory = Run(data, REQUESTS).system.instances[0].memory
    assert memory.block_bytes * 2 == whole.block_bytes
    assert memory.num_blocks == pytest.approx(2 * whole.num_blocks, abs=1)


@pytest.mark.parametrize(
    "keys",
    [
        {"kv_role": "kv_producer"},
        {"prefix_storage": "cpu"},
        {"prefix_storage": [{"tier": "cpu", "size": "1GiB"}]},
        {"preemption_mode": "swap"},
    ],
)
def test_kv_that_moves_on_must_lie_on_the_device(keys: dict[str, Any]) -> None:
    data = run_file({"blocks": [{"blocks": "0", "kv_loc": "cpu"}]}, **keys)
    (key,) = keys
    with pytest.raises(
        ConfigError, match=rf"placement: {key} (\['cpu'\]|'\w+') moves KV from and to the device; expected kv_loc npu"
    ):
        Run(data, REQUESTS)


def test_where_evicted_kv_would_go_is_noted() -> None:
    run = Run(run_file({"default": {"kv_evict_loc": "cpu"}}), REQUESTS)
    assert run.notes == ["nodes[0].instances[0].placement: kv_evict_loc is not used: prefix_storage says where it goes"]
    assert run.system.memories.claims == []
