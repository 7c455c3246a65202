"""Instances and groups over several servers: which links they use, by hand.

Attention takes 125 us per block of Llama-3.2-1B and nothing else takes time: 16 blocks take 2 ms. Two servers of two
devices; a link inside a server carries 3 bytes per nanosecond after 1,000 ns, one between servers 0.7 after 5,000.
"""

from typing import Any

import pytest
from tiny_moe import EXPERTS_NS, HIDDEN_BYTES, ROUTED_BYTES, members, write_model

from llmservingsim import Run
from llmservingsim.errors import ConfigError
from llmservingsim.shapes import BatchShape
from llmservingsim.workload import RequestSpec

MS, US = 1_000_000, 1_000
TOKENS = 100
BYTES = TOKENS * 2048 * 2
NETWORK: dict[str, Any] = {
    "topology": ["FullyConnected", "FullyConnected"],
    "npus_count": [2, 2],
    "bandwidth": ["3GB/s", "0.7GB/s"],
    "latency": ["1us", "5us"],
    "endpoint_delay": "0ns",
}


class EighthOfAMillisecond:
    """Latencies by which a block takes 125 us."""

    def __init__(self, *parts: object) -> None:
        pass

    def latency_ns(self, operator: str, shape: BatchShape) -> int:
        return 125 * US if operator == "attention" else 0

    def provenance(self) -> dict[str, object]:
        return {"source": "made up"}


def config(*nodes: list[dict[str, Any]], **network: object) -> dict[str, Any]:
    """A run of instances, given by what is special about them."""
    base = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", "num_gpu_blocks": 101}
    base |= {"memory_bandwidth": "1000000GB/s"}
    return {
        "nodes": [{"instances": [base | keys for keys in instances]} for instances in nodes],
        "network": NETWORK | network,
        "serving": {"latency": {"source": f"{__name__}:EighthOfAMillisecond"}, "enforce_eager": True},
    }


def first_token_ns(spec: dict[str, Any], count: int = 1) -> tuple[Run, list[int | None]]:
    """Serve prompts of 100 tokens with one token of output."""
    made = Run(spec, [RequestSpec(i, 0, TOKENS, 1) for i in range(count)])
    made.execute()
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    return made, [r.finish_ns for r in records]


def inside(size_bytes: float) -> int:
    return 1000 + int(size_bytes / 3)


def between(size_bytes: float) -> int:
    return 5000 + int(size_bytes / 0.7)


def test_tensor_parallel_ranks_over_two_servers_reduce_in_both_dimensions() -> None:
    """Half is scattered inside, 68,266 ns at 3 bytes per ns; a quarter crosses twice, 146,285 ns; half is gathered."""
    made, (found,) = first_token_ns(config([{"tensor_parallel_size": 4, "nnodes": 2}]))
    assert made.system.instances[0].ranks == (0, 1, 2, 3)
    assert (inside(BYTES / 2), between(BYTES / 4)) == (1000 + 68_266, 5000 + 146_285)
    assert found == 2 * MS + 32 * (2 * inside(BYTES / 2) + 2 * between(BYTES / 4))


def test_a_group_of_one_device_per_server_uses_the_links_between_servers_alone() -> None:
    made, found = first_token_ns(config([{"tensor_parallel_size": 2, "nnodes": 2}] * 2), 2)
    assert [i.ranks for i in made.system.instances] == [(0, 2), (1, 3)]
    assert found == [2 * MS + 32 * 2 * between(BYTES / 2)] * 2


def test_stages_on_servers_of_their_own_reduce_inside_and_send_between() -> None:
    keys = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "nnodes": 2}
    made, (found,) = first_token_ns(config([keys]))
    assert made.system.instances[0].ranks == (0, 1, 2, 3)
    assert found == 2 * MS + 32 * 2 * inside(BYTES / 2) + between(BYTES)


def test_a_later_node_may_be_without_instances_of_its_own() -> None:
    network = {"npus_count": [2, 3]}
    spec = config([{"tensor_parallel_size": 4, "nnodes": 2}], [], [{"tensor_parallel_size": 2}], **network)
    made, _ = first_token_ns(spec, 2)
    assert [(i.node, i.ranks) for i in made.system.instances] == [(0, (0, 1, 2, 3)), (2, (4, 5))]
    spec = config([{"tensor_parallel_size": 2}], [], [{"tensor_parallel_size": 2}], **network)
    with pytest.raises(ConfigError, match=r"nodes\[1\].instances: nothing is on this node; expected an instance"):
        first_token_ns(spec)


def test_an_instance_over_servers_of_a_catalogued_cluster_fills_them() -> None:
    keys = {"model": "meta-llama/Llama-3.1-70B", "tensor_parallel_size": 8, "pipeline_parallel_size": 2, "nnodes": 2}
    spec = config([keys])
    spec["network"] = {"topology": "DGX-H100-SuperPOD", "options": {"nodes": 4}}
    made, _ = first_token_ns(spec)
    assert made.system.instances[0].ranks == tuple(range(16))
    spread = config([keys | {"pipeline_parallel_size": 1}])
    spread["network"] = spec["network"]
    made, _ = first_token_ns(spread)
    assert made.system.instances[0].ranks == (0, 1, 2, 3, 8, 9, 10, 11)


