"""KV in host memory, a CXL pool and drives: times worked out by hand, and nothing lost.

A token takes 1,000 ns to compute. Llama-3.2-1B keeps 32,768 bytes per token, and host memory moves 65.536 GB/s, which
is 500 ns per token. Blocks hold 16 tokens, chunks 32. The pool has 6 usable blocks: a prompt of 96 tokens takes them
all and evicts whatever was cached.
"""

from typing import Any

import msgspec
import pytest
from tier_runs import KV_BYTES, MS, US, check_at_rest, config, request, run

from llmservingsim import Run
from llmservingsim.errors import CapacityError, ConfigError
from llmservingsim.report import RequestRecord
from llmservingsim.serving import Request
from llmservingsim.serving.kv import BlockPool
from llmservingsim.serving.kv.swap import SwapSpace
from llmservingsim.serving.kv.tiers import KvTiers, TierOptions


def evicted_then_asked_again(**options: object) -> tuple[Run, list[RequestRecord]]:
    """A prompt of 64 tokens, one that evicts it, and 5 ms later one of 80 that begins with the first."""
    return run(config(serving=options), request(0, 64, 0), request(1, 96, 1 * MS, family=1), request(2, 80, 5 * MS))


def ttft_us(record: RequestRecord) -> float:
    assert record.first_token_ns is not None
    return (record.first_token_ns - record.arrival_ns) / US


def test_what_the_device_evicted_comes_back_from_host_memory() -> None:
    """64 tokens are loaded in 32 us, 16 are computed."""
    made, (first, _, again) = evicted_then_asked_again()
    assert ttft_us(first) == 64
    assert ttft_us(again) == pytest.approx(32 + 16, abs=0.01)
    assert again.cached_tokens == 64
    assert again.scheduled_ns == pytest.approx(5 * MS + 32 * US, abs=10)
    cpu = made.result().summary["prefix_cache"]["cpu"]
    assert (cpu["hit_tokens"], cpu["reads"]["tokens"], cpu["reads"]["bytes"]) == (64, 64, 64 * KV_BYTES)
    assert cpu["reads"]["time_ms"]["mean"] == pytest.approx(0.032, rel=1e-3)
    assert cpu["writes"]["tokens"] == 64 + 96  # the last prompt completes no further chunk
    (place,) = made.result().summary["bytes_moved"]["memories"]["cpu"]["places"].values()
    assert place == {"loaded_bytes": 64 * KV_BYTES, "stored_bytes": (64 + 96) * KV_BYTES}
    assert cpu["hit_pct"] == pytest.approx(100 * 64 / (64 + 96 + 80))


def test_the_time_series_shows_what_lies_in_host_memory() -> None:
    made, _ = evicted_then_asked_again()
    last = {sample.scope: sample for sample in made.result().timeseries}
    assert last["cluster"].cpu_memory_bytes == last["node:0"].cpu_memory_bytes == (64 + 96) * KV_BYTES
    assert (last["instance:0"].cpu_memory_bytes, last["cluster"].cxl_memory_bytes) == (None, None)
    assert last["cluster"].prefix_hit_pct == 0  # of the device


def test_without_the_tier_it_is_computed_again() -> None:
    made = Run(
        config(serving={"prefix_storage": []}),
        [request(0, 64, 0), request(1, 96, 1 * MS, family=1), request(2, 80, 5 * MS)],
    )
    again = made.execute().requests[2]
    assert (ttft_us(again), again.cached_tokens, made.system.traffic) == (80, 0, None)


def test_at_least_one_token_is_computed_and_chunks_are_whole() -> None:
    """Of 64 tokens 63 may be found, so 3 blocks, so 1 chunk of 32: it is loaded in 16 us and 32 tokens are computed."""
    _, (*_, again) = run(config(), request(0, 64, 0), request(1, 96, 1 * MS, family=1), request(2, 64, 5 * MS))
    assert (ttft_us(again), again.cached_tokens) == (pytest.approx(16 + 32, abs=0.01), 32)


