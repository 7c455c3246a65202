"""Whatever a policy asks for: nobody is lost, who does not run computes nothing, and every run ends."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmservingsim import Run
from llmservingsim.instance import Execution, Instance
from llmservingsim.serving.scaling import ScalingView
from llmservingsim.workload import RequestSpec, Session

MS = 1_000_000
MODEL = "meta-llama/Llama-3.2-1B"


class Whims:
    """Any answers in turn, but at least one instance while somebody is held."""

    def __init__(self, answers: list[int]) -> None:
        self._answers = cycle(answers)

    def desired(self, view: ScalingView) -> int:
        assert view.min_instances <= view.num_up <= view.max_instances
        assert view.num_draining >= 0
        assert all(r.arrival_ns <= r.first_token_ns <= r.finish_ns <= view.now_ns for r in view.served)
        return max(next(self._answers), min(1, view.num_held))


class Watch:
    """Sees that only instances that run get batches."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self.batches = 0
        self._instances = instances

    def submitted(self, execution: Execution, now_ns: int) -> None:
        self.batches += 1
        self.ended(execution, now_ns)

    def ended(self, execution: Execution, now_ns: int) -> None:
        del now_ns
        for index in execution.instances:
            assert self._instances[index].phase in ("active", "draining"), self._instances[index].phase


policies = st.one_of(
    st.builds(
        lambda answers: {"policy": f"{__name__}:Whims", "options": {"answers": answers}},
        st.lists(st.integers(0, 6), min_size=1, max_size=6),
    ),
    st.builds(lambda target: {"policy": "queue", "options": {"target": target}}, st.floats(0.5, 6)),
    st.builds(lambda target: {"policy": "kv_usage", "options": {"target": target}}, st.floats(0.05, 1)),
    st.builds(lambda ms: {"policy": "slo", "options": {"ttft": f"{ms}ms"}}, st.integers(1, 60)),
)
times = st.sampled_from(["0ns", "1ms", "7ms", "30ms", "200ms"])
sections = st.builds(
    lambda policy, least, more, **keys: (
        policy | {"min_instances": least, "max_instances": least + more or 1, "window": "50ms"} | keys
    ),
    policies,
    least=st.integers(0, 2),
    more=st.integers(0, 1),
    interval=st.sampled_from(["1ms", "5ms", "40ms"]),
    start_up_delay=times,
    scale_down_delay=times,
)
requests = st.lists(st.tuples(st.integers(1, 90), st.integers(1, 30), st.integers(0, 300)), min_size=1, max_size=25)


def serve(data: dict[str, Any], workload: list[Any], count: int) -> Run:
    """Run it and see that everybody is served once, in order of time, and every block comes back."""
    run = Run(data, workload)
    watch = Watch(run.system.instances)
    for one in run.system.instances:
        one.listener = watch
    run.execute()
    records = run.recorder.records
    assert sorted(r.request_id for r in records) == list(range(count))
    assert {r.status for r in records} == {"finished"}
    assert watch.batches
    for record in records:
        assert record.arrival_ns <= (record.scheduled_ns or 0) <= (record.first_token_ns or 0)
    for one in run.system.instances:
        assert one.engine.is_idle
    return run


def check_pools(run: Run) -> None:
    """Between min and max all the time, by what is recorded; phases follow each other as they may."""
    assert run.system.autoscaler is not None
    follows = {"stopped": "starting", "starting": "active", "active": "draining", "draining": "stopped"}
    for pool in run.system.autoscaler.pools:
        phase = {i.index: "stopped" for i in pool.instances}
        last_ns = 0
        for time_ns, index, after in pool.changes:
            if time_ns > last_ns:
                up = sum(p in ("active", "starting") for p in phase.values())
                assert pool.limits.min_instances <= up <= pool.limits.max_instances
            if time_ns:
                before = phase[index]
                assert after == follows[before] or (before, after) == ("starting", "stopped")
            phase[index], last_ns = after, time_ns
    summary = run.result().summary["autoscaling"]
    for told in summary["pools"]:
        assert 0 <= told["mean_active"] <= told["max_active"] <= told["instances"]


def listed(roles: list[str], section: Any, **keys: Any) -> dict[str, Any]:
    instances = [{"model": MODEL, "hardware": "H100", "kv_role": role, "num_gpu_blocks": 14} for role in roles]
    network = {"topology": "Switch", "bandwidth": "5GB/s", "latency": "500ns", "model": "flow"}
    serving = {"latency": {"source": "constant_latency:Constant"}, "enforce_eager": True, "max_num_seqs": 3}
    return {
        "nodes": [{"instances": instances}],
        "serving": serving,
        "network": network,
        "autoscaling": section,
        **keys,
    }


@given(
    drawn=requests,
    section=sections,
    admission=st.sampled_from([None, {"max_waiting_per_instance": 1, "policy": "queue"}]),
    router=st.sampled_from(["round_robin", "least_loaded", "session_affinity", "expected_time"]),
    reports=st.sampled_from(["0ns", "20ms"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_everybody_is_served_and_only_by_instances_that_run(
    drawn: list[tuple[int, int, int]], section: dict[str, Any], admission: Any, router: str, reports: str
) -> None:
    data = listed(
        ["kv_both"] * 3, section, admission=admission, router=router, load_update_interval=reports, decode_router=router
    )
    workload = [RequestSpec(i, at * MS, prompt, output) for i, (prompt, output, at) in enumerate(drawn)]
    check_pools(serve(data, workload, len(drawn)))


@given(drawn=requests, section=sections, gap_ms=st.integers(0, 200))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_session_outlives_the_instances_that_serve_it(
    drawn: list[tuple[int, int, int]], section: dict[str, Any], gap_ms: int
) -> None:
    calls = tuple(RequestSpec(i, 0, prompt, output) for i, (prompt, output, _) in enumerate(drawn))
    session = Session(calls, (gap_ms * MS,) * len(calls))
    check_pools(serve(listed(["kv_both"] * 3, section), [session], len(drawn)))


@given(drawn=requests, prefill=sections, decode=sections)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_prefill_and_decode_pools_lose_nobody_on_the_way(
    drawn: list[tuple[int, int, int]], prefill: dict[str, Any], decode: dict[str, Any]
) -> None:
    both = [prefill | {"role": "kv_producer"}, decode | {"role": "kv_consumer"}]
    data = listed(["kv_producer"] * 3 + ["kv_consumer"] * 3, both)
    workload = [RequestSpec(i, at * MS, prompt, output) for i, (prompt, output, at) in enumerate(drawn)]
    run = serve(data, workload, len(drawn))
    check_pools(run)
    assert run.system.transfers is not None
    assert run.system.transfers.num_held(MODEL) == 0
