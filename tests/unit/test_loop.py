"""The loop: who is served where, in which order things happen, and when it ends."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from llmservingsim import Run, simulate
from llmservingsim.errors import ConfigError, PluginError
from llmservingsim.serving import InstanceLoad, RoutedRequest
from llmservingsim.workload import RequestSpec, Session

Clusters = Callable[..., dict[str, Any]]
SMALL = "meta-llama/Llama-3.2-1B"
LARGER = "meta-llama/Llama-3.2-3B"


def requests(count: int, gap_ns: int = 0, **keys: Any) -> list[RequestSpec]:
    return [RequestSpec(i, i * gap_ns, 20, 5, **keys) for i in range(count)]


def served_by(data: dict[str, Any], workload: Sequence[RequestSpec]) -> list[int]:
    return [r.instance for r in simulate(data, workload).requests]


def test_round_robin_takes_turns(clusters: Clusters) -> None:
    assert served_by(clusters(3, router="round_robin"), requests(7)) == [0, 1, 2, 0, 1, 2, 0]


def test_least_loaded_fills_the_emptier_instance(clusters: Clusters) -> None:
    """All at once: waiting requests count, so they alternate. One by one after each other: the first is free again."""
    data = clusters(2, router="least_loaded")
    assert served_by(data, requests(6)) == [0, 1, 0, 1, 0, 1]
    assert served_by(data, requests(4, gap_ns=10**9)) == [0, 0, 0, 0]


def test_least_loaded_avoids_the_instance_that_still_runs(clusters: Clusters) -> None:
    long = RequestSpec(0, 0, 20, 500)
    short = [RequestSpec(i, i * 20_000_000, 20, 2) for i in range(1, 5)]
    assert served_by(clusters(2, router="least_loaded"), [long, *short]) == [0, 1, 1, 1, 1]
    assert served_by(clusters(2, router="round_robin"), [long, *short]) == [0, 1, 0, 1, 0]


def test_a_request_goes_to_an_instance_of_its_model(clusters: Clusters) -> None:
    data = clusters(3)
    data["nodes"][0]["instances"][1]["model"] = LARGER
    models = [LARGER, SMALL, SMALL, LARGER, SMALL]
    workload = [RequestSpec(i, 0, 20, 5, model=model) for i, model in enumerate(models)]
    found = simulate(data, workload).requests
    assert [r.instance for r in found] == [1, 0, 2, 1, 0]
    assert [r.model for r in found] == models


def test_a_model_that_nobody_serves_is_an_error_with_the_nearest(cluster: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        simulate(cluster, requests(1, model="meta-llama/Llama-3.2-1"))
    assert str(caught.value) == (
        "request 0 asks for the model 'meta-llama/Llama-3.2-1' (did you mean 'meta-llama/Llama-3.2-1B'?); "
        "the instances serve meta-llama/Llama-3.2-1B"
    )


class LastRouter:
    """A user's own: always the last instance. It sees loads, and requests without their output length."""

    seen: list[RoutedRequest]

    def route(self, request: RoutedRequest, instances: Sequence[InstanceLoad]) -> int:
        assert [i.index for i in instances] == list(range(len(instances)))
        assert not hasattr(request, "output_tokens")
        return len(instances) - 1


def test_a_router_of_ones_own_decides(clusters: Clusters) -> None:
    assert served_by(clusters(3, router=f"{__name__}:LastRouter"), requests(4)) == [2, 2, 2, 2]


def test_instances_do_not_slow_each_other_down(clusters: Clusters) -> None:
    """Each has devices of its own: two instances with a request each finish when one alone does."""
    (alone,) = simulate(clusters(1), requests(1)).requests
    both = simulate(clusters(2), requests(2)).requests
    assert [r.finish_ns for r in both] == [alone.finish_ns] * 2


def test_completions_come_before_arrivals_and_arrivals_before_scheduling(cluster: dict[str, Any]) -> None:
    """A request that arrives the very moment the engine falls idle is scheduled at that moment."""
    (first,) = simulate(cluster, requests(1)).requests
    assert first.finish_ns is not None
    _, second = simulate(cluster, [RequestSpec(0, 0, 20, 5), RequestSpec(1, first.finish_ns, 20, 5)]).requests
    assert second.scheduled_ns == first.finish_ns


def test_a_rejected_call_lets_its_session_go_on(cluster: dict[str, Any]) -> None:
    calls = (RequestSpec(0, 7, 9_999, 3), RequestSpec(1, 7, 20, 3))
    first, second = simulate(cluster, [Session(calls, (1_000, 0))]).requests
    assert (first.status, second.status) == ("rejected", "finished")
    assert second.arrival_ns == 1_007


def test_a_late_first_request_starts_late(cluster: dict[str, Any]) -> None:
    (request,) = simulate(cluster, [RequestSpec(0, 5 * 10**9, 20, 1)]).requests
    assert request.scheduled_ns == 5 * 10**9


def test_nothing_is_left_when_the_loop_ends(clusters: Clusters) -> None:
    run = Run(clusters(2), requests(50, gap_ns=100_000))
    run.execute()
    for instance in run.system.instances:
        assert not instance.engine.holds_requests
        assert instance.engine.kv.pool.num_held == 0
    assert run.recorder.num_open == 0


class WrongRouter:
    """Chooses an instance that is none."""

    position: object = 7

    def route(self, request: RoutedRequest, instances: Sequence[InstanceLoad]) -> object:
        del request, instances
        return self.position


class NegativeRouter(WrongRouter):
    position = -1


class SilentRouter(WrongRouter):
    position = None


@pytest.mark.parametrize("router", [WrongRouter, NegativeRouter, SilentRouter])
def test_a_router_that_chooses_no_instance_is_an_error(clusters: Clusters, router: type[WrongRouter]) -> None:
    expected = f"'{router.__name__}' chose {router.position!r} for request 0; expected a position from 0 to 1"
    with pytest.raises(PluginError, match=expected):
        simulate(clusters(2, router=f"{__name__}:{router.__name__}"), requests(1))