@pytest.mark.parametrize(("recall", "gap_us"), [("async", 16 + 1), ("blocking", 32 + 16 + 1), ("layerwise", 32)])
def test_others_wait_for_a_recall_only_if_it_blocks_the_batch(recall: str, gap_us: int) -> None:
    """While request 3 decodes, a token per us, request 2 recalls 64 tokens in 32 us and then computes 16 beside it.

    Layer by layer the 32 us begin with the batch, whose time is that of the embedding, which needs no KV.
    """
    spec = config(serving={"prefix_recall": recall, "num_gpu_blocks": 15})
    requests = [request(0, 64, 0), request(1, 224, 1 * MS, family=1)]
    requests += [request(2, 80, 5 * MS + 30 * US), request(3, 8, 5 * MS, family=2, output=100)]
    made, records = run(spec, *sorted(requests, key=lambda r: r.arrival_ns))
    again = next(r for r in records if r.request_id == 2)
    assert again.cached_tokens == 64
    gaps = sorted(made.recorder.token_gaps_ns)
    assert gaps[-1] / US == pytest.approx(gap_us, abs=0.01)


@pytest.mark.parametrize(("recall", "ttft"), [("layerwise", 2 + 16 * 3), ("blocking", 16 * 2 + 16 * 3)])
def test_a_block_waits_for_its_own_part_of_what_comes_up(recall: str, ttft: int) -> None:
    """64 tokens of each of 16 blocks are loaded in 2 us, and each block computes 3 us."""
    own = {"source": "tier_runs:PerBlock"}
    made, (*_, again) = evicted_then_asked_again(prefix_recall=recall, latency=own)
    assert ttft_us(again) == pytest.approx(ttft, abs=0.05)
    cpu = made.result().summary["prefix_cache"]["cpu"]
    assert (cpu["hit_tokens"], cpu["reads"]["tokens"], cpu["reads"]["bytes"]) == (64, 64, 64 * KV_BYTES)
    (place,) = made.result().summary["bytes_moved"]["memories"]["cpu"]["places"].values()
    assert place["loaded_bytes"] == 64 * KV_BYTES


def test_writing_back_moves_only_what_the_device_evicts_and_the_batch_waits_for_it() -> None:
    """The prompt of 96 evicts 4 blocks: 64 tokens leave in 32 us, and only then its own 96 us begin."""
    made, (_, other, again) = evicted_then_asked_again(prefix_write="back")
    assert ttft_us(other) == pytest.approx(32 + 96, abs=0.01)
    # The next one evicts 5 of the 6 blocks, in 40 us, before 64 tokens come back in 32 us and 16 are computed.
    assert ttft_us(again) == pytest.approx(40 + 32 + 16, abs=0.01)
    cpu = made.result().summary["prefix_cache"]["cpu"]
    assert (cpu["writes"]["tokens"], cpu["reads"]["tokens"]) == (64 + 80, 64)


def test_what_host_memory_has_not_comes_from_storage_and_stays_in_host_memory() -> None:
    """Host memory keeps the latest 96 tokens; 64 come from storage, at 2 us each, and the second time from memory."""
    size = f"{96 * KV_BYTES}B"
    spec = config(serving={"prefix_storage": [{"tier": "cpu", "size": size}, "storage"]})
    requests = [request(0, 64, 0), request(1, 96, 1 * MS, family=1), request(2, 80, 5 * MS)]
    requests += [request(3, 96, 6 * MS, family=2), request(4, 80, 7 * MS)]
    made, records = run(spec, *requests)
    assert ttft_us(records[2]) == pytest.approx(128 + 16, abs=0.01)
    tiers = made.result().summary["prefix_cache"]
    assert (tiers["storage"]["hit_tokens"], tiers["cpu"]["hit_tokens"]) == (128, 0)
    assert tiers["cpu"]["used_tokens"] == 96 - 32 + 32  # whole chunks


def test_a_preempted_request_that_was_swapped_computes_nothing_twice() -> None:
    """Two prompts of 32 tokens and answers of 32 do not fit 6 blocks: the second gives way once."""
    totals = {}
    for mode in ("recompute", "swap"):
        spec = config(
            serving={
                "preemption_mode": mode,
                "swap_space": "512MiB",
                "prefix_storage": [],
                "enable_prefix_caching": False,
            }
        )
        made = Run(spec, [request(0, 32, 0, output=32), request(1, 32, 0, family=1, output=32)])
        result = made.execute()
        assert result.summary["preemptions"] == 1
        totals[mode] = sum(i.engine.iterations for i in made.system.instances), result.requests[1].finish_ns
        if mode == "swap":
            check_at_rest(made)
            swap = result.summary["prefix_cache"]["swap"]
            assert swap["writes"]["tokens"] == swap["reads"]["tokens"] == 48
            assert swap["writes"]["time_ms"]["mean"] == pytest.approx(0.024, rel=1e-3)
    # The KV of 48 tokens is computed again in 48 us, or goes down and comes up in 24 us each; the way down delays the
    # other request's batch, while the way up ends beside other work.
    recomputed, swapped = (totals[mode][1] for mode in ("recompute", "swap"))
    assert recomputed is not None
    assert swapped is not None
    assert swapped - recomputed == pytest.approx((24 + 24 - 48 + 0) * US, abs=2 * US)


