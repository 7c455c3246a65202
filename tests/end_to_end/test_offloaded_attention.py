"""Runs whose decode attention is computed in a memory: every nanosecond by hand."""

import itertools
from typing import Any

import pytest

from llmservingsim import Run, simulate
from llmservingsim.errors import CapacityError, ConfigError
from llmservingsim.workload import RequestSpec
from tests.offload_device import (
    ACCELERATOR_NS,
    BLOCKS,
    BYTES_PER_NS,
    GEMV_NS,
    KV_BYTES,
    LATENCY_NS,
    READ_BYTES,
    REQUEST_NS,
    SMALL,
    WRITTEN_BYTES,
    access_ns,
    run_file,
)

REQUEST = RequestSpec(0, 0, 8, 2)
ENDS_NS = ACCELERATOR_NS["embedding"] + ACCELERATOR_NS["sampler"]
QKV_NS, ATTENTION_NS, O_NS = (ACCELERATOR_NS[name] for name in ("qkv_proj", "attention", "o_proj"))
PROMPT_NS = ENDS_NS + BLOCKS * (QKV_NS + ATTENTION_NS + O_NS)


def attention_ns(requests: int, context: int) -> int:
    """What a memory takes for the longest group of a batch of as many decodes, once reached."""
    return LATENCY_NS + requests * REQUEST_NS + context


def away_ns(decodes: int, longest: int) -> int:
    """From the end of the projection of queries to the result on the accelerator."""
    return access_ns(decodes * READ_BYTES) + longest + access_ns(decodes * WRITTEN_BYTES)


def decode_ns(decodes: int, longest: int) -> int:
    return ENDS_NS + BLOCKS * (QKV_NS + away_ns(decodes, longest) + O_NS)


def finishes(data: dict[str, Any], requests: list[RequestSpec]) -> list[tuple[int, int]]:
    records = sorted(simulate(data, requests).requests, key=lambda record: record.request_id)
    return [(record.first_token_ns, record.finish_ns) for record in records]


def test_a_decode_goes_to_the_memory_and_back_and_its_context_grows() -> None:
    expected = list(itertools.accumulate([PROMPT_NS] + [decode_ns(1, attention_ns(1, 9 + k)) for k in range(3)]))
    assert finishes(run_file(), [RequestSpec(0, 0, 8, 4)]) == [(expected[0], expected[3])]


def test_the_longest_group_decides() -> None:
    """Prompts of 8, 6 and 5 tokens: the first two go to a group each, the third to the second, which holds fewer."""
    requests = [RequestSpec(i, 0, tokens, 2) for i, tokens in enumerate((8, 6, 5))]
    longest = max(attention_ns(1, 9), attention_ns(2, 7 + 6))
    expected = PROMPT_NS + decode_ns(3, longest)
    assert finishes(run_file(), requests) == [(PROMPT_NS, expected)] * 3


def test_the_accelerator_computes_prompts_meanwhile() -> None:
    """The second request arrives while the first decodes; the attention of its prompt hides that in the memory."""
    requests = [RequestSpec(0, 0, 8, 3), RequestSpec(1, PROMPT_NS - 1, 1000, 2)]
    assert away_ns(1, attention_ns(1, 9)) < ATTENTION_NS
    mixed_end = 2 * PROMPT_NS
    last = mixed_end + decode_ns(2, max(attention_ns(1, 10), attention_ns(1, 1001)))
    assert finishes(run_file(), requests) == [(PROMPT_NS, last), (mixed_end, last)]


def test_attention_in_memory_that_takes_longer_is_what_a_mixed_batch_waits_for() -> None:
    """The first iteration ends when the keys and values of its prompt have been stored, one block after another."""
    first = ACCELERATOR_NS["embedding"] + QKV_NS + BLOCKS * access_ns(50_000 * KV_BYTES)
    requests = [RequestSpec(0, 0, 50_000, 2), RequestSpec(1, first - 1, 8, 1)]
    assert away_ns(1, attention_ns(1, 50_001)) > ATTENTION_NS
    data = run_file(max_num_batched_tokens=60_000)
    assert finishes(data, requests)[0] == (first, first + decode_ns(1, attention_ns(1, 50_001)))


