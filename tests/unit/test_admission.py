"""The front end: who is taken in, who is held or rejected, and what the router is asked and told."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmservingsim import Run, SimulationResult, simulate
from llmservingsim.errors import ConfigError, DeadlockError
from llmservingsim.serving.routing import FinishedRequest, InstanceView, RoutedRequest
from llmservingsim.workload import RequestSpec, Session

Clusters = Callable[..., dict[str, Any]]
LARGER = "meta-llama/Llama-3.2-3B"


def requests(count: int, prompt: int = 20, output: int = 5, **keys: Any) -> list[RequestSpec]:
    """Requests that arrive all at once."""
    return [RequestSpec(i, 0, prompt, output, **keys) for i in range(count)]


def statuses(result: SimulationResult) -> list[str]:
    return [r.status for r in result.requests]


def test_an_instance_with_a_full_queue_gets_no_more(clusters: Clusters) -> None:
    """At once: nothing runs yet, so the first two wait in the engine and the third would be one too many."""
    result = simulate(clusters(1, admission={"max_waiting_per_instance": 2}), requests(5))
    assert statuses(result) == ["finished"] * 2 + ["rejected"] * 3
    assert result.summary["requests"]["rejections"] == [
        {"reason": "max_waiting_per_instance: reached by every instance", "count": 3, "request_ids": [2, 3, 4]}
    ]


def test_the_router_chooses_among_those_below_the_limit(clusters: Clusters) -> None:
    """Three requests come while 0 runs a long one: in turn to 1, to 0, and then one waits at either."""
    late = [RequestSpec(1 + i, 20_000_000, 4, 2) for i in range(3)]
    data = clusters(2, admission={"max_waiting_per_instance": 1})
    found = simulate(data, [*requests(1, 4, 900), *late]).requests
    assert [(r.instance, r.status) for r in found[:3]] == [(0, "finished"), (1, "finished"), (0, "finished")]
    assert found[3].status == "rejected"


def test_the_queues_of_a_model_may_be_limited_together(clusters: Clusters) -> None:
    result = simulate(clusters(2, admission={"max_waiting_total": 3}), requests(5))
    assert statuses(result) == ["finished"] * 3 + ["rejected"] * 2
    assert result.requests[3].reason == "max_waiting_total is reached"


@pytest.mark.parametrize(("limit", "status"), [(0.5, "rejected"), (33 / 64, "rejected"), (0.52, "finished")])
def test_an_instance_with_a_full_cache_gets_no_more(clusters: Clusters, limit: float, status: str) -> None:
    """512 tokens of the first request hold 32 of 64 blocks, and the next block holds its answers: 33 / 64 = 0.516."""
    data, first = clusters(1, admission={"max_kv_usage": limit}), RequestSpec(0, 0, 512, 10)
    (alone,) = simulate(data, [first]).requests
    assert alone.first_token_ns is not None
    assert alone.finish_ns is not None
    middle_ns = (alone.first_token_ns + alone.finish_ns) // 2
    second = simulate(data, [first, RequestSpec(1, middle_ns, 20, 5)]).requests[1]
    assert second.status == status
    assert second.reason == ("max_kv_usage: reached by every instance" if status == "rejected" else None)


def test_held_requests_go_in_order_when_the_queue_has_fallen(clusters: Clusters) -> None:
    """One waits at a time, and the engine takes up what waits whenever a batch ends."""
    data = clusters(1, admission={"max_waiting_per_instance": 1, "policy": "queue"})
    run = Run(data, requests(12))
    result = run.execute()
    assert statuses(result) == ["finished"] * 12
    scheduled = [r.scheduled_ns for r in result.requests]
    assert scheduled == sorted(scheduled, key=lambda ns: ns or 0)
    assert len(set(scheduled)) == 12
    assert run.recorder.num_arrived == 12
    assert run.recorder.num_open == 0


def test_as_many_held_requests_go_at_once_as_the_limit_lets_in(clusters: Clusters) -> None:
    """Three prompts of 10 tokens fit into a batch beside three decodes, so the second batch takes the rest."""
    data = clusters(1, admission={"max_waiting_per_instance": 3, "policy": "queue"})
    found = simulate(data, requests(6, prompt=10)).requests
    assert list(Counter(r.scheduled_ns for r in found).values()) == [3, 3]


def test_nobody_overtakes_a_held_request_of_the_same_model(clusters: Clusters) -> None:
    """Two long prompts wait at the large instances, the third is held; the short one could go to the small instance."""
    data = unequal(clusters, admission={"max_waiting_per_instance": 1, "policy": "queue"})
    workload = [*requests(3, prompt=200), RequestSpec(3, 0, 20, 5)]
    found = simulate(data, workload).requests
    assert [r.scheduled_ns == 0 for r in found] == [True, True, False, False]


def test_held_requests_of_one_model_do_not_hold_up_another(clusters: Clusters) -> None:
    data = clusters(2, admission={"max_waiting_per_instance": 1, "policy": "queue"})
    data["nodes"][0]["instances"][1]["model"] = LARGER
    small = requests(3, model="meta-llama/Llama-3.2-1B")
    large = RequestSpec(3, 0, 20, 5, model=LARGER)
    found = simulate(data, [*small, large]).requests
    assert [r.scheduled_ns == 0 for r in found] == [True, False, False, True]


def test_a_rejected_call_lets_its_session_go_on(clusters: Clusters) -> None:
    calls = (RequestSpec(1, 0, 20, 3), RequestSpec(2, 0, 20, 3))
    data = clusters(1, admission={"max_waiting_per_instance": 1})
    found = simulate(data, [RequestSpec(0, 0, 20, 3), Session(calls, (10**9, 0))]).requests
    assert [r.status for r in found] == ["finished", "rejected", "finished"]
    assert found[2].arrival_ns == 10**9


def unequal(clusters: Clusters, **keys: Any) -> dict[str, Any]:
    """Instance 0 has 8 blocks of 16 tokens, 1 and 2 have 64."""
    data = clusters(3, **keys)
    data["nodes"][0]["instances"][0]["num_gpu_blocks"] = 9
    return data


def test_a_request_goes_only_to_those_that_can_hold_it(clusters: Clusters) -> None:
    workload = [RequestSpec(i, 0, 200 if i % 2 else 20, 5) for i in range(6)]
    assert [r.instance for r in simulate(unequal(clusters), workload).requests] == [0, 1, 2, 1, 2, 1]


def test_what_nobody_can_hold_is_rejected_and_takes_no_turn(clusters: Clusters) -> None:
    workload = [RequestSpec(i, 0, 5_000 if i in (1, 2) else 20, 5) for i in range(5)]
    found = simulate(unequal(clusters), workload).requests
    assert [r.instance for r in found if r.status == "finished"] == [0, 1, 2]
    assert found[1].reason == "its KV needs more blocks than the instance has"


def test_different_reasons_of_different_instances_are_all_told(clusters: Clusters) -> None:
    data = unequal(clusters)
    for instance in data["nodes"][0]["instances"][1:]:
        instance["max_model_len"] = 150
    (found,) = simulate(data, requests(1, prompt=200)).requests
    assert found.reason == (
        "its KV needs more blocks than the instance has; the prompt leaves no room for output within max_model_len"
    )


def test_reports_that_are_old_mislead_the_router(clusters: Clusters) -> None:
    """Three at once go to 0, 1, 0 by the router's own count. They are done within 50 ms, but it still sees (2, 1)
    waiting, so the fourth goes to 1. A tie of (2, 2) then gives the fifth to 0. After the report at 100 ms, 0 is idle.
    """
    workload = [*requests(3), *(RequestSpec(3 + i, 50_000_000, 20, 5) for i in range(2)), RequestSpec(5, 10**8, 20, 5)]
    data = clusters(2, router="least_loaded", load_update_interval="100ms")
    result = simulate(data, workload).requests
    assert max(r.finish_ns or 0 for r in result[:3]) < 50_000_000
    assert [r.instance for r in result] == [0, 1, 0, 1, 0, 0]
    fresh = simulate(clusters(2, router="least_loaded"), workload).requests
    assert [r.instance for r in fresh] == [0, 1, 0, 0, 1, 0]


def test_a_held_request_waits_for_the_next_report(clusters: Clusters) -> None:
    """The first is done within a few ms; that the queue is empty is known at 1 s, when nothing else happens."""
    admission = {"max_waiting_per_instance": 1, "policy": "queue"}
    found = simulate(clusters(1, admission=admission, load_update_interval="1s"), requests(3)).requests
    assert [r.scheduled_ns for r in found] == [0, 10**9, 2 * 10**9]


class IdleScheduler:
    """Takes requests in and never schedules any."""

    def __init__(self, config: object, kv: object) -> None:
        del config, kv
        self.running: list[Any] = []
        self._queue: list[Any] = []
        self.add = self._queue.append

    @property
    def num_waiting(self) -> int:
        return len(self._queue)

    def waiting(self) -> list[Any]:
        return self._queue

    def schedule(self, now_ns: int) -> list[Any]:
        del now_ns
        return []

    def finish(self, request: object) -> None: ...


@pytest.mark.parametrize("interval", ["0ns", "100ms"])
def test_a_run_that_is_stuck_ends_and_tells_who_is_held(clusters: Clusters, interval: str) -> None:
    data = clusters(
        1,
        admission={"max_waiting_per_instance": 1, "policy": "queue"},
        load_update_interval=interval,
        serving={"scheduler": f"{__name__}:IdleScheduler"},
    )
    with pytest.raises(DeadlockError) as caught:
        simulate(data, requests(2))
    assert "instance 0: Request(0, waiting" in str(caught.value)
    assert "router: request 1 waits for an instance below the limits" in str(caught.value)


class Listening:
    """Takes turns, and keeps what it hears."""

    heard: list[FinishedRequest]
    met: list[str]

    def __init__(self) -> None:
        type(self).heard = []
        self._turn = 0

    def started(self, instances: Sequence[InstanceView]) -> None:
        type(self).met = [f"{i.index}: {i.hardware}, {i.role}" for i in instances]

    def route(self, request: RoutedRequest, instances: Sequence[InstanceView]) -> int:
        del request
        self._turn += 1
        return self._turn % len(instances)

    def finished(self, request: FinishedRequest) -> None:
        self.heard.append(request)


def test_a_router_hears_of_instances_and_of_what_became_of_its_requests(clusters: Clusters) -> None:
    result = simulate(clusters(2, router=f"{__name__}:Listening"), requests(6, output=3))
    assert Listening.met == ["0: H100, both", "1: H100, both"]
    assert sorted(Listening.heard, key=lambda heard: heard.request_id) == [
        FinishedRequest(r.request_id, r.instance, r.first_token_ns or 0, r.finish_ns or 0, 3) for r in result.requests
    ]
    assert [r.instance for r in result.requests] == [1, 0] * 3


def test_options_that_do_not_fit_the_cluster_are_refused_before_the_run(clusters: Clusters) -> None:
    with pytest.raises(ConfigError, match="router 'weighted': weights: expected one per instance, 2, got 1"):
        Run(clusters(2, router={"policy": "weighted", "weights": [1]}), requests(1))


@pytest.mark.parametrize(
    "admission", [{"max_waiting_per_instance": 0}, {"max_kv_usage": 0}, {"policy": "drop"}, {"max_waiting": 1}]
)
def test_limits_below_which_nothing_could_ever_be_are_refused(clusters: Clusters, admission: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"admission.*{next(iter(admission))}"):
        simulate(clusters(1, admission=admission), requests(1))