def test_a_swap_space_that_is_full_lets_the_request_compute_again() -> None:
    swapping = {"preemption_mode": "swap", "swap_space": f"{16 * KV_BYTES}B", "prefix_storage": []}
    made, _ = run(config(serving=swapping), request(0, 32, 0, output=32), request(1, 32, 0, family=1, output=32))
    swap = made.result().summary["prefix_cache"]["swap"]
    assert (swap["refused"], swap["writes"]["count"]) == (1, 0)


def test_instances_of_a_node_share_what_lies_in_its_memory() -> None:
    """Round robin sends the second call elsewhere; it finds the first one's chunks only if they are shared."""
    for sharing, cached in ((False, 0), (True, 64)):
        spec = config(2, serving={"prefix_sharing": sharing})
        _, records = run(spec, request(0, 64, 0), request(1, 80, 1 * MS))
        assert [r.instance for r in records] == [0, 1]
        assert (records[1].cached_tokens, ttft_us(records[1])) == (
            cached,
            pytest.approx(32 + 16 if cached else 80, abs=0.01),
        )


def test_an_instance_without_a_prefix_cache_gets_none_of_the_runs_tiers() -> None:
    spec = config(2)
    spec["nodes"][0]["instances"][1] = spec["nodes"][0]["instances"][1] | {"enable_prefix_caching": False}
    made, _ = run(spec, request(0, 64, 0), request(1, 80, 1 * MS))
    assert made.system.traffic is not None
    assert [side.instance.index for side in made.system.traffic.sides] == [0]


def test_memory_of_another_node_is_read_over_the_network_if_the_cluster_shares_it() -> None:
    """Loaded beside that memory in 32 us, then sent: two links of 500 ns and 64 us. The own memory is asked first."""
    for sharing, cached in (("node", 0), ("cluster", 64)):
        spec = config(1, 1, serving={"prefix_sharing": sharing})
        _, records = run(spec, request(0, 64, 0), request(1, 80, 1 * MS))
        expected = 32 + 1 + 64 + 16 if cached else 80
        assert (records[1].cached_tokens, ttft_us(records[1])) == (cached, pytest.approx(expected, abs=0.02))


def test_a_pool_is_shared_by_all_nodes_and_by_all_its_devices() -> None:
    """Two devices of 16.384 GB/s each, over which chunks are striped, are as fast as one of 32.768: 1 us per token."""
    pool = {"size": "1GiB", "bandwidth": "16.384GB/s", "num_devices": 2}
    spec = config(1, 1, serving={"prefix_sharing": True, "prefix_storage": "cxl"}, cxl_memory=pool)
    _, records = run(spec, request(0, 64, 0), request(1, 80, 1 * MS))
    assert (records[1].cached_tokens, ttft_us(records[1])) == (64, pytest.approx(64 + 16, abs=0.01))


def test_two_that_read_at_once_have_half_the_bandwidth_each() -> None:
    spec = config(2, serving={"prefix_sharing": True})
    _, records = run(spec, request(0, 64, 0), request(1, 32, 1, family=2), request(2, 80, MS), request(3, 80, MS))
    # The instance that computed the first prompt still has it on its device.
    assert [r.cached_tokens for r in records] == [0, 0, 64, 64]
    requests = [request(0, 64, 0), request(1, 96, MS, family=1), request(2, 96, MS, family=3)]
    requests += [request(3, 80, 5 * MS), request(4, 80, 5 * MS)]
    _, records = run(spec, *requests)
    assert [ttft_us(r) for r in records[3:]] == [pytest.approx(64 + 16, abs=0.01)] * 2