def test_a_later_chunk_loads_the_keys_and_values_before_it() -> None:
    """In chunks of 4000: the second loads 4000 tokens of 2048 bytes, which takes longer than its attention hides."""
    data = run_file(max_num_batched_tokens=4000)
    loading_ns = access_ns(4000 * KV_BYTES)
    assert loading_ns > ATTENTION_NS + O_NS + QKV_NS, "stores of the first chunk end behind its layers"
    first = ACCELERATOR_NS["embedding"] + QKV_NS + BLOCKS * loading_ns
    # 1000 tokens are stored beside the next block's loads, each with half of the bandwidth
    ((end, _),) = finishes(data, [RequestSpec(0, 0, 5000, 1)])
    least = first + ENDS_NS + BLOCKS * (QKV_NS + loading_ns + ATTENTION_NS + O_NS)
    assert least <= end <= least + BLOCKS * access_ns(1000 * KV_BYTES)


def test_ranks_have_their_share_of_heads_and_share_the_link_and_the_channels() -> None:
    """Two ranks: half the bytes each at half the bandwidth, half the channels' time each, one after the other.

    The memory is asked by both at once, so the second waits for the first; both go on after the all-reduce behind
    o_proj, which takes next to nothing here.
    """
    data = run_file(tensor_parallel_size=2)
    data["network"] = {"bandwidth": "1000000GB/s", "latency": "0ns", "endpoint_delay": "0ns"}
    ((first, finish),) = finishes(data, [RequestSpec(0, 0, 8, 2)])
    half = (REQUEST_NS + 9 + 1) // 2 + LATENCY_NS
    store_ns = LATENCY_NS + READ_BYTES // 100
    block_ns = QKV_NS + store_ns + 2 * half + access_ns(WRITTEN_BYTES // 2) + O_NS
    assert first == pytest.approx(PROMPT_NS, abs=500)
    assert finish - first == pytest.approx(ENDS_NS + BLOCKS * block_ns, abs=500)


def test_other_operators_run_in_the_memory_where_no_prompt_is_computed() -> None:
    """From gate_up_proj to down_proj: one way there, three computations, one way back."""
    places = dict.fromkeys(("gate_up_proj", "act_fn", "down_proj"), "cpu")
    data = run_file(operators=places)
    ((first, finish),) = finishes(data, [RequestSpec(0, 0, 8, 2)])
    assert first == PROMPT_NS
    mlp_ns = 2 * access_ns(2 * 2048) + 3 * (LATENCY_NS + GEMV_NS)
    assert finish - first == PROMPT_NS + BLOCKS * mlp_ns


def test_neighbours_in_the_memory_are_one_trip() -> None:
    data = run_file(operators={"attention": "cpu", "o_proj": "cpu"})
    ((first, finish),) = finishes(data, [RequestSpec(0, 0, 8, 2)])
    there_ns, back_ns = access_ns(READ_BYTES), access_ns(2 * 2048)
    block_ns = QKV_NS + there_ns + attention_ns(1, 9) + LATENCY_NS + GEMV_NS + back_ns
    assert finish - first == ENDS_NS + BLOCKS * block_ns


def test_instances_that_share_a_memory_wait_for_each_others_groups() -> None:
    """Both begin a decode at once: in every block the second finds the first one's group computing."""
    requests = [RequestSpec(i, 0, 8, 2) for i in range(2)]
    times = finishes(run_file({}, {}), requests)
    alone = PROMPT_NS + decode_ns(1, attention_ns(1, 9))
    waits = times[1][1] - alone
    assert times[0][1] >= alone
    assert attention_ns(1, 9) <= waits <= BLOCKS * (attention_ns(1, 9) + access_ns(READ_BYTES))


def test_instances_beside_each_other_need_not_be_alike() -> None:
    data = run_file({}, {"operators": None})
    requests = [RequestSpec(i, 0, 8, 2) for i in range(2)]
    assert sorted(finishes(data, requests)) == sorted(
        [(PROMPT_NS, PROMPT_NS + decode_ns(1, attention_ns(1, 9))), (PROMPT_NS, 2 * PROMPT_NS)]
    )


def test_a_cached_prefix_is_context_in_the_memory() -> None:
    """The second request has 32 of its 40 tokens cached: it loads them for its chunk, and decodes over 41.

    The other 8 tokens are stored at the same time, with an equal part of the bandwidth until they are there.
    """
    tokens = tuple(range(40))
    requests = [RequestSpec(0, 0, 40, 1, token_ids=tokens), RequestSpec(1, 10 * PROMPT_NS, 40, 2, token_ids=tokens)]
    result = simulate(run_file(), requests)
    second = max(result.requests, key=lambda record: record.request_id)
    assert second.cached_tokens == 32
    loading_ns = access_ns((32 + 8) * KV_BYTES)
    assert second.first_token_ns - 10 * PROMPT_NS == PROMPT_NS + BLOCKS * loading_ns
    assert second.finish_ns - second.first_token_ns == decode_ns(1, attention_ns(1, 41))


def test_the_size_of_the_memory_gives_the_blocks_and_the_device_holds_none() -> None:
    run = Run(run_file(), [RequestSpec(0, 0, 8, 2)])
    (instance,) = run.system.instances
    block_bytes = 16 * BLOCKS * KV_BYTES
    assert instance.memory.num_blocks == 2**36 // block_bytes
    assert instance.memory.block_bytes == 0
    (claim,) = run.system.memories.claims
    assert (claim.what, claim.num_bytes) == ("KV of instance 0", 2**36)
    summary = run.execute().summary
    told = summary["instances"][0]["offloading"]
    assert told["operators"] == {"attention": "cpu"}
    assert told["attention_ms"] == pytest.approx(BLOCKS * (REQUEST_NS + 9) / 1e6)
    moved = summary["bytes_moved"]["memories"]["cpu"]
    assert moved["stored_bytes"] == BLOCKS * (8 * KV_BYTES + READ_BYTES)
    assert moved["loaded_bytes"] == BLOCKS * WRITTEN_BYTES


def test_instances_share_a_memory_in_equal_parts_behind_what_is_stated() -> None:
    run = Run(run_file({}, {}, {"num_gpu_blocks": 1000}), [REQUEST])
    block_bytes = 16 * BLOCKS * KV_BYTES
    rest = (2**36 - 1000 * block_bytes) // 2 // block_bytes
    assert [i.memory.num_blocks for i in run.system.instances] == [rest, rest, 1000]


@pytest.mark.parametrize("how", ["vllm", "weights_only"])
def test_weights_that_do_not_fit_are_refused_although_no_kv_lies_on_the_device(how: str) -> None:
    with pytest.raises(CapacityError, match=r"Llama-3\.2-1B"):
        Run(run_file(memory_size="2GiB", kv_memory_model=how), [REQUEST])


def test_too_little_room_is_refused_with_who_has_what() -> None:
    with pytest.raises(CapacityError, match=r"(?s)KV of instance 1: .* do not fit.*KV of instance 0"):
        Run(run_file({"num_gpu_blocks": 60_000}, {"num_gpu_blocks": 90_000}), [REQUEST])


NGRAM = {"method": "ngram", "num_speculative_tokens": 2, "acceptance": {"policy": "fixed", "rate": 0.5}}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"operators": {"atention": "cpu"}}, "operators: 'atention' is no operator.*did you mean 'attention'"),
        ({"operators": {"attention": "gpu"}}, "operators.attention.*'gpu' is no memory"),
        ({"operators": {"attention": "storage"}}, "storage"),
        ({"operators": {"attention": "cxl:0"}}, "operators.attention.*cxl_memory"),
        ({"operators": {"qkv_proj": "cpu"}}, "does not compute 'qkv_proj'; it computes"),
        ({"pipeline_parallel_size": 2}, "beside pipeline_parallel_size are not simulated"),
        ({"speculative_config": NGRAM}, "beside speculative_config"),
        ({"kv_role": "kv_producer"}, "kv_role 'kv_producer' moves KV"),
        ({"prefix_storage": "cpu"}, "prefix_storage 'cpu' moves KV"),
        ({"prefix_storage": ["cpu", {"tier": "storage"}]}, r"prefix_storage \['cpu', 'storage'\] moves KV"),
        ({"preemption_mode": "swap"}, "preemption_mode 'swap' moves KV"),
        ({"placement": {"default": {"kv_loc": "cpu"}}}, "kv_loc 'cpu' contradicts operators.attention"),
        ({"operators": None, "sub_batch_interleaving": "auto"}, "sub_batch_interleaving: halves overlap"),
    ],
)
def test_what_cannot_be_is_refused_by_name(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Run(run_file(keys), [REQUEST])


def test_a_memory_that_does_not_compute_is_refused() -> None:
    data = run_file()
    del data["nodes"][0]["cpu_memory"]["pim"]
    with pytest.raises(
        ConfigError, match=r"operators.attention: 'cpu' does not compute; expected nodes\[0\].cpu_memory.pim"
    ):
        Run(data, [REQUEST])


@pytest.mark.parametrize("halves", ["never", "always"])
def test_a_memory_behind_a_link_computes_too(halves: str) -> None:
    """A link as fast as the memory changes nothing but by rounding; one of half its bandwidth doubles the way."""
    requests = [RequestSpec(i, 0, 8, 2) for i in range(2)]
    times = []
    for bandwidth in (None, f"{BYTES_PER_NS}GB/s", f"{BYTES_PER_NS // 2}GB/s"):
        data = run_file(sub_batch_interleaving=halves)
        data["nodes"][0]["cpu_memory"]["link_bandwidth"] = bandwidth
        times.append([finish - first for first, finish in finishes(data, requests)])
    assert times[1] == pytest.approx(times[0], abs=4 * BLOCKS)
    if halves == "never":
        moved_ns = 2 * (READ_BYTES + WRITTEN_BYTES) / BYTES_PER_NS
        assert times[2][0] - times[0][0] == pytest.approx(BLOCKS * moved_ns, abs=4 * BLOCKS)


def test_drives_and_two_kinds_of_units_are_refused() -> None:
    data = run_file()
    node = data["nodes"][0]
    node["storage"] = dict(node["cpu_memory"])
    with pytest.raises(ConfigError, match="storage: drives do not compute; expected pim or processor in cpu_memory"):
        Run(data, [REQUEST])
    del node["storage"]
    node["cpu_memory"]["processor"] = "EPYC-9654"
    with pytest.raises(ConfigError, match="processor: the memory computes itself"):
        Run(data, [REQUEST])


def test_a_host_processor_computes_attention_too() -> None:
    data = run_file()
    del data["nodes"][0]["cpu_memory"]["pim"]
    data["nodes"][0]["cpu_memory"]["processor"] = "EPYC-9654"
    ((first, finish),) = finishes(data, [RequestSpec(0, 0, 8, 2)])
    least = ENDS_NS + BLOCKS * (QKV_NS + access_ns(READ_BYTES) + access_ns(WRITTEN_BYTES) + O_NS)
    assert first == PROMPT_NS
    assert finish - first > least


def test_a_model_is_served_from_a_device_of_the_pool() -> None:
    data = run_file(operators={"attention": "cxl:1"})
    memory = data["nodes"][0].pop("cpu_memory")
    data["cxl_memory"] = memory | {"num_devices": 2}
    expected = PROMPT_NS + decode_ns(1, attention_ns(1, 9))
    assert finishes(data, [RequestSpec(0, 0, 8, 2)]) == [(PROMPT_NS, expected)]
    data["nodes"][0]["instances"][0]["operators"] = {"attention": "cxl"}
    with pytest.raises(ConfigError, match="'cxl' is several devices"):
        Run(data, [REQUEST])


def test_weights_come_from_elsewhere_at_the_same_time() -> None:
    """Weights of a block in the pool, attention in host memory: loads of both kinds take turns on the copy stream."""
    placement = {"blocks": [{"blocks": "3", "weights": "cxl"}]}
    data = run_file(placement=placement)
    data["cxl_memory"] = {"size": "64GiB", "bandwidth": "100000GB/s"}
    ((first, finish),) = finishes(data, [RequestSpec(0, 0, 8, 2)])
    assert finish - first == pytest.approx(decode_ns(1, attention_ns(1, 9)), abs=3000)


assert SMALL.num_layers == BLOCKS
