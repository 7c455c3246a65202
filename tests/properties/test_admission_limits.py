"""Whatever arrives under whatever limits: everybody is finished or rejected, and no limit is crossed."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim import simulate
from llmservingsim.serving.scheduler import VllmScheduler
from llmservingsim.workload import RequestSpec

MODEL = "meta-llama/Llama-3.2-1B"
LIMIT = st.none() | st.integers(1, 4)
ROUTERS = ["round_robin", "random", "least_loaded", "least_kv", "power_of_two", "prefix_aware", "expected_time"]


class WatchedScheduler(VllmScheduler):
    """vLLM's, which remembers its longest queue."""

    longest: int = 0

    def schedule(self, now_ns: int) -> Any:
        WatchedScheduler.longest = max(WatchedScheduler.longest, self.num_waiting)
        return super().schedule(now_ns)


def config(sizes: list[int], **keys: Any) -> dict[str, Any]:
    common = {"model": MODEL, "hardware": "H100", "max_num_seqs": 2, "max_num_batched_tokens": 64}
    instances = [{**common, "num_gpu_blocks": size} for size in sizes]
    return {
        "nodes": [{"instances": instances}],
        "serving": {"scheduler": f"{__name__}:WatchedScheduler"},
        **keys,
    }


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(3, 12), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 20_000_000), st.integers(1, 220), st.integers(1, 12)), max_size=14),
    st.fixed_dictionaries(
        {
            "max_waiting_per_instance": LIMIT,
            "max_waiting_total": LIMIT,
            "max_kv_usage": st.none() | st.floats(0.1, 1),
            "policy": st.sampled_from(["queue", "reject"]),
        }
    ),
    st.sampled_from(ROUTERS),
    st.sampled_from(["0ns", "3ms", "100ms"]),
)
def test_everybody_is_finished_or_rejected_within_the_limits(
    sizes: list[int], asked: list[tuple[int, int, int]], limits: dict[str, Any], router: str, interval: str
) -> None:
    """Only a fresh view keeps queues within the limit; preempted requests come back on top of it."""
    WatchedScheduler.longest = 0
    specs = [RequestSpec(i, *request, tuple(range(sum(request[1:])))) for i, request in enumerate(asked)]
    if not specs:
        return
    result = simulate(config(sizes, router=router, admission=limits, load_update_interval=interval), specs)
    counts = result.summary["requests"]
    assert counts["finished"] + counts["rejected"] == counts["arrived"] == len(specs)
    assert counts["held"] == 0
    reasons = {r.reason or "" for r in result.requests if r.status == "rejected"}
    if limits["policy"] == "queue":
        assert reasons <= {"its KV needs more blocks than the instance has"}
    fits = [max(sizes) - 1 >= -(-(prompt + output - 1) // 16) for _, prompt, output in asked]
    assert all(r.status == "rejected" for r, fit in zip(result.requests, fits, strict=True) if not fit)
    most = min((v for k in ("max_waiting_per_instance", "max_waiting_total") if (v := limits[k])), default=None)
    if interval == "0ns" and most is not None and result.summary["preemptions"] == 0:
        assert WatchedScheduler.longest <= most