def test_tensor_parallel_ranks_load_their_heads_and_stages_their_blocks() -> None:
    for size in ({"tensor_parallel_size": 2}, {"pipeline_parallel_size": 2}):
        spec = config()
        spec["nodes"][0]["instances"][0] = spec["nodes"][0]["instances"][0] | size
        made, records = run(spec, request(0, 64, 0), request(1, 96, 1 * MS, family=1), request(2, 80, 5 * MS))
        assert records[2].cached_tokens == 64
        cpu = made.result().summary["prefix_cache"]["cpu"]
        assert cpu["reads"]["bytes"] == 64 * KV_BYTES
        assert cpu["reads"]["time_ms"]["mean"] == pytest.approx(0.032, rel=1e-3)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"prefix_storage": "cxl"}, ConfigError, "prefix_storage: 'cxl' is asked for, but the run describes no such"),
        ({"prefix_storage": ["cpu", "cpu"]}, ConfigError, "a tier is named twice"),
        ({"prefix_chunk_size": 40}, ConfigError, "prefix_chunk_size: 40 is no multiple of block_size 16"),
        ({"enable_prefix_caching": False, "prefix_storage": "cpu"}, ConfigError, "needs enable_prefix_caching"),
        ({"prefix_storage": [], "prefix_sharing": True}, ConfigError, "there is no tier to share"),
        (
            {"prefix_storage": [{"tier": "cpu", "size": "2GiB"}]},
            CapacityError,
            "2.00 GiB do not fit into cpu",
        ),
        ({"prefix_storage": [{"tier": "cpu", "size": "512KiB"}]}, CapacityError, "hold no chunk of 32 tokens"),
        ({"preemption_mode": "swap", "swap_space": "2GiB"}, CapacityError, "swap space of instance 0"),
        ({"prefix_recall": "blocking", "pipeline_parallel_size": 2}, ConfigError, "one pipeline stage"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type[Exception], said: str) -> None:
    spec = config()
    spec["nodes"][0]["instances"][0] = spec["nodes"][0]["instances"][0] | options
    if not options.get("prefix_storage", True):
        spec["serving"].pop("prefix_storage")
    with pytest.raises(error, match=said):
        Run(spec, [request(0, 1, 0)])


def test_blocks_into_which_kv_comes_up_are_kept_although_its_client_has_left() -> None:
    """64 tokens come up in 32 us, the client leaves after 10, and who needs every block waits for the 32."""
    leaves = msgspec.structs.replace(request(2, 80, 5 * MS), abort_after_ns=10 * US)
    _, records = run(
        config(),
        *(request(0, 64, 0), request(1, 96, 1 * MS, family=1), leaves),
        request(3, 96, 5 * MS + 15 * US, family=2),
    )
    assert [r.status for r in records] == ["finished", "finished", "aborted", "finished"]
    assert (records[2].scheduled_ns, records[2].output_tokens) == (None, 0)
    assert records[3].scheduled_ns == pytest.approx(5 * MS + 32 * US, abs=10)


def test_one_that_is_preempted_again_before_its_kv_came_back_is_kept_again() -> None:
    """Room for 100 tokens: 40 that still lie there while they come up, and 48 of the second time."""
    pool = BlockPool(11)
    space = SwapSpace(100)
    tiers = KvTiers(pool, 16, [], [], TierOptions(16, swap=space), lambda tokens, context: 0.0)
    preempted = Request(0, 0, 40, 0, ())
    preempted.num_tokens, preempted.num_computed_tokens, preempted.num_preemptions = 50, 40, 1
    tiers.swap_out(preempted)
    hit = tiers.lookup(preempted, 0)
    assert hit is not None
    tiers.begin_read(preempted, hit)
    preempted.num_computed_tokens = 48
    tiers.swap_out(preempted)
    assert (space.used_tokens, space.refused) == (88, 0)
    tiers.read_ended(tiers.reads[0])
    assert space.used_tokens == 48
    again = tiers.lookup(preempted, 1)
    assert again is not None
    assert again.num_tokens == 48 - 16
    tiers.forget(preempted)
    assert space.used_tokens == 0


def test_what_was_swapped_out_for_a_client_that_left_is_forgotten() -> None:
    """6 blocks, two prompts of 46: for a 49th token each needs a fourth block, so 1 is swapped out, and is given up."""
    options = {"prefix_storage": [], "preemption_mode": "swap", "swap_space": "64MiB"}
    second = msgspec.structs.replace(request(1, 46, 0, family=1, output=40), abort_after_ns=120 * US)
    made, records = run(config(serving=options), request(0, 46, 0, output=40), second)
    assert [(r.status, r.preemptions) for r in records] == [("finished", 0), ("aborted", 1)]
    assert made.system.traffic is not None
    (side,) = made.system.traffic.sides
    assert made.system.traffic.accesses(0)["swap", "write"].tokens > 0
    assert side.tiers.swap is not None
    assert side.tiers.swap.used_tokens == 0
