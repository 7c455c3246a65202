"""What every router promises."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from llmservingsim.plugins import find_plugin
from llmservingsim.serving import ROUTERS, InstanceLoad, RoutedRequest, Router
from llmservingsim.serving.routing import FinishedRequest, make_router
from llmservingsim.workload.request import RequestSpec


class StickyRouter:
    """A user's own: a session stays where its cache is, all else goes where memory is free."""

    def __init__(self) -> None:
        self._homes: dict[str, int] = {}

    def route(self, request: RoutedRequest, instances: Sequence[InstanceLoad]) -> int:
        emptiest = min(range(len(instances)), key=lambda i: instances[i].kv_usage)
        if request.session_id is None:
            return emptiest
        return self._homes.setdefault(request.session_id, emptiest) % len(instances)


Make = Callable[[], Router]
OPTIONS: dict[str, dict[str, Any]] = {"weighted": {"weights": [1, 2, 3, 4] * 4}}
"""Those of built-in routers that cannot do without."""

ALL: dict[str, Make] = {
    name: partial(make_router, {"policy": name, **OPTIONS.get(name, {})}, 7)
    for name in (*ROUTERS, f"{__name__}:StickyRouter")
}


@pytest.fixture(params=list(ALL.values()), ids=list(ALL))
def make(request: pytest.FixtureRequest) -> Make:
    result: Make = request.param
    return result


def loads(*waiting_running: tuple[int, int], first: int = 0, model: str = "m") -> list[InstanceLoad]:
    """Instances numbered from ``first``, with (waiting, running)."""
    return [InstanceLoad(first + i, model, w, r, 0.1 * r) for i, (w, r) in enumerate(waiting_running)]


def request(request_id: int, output_tokens: int = 5, session_id: str | None = None) -> RoutedRequest:
    ids = tuple(range(3 + output_tokens))
    return RoutedRequest.of(RequestSpec(request_id, request_id, 3, output_tokens, ids, session_id))


def situations() -> list[tuple[RoutedRequest, list[InstanceLoad]]]:
    """Forty requests, some in sessions, to one to four instances of changing load, some of which do not start at 0."""
    found = []
    for i in range(40):
        states = [((i * 7 + j * 3) % 5, (i * 3 + j * 5) % 8) for j in range(1 + i % 4)]
        session = f"s{i % 3}" if i % 2 else None
        found.append((request(i, session_id=session), loads(*states, first=10 * (i % 2))))
    return found


def test_the_answer_is_a_position_in_the_sequence_that_was_given(make: Make) -> None:
    router = make()
    for asked, instances in situations():
        chosen = router.route(asked, instances)
        assert isinstance(chosen, int)
        assert 0 <= chosen < len(instances)


def test_one_instance_gets_everything(make: Make) -> None:
    router = make()
    assert {router.route(request(i), loads((i, i), first=3)) for i in range(5)} == {0}


def test_the_same_questions_get_the_same_answers(make: Make) -> None:
    first, second = make(), make()
    assert [first.route(*s) for s in situations()] == [second.route(*s) for s in situations()]


def test_the_output_length_makes_no_difference(make: Make) -> None:
    short, long = make(), make()
    assert request(0, output_tokens=1) == request(0, output_tokens=500)
    for i, (_, instances) in enumerate(situations()):
        assert short.route(request(i, 1), instances) == long.route(request(i, 500), instances)


def test_a_sequence_of_any_kind_will_do(make: Make) -> None:
    instances = tuple(loads((1, 0), (0, 0)))
    assert make().route(request(0), instances) in (0, 1)


def test_a_router_that_learns_hears_of_endings_in_any_order(make: Make) -> None:
    router = make()
    asked = [(r, i) for r, i in situations() if len(i) == 4]
    served = [(r, i[router.route(r, i)].index) for r, i in asked]
    for at, (routed, index) in enumerate(reversed(served)):
        if hasattr(router, "finished"):
            router.finished(FinishedRequest(routed.request_id, index, 100 + at, 200 + at, 5))
    assert all(0 <= router.route(r, i) < 4 for r, i in asked)


CHOICES = """
import sys
sys.path.insert(0, "tests/contracts")
from test_router import ALL, situations
for name, make in ALL.items():
    if "StickyRouter" not in name:
        router = make()
        print(name, [router.route(*s) for s in situations()])
"""


def test_other_processes_and_hash_seeds_get_the_same_answers(python: Callable[..., Any]) -> None:
    answers = [python("-c", CHOICES, PYTHONHASHSEED=seed) for seed in ("1", "4242")]
    assert answers[0].code == 0, answers[0].err
    assert len(answers[0].out.splitlines()) == len(ROUTERS)
    assert answers[0].out == answers[1].out


def test_a_router_of_ones_own_is_found_by_its_dotted_name_and_does_what_it_says() -> None:
    router = find_plugin("router", f"{__name__}:StickyRouter", ROUTERS)()
    assert router.route(request(0, session_id="s"), loads((0, 5), (0, 1))) == 1
    assert router.route(request(1, session_id="s"), loads((0, 0), (0, 9))) == 1
    assert router.route(request(2), loads((0, 0), (0, 9))) == 0