def test_the_members_of_a_group_on_two_servers_exchange_tokens_over_both_dimensions(tmp_path: Any) -> None:
    """An all-gather passes the outer dimension first, a reduce-scatter the inner one; both members have 100 tokens.

    25 rows of every rank: a slice each of 50 tokens of its member.
    """
    spec = members(write_model(tmp_path), pp=1, tp=2)
    spec["nodes"] = [{"instances": [i]} for i in spec["nodes"][0]["instances"]]
    spec["network"] = NETWORK
    made, found = first_token_ns(spec, 2)
    assert made.system.instances[0].builder.template.groups[-1] == (0, 1, 2, 3)
    dispatch = between(50 * ROUTED_BYTES) + inside(2 * 50 * ROUTED_BYTES)
    combine = inside(200 * HIDDEN_BYTES / 2) + between(200 * HIDDEN_BYTES / 4)
    gather = inside(50 * HIDDEN_BYTES)
    reduce = 2 * inside(50 * HIDDEN_BYTES)
    block = 100 * US + reduce + dispatch + EXPERTS_NS + combine + gather
    assert found == [4 * block] * 2


def test_more_ranks_than_kv_heads_hold_copies_of_them_all_the_way() -> None:
    """Llama-3.2-1B has 8 KV heads of 64: with 16 ranks each has one, and a token takes as much as with 8 ranks.

    A rank's weights have a 16th of the queries and of the MLP, but a whole KV head.
    """
    blocks = {}
    for tp in (8, 16):
        spec = config([{"tensor_parallel_size": tp, "nnodes": 2, "kv_memory_model": "weights_only"}])
        spec["nodes"][0]["instances"][0] |= {"num_gpu_blocks": None, "memory_size": "80GiB"}
        spec["network"] = {"topology": "DGX-H100-SuperPOD", "options": {"nodes": 2}}
        blocks[tp] = Run(spec, [RequestSpec(0, 0, 1, 1)]).system.instances[0].memory
    assert blocks[8].block_bytes == blocks[16].block_bytes == 16 * 16 * 2 * 64 * 2
    hidden, mlp = 2048, 8192
    attention = hidden * (128 + 2 * 64) + 128 * hidden
    vocabulary = 128256 // 16 * hidden
    block = attention + 3 * hidden * mlp // 16 + 2 * hidden
    assert blocks[16].weights_bytes == 2 * (16 * block + vocabulary + hidden)


@pytest.mark.parametrize(("source", "target", "copies"), [(16, 2, 1), (2, 16, 2), (16, 16, 2), (8, 16, 2)])
def test_every_decoding_rank_pulls_the_kv_head_that_it_holds(source: int, target: int, copies: int) -> None:
    """Of 100 tokens and 16 blocks: 8 heads of 64 elements, keys and values; 16 ranks hold every head twice.

    A prompt's instance is on the first two servers, its answer's on the next two.
    """
    sides = [
        {"kv_role": role, "tensor_parallel_size": tp, "nnodes": 2}
        for role, tp in (("kv_producer", source), ("kv_consumer", target))
    ]
    spec = config(sides[:1], [], sides[1:])
    spec["network"] = {"topology": "DGX-H100-SuperPOD", "options": {"nodes": 4}}
    made = Run(spec, [RequestSpec(0, 0, TOKENS, 2)])
    made.execute()
    assert made.system.transfers is not None
    (record,) = made.system.transfers.records
    assert record.num_bytes == copies * TOKENS * 16 * 2 * 8 * 64 * 2
    assert [{rank // 16 for rank in one.ranks} for one in made.system.instances] == [{0}, {1}]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"prefix_storage": "cpu"}, r"prefix_storage: 'cpu' is the memory of one server, but the instance is on 2"),
        ({"preemption_mode": "swap"}, r"preemption_mode: 'cpu' is the memory of one server, but the instance is on 2"),
        (
            {"placement": {"default": {"weights": "cpu"}}},
            r"placement: 'cpu' is the memory of one server, but the instance is on 2",
        ),
    ],
)
def test_the_memory_of_one_server_serves_no_instance_on_two(keys: dict[str, Any], said: str) -> None:
    spec = config([{"tensor_parallel_size": 4, "nnodes": 2} | keys])
    spec["nodes"][0]["cpu_memory"] = {"size": "64GiB", "bandwidth": "100GB/s"}
    with pytest.raises(ConfigError, match=said):
        first_token_ns(spec)


def test_an_answer_ends_and_a_prompt_is_refused_at_the_longest_sequence_in_a_group_too(tmp_path: Any) -> None:
    """Of 40 tokens: a prompt of 30 gets 10 of the 20 that it asks for, one of 40 is refused (its row keeps the 20)."""
    spec = members(write_model(tmp_path), pp=2, max_model_len=40)
    made = Run(spec, [RequestSpec(i, 0, prompt, 20) for i, prompt in enumerate((30, 40, 39))])
    made.execute()
    records = sorted(made.recorder.records, key=lambda r: r.request_id)
    assert [(r.status, r.output_tokens) for r in records] == [("finished", 10), ("rejected", 20), ("finished", 1)]


def test_a_longest_sequence_beyond_the_models_positions_is_refused(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="max_model_len: 4097 is beyond the 4096 positions"):
        Run(members(write_model(tmp_path), max_model_len=4097), [RequestSpec(0, 0, 1, 1)])
