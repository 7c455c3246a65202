"""What every autoscaling policy promises."""

from collections.abc import Callable
from functools import partial
from itertools import product
from numbers import Integral
from typing import Any

import msgspec
import pytest

from llmservingsim.plugins import find_plugin
from llmservingsim.serving.routing import InstanceLoad
from llmservingsim.serving.scaling import SCALING_POLICIES, ScalingPolicy, ScalingView, ServedRequest, make_policy

MS = 1_000_000


class ByRate:
    """A user's own: so many instances as the arrival rate needs, each good for ``rate`` requests per second."""

    def __init__(self, rate: float = 10.0) -> None:
        self._rate = rate

    def desired(self, view: ScalingView) -> int:
        return max(round(view.arrival_rate / self._rate), min(1, view.num_held))


Make = Callable[[], ScalingPolicy]
OPTIONS: dict[str, dict[str, Any]] = {
    "queue": {"target": 4},
    "slo": {"ttft": "50ms", "tpot": "10ms"},
    "schedule": {"times": [{"at": "10ms", "instances": 3}, {"at": "70ms", "instances": 0}], "period": "100ms"},
}
"""Those of built-in policies that cannot do without."""

ALL: dict[str, Make] = {
    name: partial(make_policy, name, OPTIONS.get(name)) for name in (*SCALING_POLICIES, f"{__name__}:ByRate")
}
BY_CLOCK = {"schedule"}


@pytest.fixture(params=list(ALL))
def name(request: pytest.FixtureRequest) -> str:
    result: str = request.param
    return result


def view(now_ns: int = 0, *loads: tuple[int, int], **keys: Any) -> ScalingView:
    """A pool whose active instances have (waiting, running) requests."""
    active = tuple(InstanceLoad(i, "m", waiting, running, 0.1 * running) for i, (waiting, running) in enumerate(loads))
    return ScalingView(
        now_ns=now_ns, model="m", active=active, window_ns=100 * MS, min_instances=0, max_instances=8, **keys
    )


def situations() -> list[ScalingView]:
    """Time goes on while pools of all sizes meet loads of all sizes, some of which have served requests."""
    found = []
    for i, (active, starting, draining, held) in enumerate(product(range(4), range(2), range(2), (0, 1, 9))):
        loads = [((i * 7 + j * 3) % 9, (i * 3 + j * 5) % 8) for j in range(active)]
        now_ns = i * 10 * MS
        served = tuple(
            ServedRequest(now_ns - (60 + j) * MS, now_ns - (50 - 9 * (i % 4)) * MS, now_ns - j, 1 + j)
            for j in range(i % 5)
        )
        found.append(
            view(
                now_ns,
                *loads,
                num_starting=starting,
                num_draining=draining,
                num_held=held,
                num_arrived=held + i % 3,
                served=served,
            )
        )
    return found


def test_the_answer_is_a_number_of_instances(name: str) -> None:
    policy = ALL[name]()
    for seen in situations():
        wanted = policy.desired(seen)
        assert isinstance(wanted, Integral)
        assert wanted >= 0


def test_the_same_questions_get_the_same_answers(name: str) -> None:
    first, second = ALL[name](), ALL[name]()
    assert [first.desired(seen) for seen in situations()] == [second.desired(seen) for seen in situations()]


def test_a_view_is_left_as_it_was(name: str) -> None:
    policy = ALL[name]()
    seen = situations()
    before = [msgspec.json.encode(one) for one in seen]
    for one in seen:
        policy.desired(one)
    assert [msgspec.json.encode(one) for one in seen] == before


def test_an_empty_pool_starts_an_instance_for_a_held_request(name: str) -> None:
    if name not in BY_CLOCK:
        assert ALL[name]().desired(view(5 * MS, num_held=1, num_arrived=1)) == 1


def test_a_pool_with_nothing_to_do_is_given_up_in_the_end(name: str) -> None:
    policy = ALL[name]()
    active, now_ns = 4, 70 * MS
    for _ in range(8):
        active = min(active, policy.desired(view(now_ns, *[(0, 0)] * active)))
        now_ns += MS
    assert active == 0


def test_a_planned_time_lies_ahead(name: str) -> None:
    policy = ALL[name]()
    plan = getattr(policy, "next_change_ns", None)
    if plan is None:
        return
    now_ns = -1
    for _ in range(20):
        planned_ns = plan(now_ns)
        if planned_ns is None:
            return
        assert planned_ns > now_ns
        now_ns = planned_ns


ANSWERS = """
import sys
sys.path.insert(0, "tests/contracts")
from test_scaling_policy import ALL, situations
for name, make in ALL.items():
    policy = make()
    print(name, [policy.desired(seen) for seen in situations()])
"""


def test_other_processes_and_hash_seeds_get_the_same_answers(python: Callable[..., Any]) -> None:
    answers = [python("-c", ANSWERS, PYTHONHASHSEED=seed) for seed in ("1", "4242")]
    assert answers[0].code == 0, answers[0].err
    assert len(answers[0].out.splitlines()) == len(ALL)
    assert answers[0].out == answers[1].out


def test_a_policy_of_ones_own_is_found_by_its_dotted_name_and_does_what_it_says() -> None:
    assert find_plugin("autoscaling", f"{__name__}:ByRate", SCALING_POLICIES) is ByRate
    policy = make_policy(f"{__name__}:ByRate", {"rate": 20})
    assert policy.desired(view(100 * MS, (0, 1), num_arrived=6)) == 3  # 60 per second
