"""What every router promises, and what each of the built-in ones does."""

from collections.abc import Callable, Sequence

import pytest

from llmservingsim.plugins import find_plugin
from llmservingsim.serving import ROUTERS, InstanceLoad, RoutedRequest, Router
from llmservingsim.serving.router import LeastLoadedRouter, RoundRobinRouter
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
ALL: dict[str, Make] = {**ROUTERS, "sticky": StickyRouter}


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


def test_round_robin_gives_every_instance_its_turn_whatever_the_load() -> None:
    router = RoundRobinRouter()
    instances = loads((9, 9), (0, 0), (5, 5))
    assert [router.route(request(i), instances) for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_counts_for_each_model_apart() -> None:
    """Two models asked for in turns would otherwise each get one of their two instances only."""
    router = RoundRobinRouter()
    one, other = loads((0, 0), (0, 0), model="a"), loads((0, 0), (0, 0), first=2, model="b")
    chosen = [router.route(request(i), one if i % 2 == 0 else other) for i in range(8)]
    assert chosen[0::2] == [0, 1, 0, 1]
    assert chosen[1::2] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([(0, 4), (1, 0)], 0),  # a tie, as one that waits weighs four that run
        ([(0, 5), (1, 0)], 1),
        ([(1, 0), (0, 3)], 1),
        ([(0, 2), (0, 1), (0, 1)], 1),
        ([(0, 0), (0, 0)], 0),
    ],
)
def test_least_loaded_weighs_waiting_four_times_and_gives_ties_to_the_first(
    states: list[tuple[int, int]], expected: int
) -> None:
    assert LeastLoadedRouter().route(request(0), loads(*states)) == expected


def test_a_router_of_ones_own_is_found_by_its_dotted_name_and_does_what_it_says() -> None:
    router = find_plugin("router", f"{__name__}:StickyRouter", ROUTERS)()
    assert router.route(request(0, session_id="s"), loads((0, 5), (0, 1))) == 1
    assert router.route(request(1, session_id="s"), loads((0, 0), (0, 9))) == 1
    assert router.route(request(2), loads((0, 0), (0, 9))) == 0
