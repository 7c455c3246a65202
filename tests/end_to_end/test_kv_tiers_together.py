"""KV tiers under random loads and options: nothing is lost, and everything comes to rest."""

from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tier_runs import KV_BYTES, MS, US, check_at_rest, config, request

from llmservingsim import Run
from llmservingsim.workload import RequestSpec

PUSHES = ("push", "push_layerwise")


@st.composite
def runs(draw: st.DrawFn) -> tuple[dict[str, Any], list[RequestSpec]]:
    """Tiny pools and tiers, prompts that share beginnings, every option."""
    tiers = draw(st.lists(st.sampled_from(["cpu", "cxl", "storage"]), max_size=3, unique=True))
    eviction = st.sampled_from(["lru", "lfu", "fifo", "cost_aware"])
    sized = [
        {"tier": t, "size": f"{draw(st.integers(2, 12)) * 32 * KV_BYTES}B", "eviction": draw(eviction)} for t in tiers
    ]
    serving = {
        "prefix_storage": sized,
        "prefix_chunk_size": draw(st.sampled_from([16, 32])),
        "prefix_write": draw(st.sampled_from(["through", "back"])),
        "prefix_recall": draw(st.sampled_from(["async", "blocking", "layerwise"])),
        "prefix_sharing": draw(st.sampled_from([False, True, "cluster"])) if tiers else False,
        "preemption_mode": draw(st.sampled_from(["recompute", "swap"])),
        "swap_space": f"{draw(st.integers(1, 100)) * KV_BYTES}B",
        "async_scheduling": draw(st.booleans()),
        "num_gpu_blocks": draw(st.integers(9, 16)),
        "max_num_seqs": draw(st.integers(1, 6)),
        "max_num_batched_tokens": draw(st.sampled_from([24, 64, 2048])),
    }
    sizes = draw(st.sampled_from([(1,), (2,), (1, 1)]))
    spec = config(*sizes, serving=serving)
    if sum(sizes) > 1 and draw(st.booleans()):  # one computes prompts, the other answers
        roles = iter(["kv_producer", "kv_consumer"])
        for node in spec["nodes"]:
            node["instances"] = [instance | {"kv_role": next(roles)} for instance in node["instances"]]
        spec["kv_transfer"] = draw(st.sampled_from([{"load_kv_async": False}, {}, *({"mode": m} for m in PUSHES)]))
        spec["kv_transfer"] |= {"first_token": draw(st.sampled_from(["prefill", "decode"]))}
    spec["cxl_memory"] = {"size": "64MiB", "bandwidth": "20GB/s", "latency": "250ns", "num_devices": 2}
    requests = []
    now_ns = 0
    for number in range(draw(st.integers(1, 14))):
        now_ns += draw(st.sampled_from([0, 1, 20 * US, 200 * US]))
        prompt, output = draw(st.integers(1, 80)), draw(st.integers(1, 40))
        asked = request(number, prompt, now_ns, family=draw(st.integers(0, 2)), output=output)
        patience_ns = draw(st.none() | st.sampled_from([1, 30 * US, 100 * US, 300 * US, MS, 3 * MS]))
        requests.append(msgspec.structs.replace(asked, abort_after_ns=patience_ns))
    return spec, requests


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(runs())
def test_whatever_moves_nothing_is_lost_and_everything_comes_to_rest(
    case: tuple[dict[str, Any], Sequence[Any]],
) -> None:
    spec, requests = case
    made = Run(spec, list(requests))
    result = made.execute()
    for record, asked in zip(result.requests, requests, strict=True):
        is_aborted = record.status == "aborted"
        assert record.status == "finished" or (is_aborted and asked.abort_after_ns is not None)
        assert (record.output_tokens < asked.output_tokens) == is_aborted
        times = [record.arrival_ns, record.scheduled_ns, record.first_token_ns, record.finish_ns]
        known = [t for t in times if t is not None]
        assert known == sorted(known)
        assert is_aborted or None not in times
        assert record.cached_tokens < record.prompt_tokens
    if made.system.traffic is not None:
        check_at_rest(made)
    for instance in made.system.instances:
        instance.engine.kv.pool.check([])
