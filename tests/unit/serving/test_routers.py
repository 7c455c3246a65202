"""What each built-in router does, in situations solved by hand, and how one is made of its options."""

from collections import Counter
from typing import Any

import pytest

from llmservingsim.errors import ConfigError, PluginError
from llmservingsim.serving.routing import FinishedRequest, InstanceLoad, RoutedRequest, make_router


def loads(*waiting_running: tuple[int, int], first: int = 0, model: str = "m") -> list[InstanceLoad]:
    """Instances numbered from ``first``, with (waiting, running)."""
    return [InstanceLoad(first + i, model, w, r, 0.1 * r) for i, (w, r) in enumerate(waiting_running)]


def idle(count: int) -> list[InstanceLoad]:
    return loads(*[(0, 0)] * count)


def request(
    request_id: int = 0, prompt: int = 4, ids: tuple[int, ...] | None = None, session: str | None = None
) -> RoutedRequest:
    return RoutedRequest(request_id, 0, prompt if ids is None else len(ids), ids, session, 0)


def make(policy: str, **options: Any) -> Any:
    return make_router({"policy": policy, **options}, seed=5)


def test_round_robin_gives_every_instance_its_turn_whatever_the_load() -> None:
    router, instances = make("round_robin"), loads((9, 9), (0, 0), (5, 5))
    assert [router.route(request(), instances) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_round_robin_counts_for_each_model_apart() -> None:
    """Two models asked for in turns would otherwise each get one of their two instances only."""
    router = make("round_robin")
    one, other = loads((0, 0), (0, 0), model="a"), loads((0, 0), (0, 0), first=2, model="b")
    chosen = [router.route(request(), one if i % 2 == 0 else other) for i in range(8)]
    assert chosen[0::2] == [0, 1, 0, 1]
    assert chosen[1::2] == [0, 1, 0, 1]


def test_round_robin_passes_over_who_cannot_and_goes_on_behind_who_was_chosen() -> None:
    """Instance 1 is missing at its turn: 2 serves, then 0; back again, it comes after 0."""
    router, instances = make("round_robin"), idle(3)
    assert router.route(request(), instances) == 0
    assert instances[0::2][router.route(request(), instances[0::2])].index == 2
    assert [router.route(request(), instances) for _ in range(3)] == [0, 1, 2]


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
    assert make("least_loaded").route(request(), loads(*states)) == expected


def test_least_kv_looks_at_the_cache_then_at_the_queue() -> None:
    def chosen(*states: tuple[float, int]) -> int:
        instances = [InstanceLoad(i, "m", waiting, 0, usage) for i, (usage, waiting) in enumerate(states)]
        position: int = make("least_kv").route(request(), instances)
        return position

    assert chosen((0.5, 0), (0.2, 9), (0.3, 0)) == 1
    assert chosen((0.2, 3), (0.2, 2), (0.2, 2)) == 1


def test_random_gives_each_its_share_by_the_seed_of_the_run_or_its_own() -> None:
    """4000 draws of 1 in 4: a share is within five standard deviations, 5 * sqrt(4000 * 3 / 16) = 137."""
    router = make("random")
    drawn = [router.route(request(), idle(4)) for _ in range(4000)]
    assert all(abs(count - 1000) < 137 for count in Counter(drawn).values())
    own, of_run = make("random", seed=5), make_router("random", seed=6)
    assert [own.route(request(), idle(4)) for _ in range(4000)] == drawn
    assert [of_run.route(request(), idle(4)) for _ in range(4000)] != drawn


def test_power_of_two_never_takes_the_worst_and_favours_the_best() -> None:
    """Of 4 instances, pairs of 2: the best is in 3 of 6 pairs, the next wins 2, then 1, the worst none.

    6000 draws: five standard deviations of a share of 1/2 are 5 * sqrt(6000 / 4) = 194.
    """
    router, instances = make("power_of_two"), loads((3, 0), (0, 0), (2, 0), (1, 0))
    won = Counter(router.route(request(), instances) for _ in range(6000))
    for position, expected in {0: 0, 1: 3000, 2: 1000, 3: 2000}.items():
        assert abs(won[position] - expected) < 194 * (expected > 0) + 1


ABCD = tuple(range(100, 164))
"""Four blocks of 16 tokens: A, B, C, D."""


def test_prefix_aware_takes_the_longest_match_against_the_shorter_queue() -> None:
    router = make("prefix_aware")
    assert router.route(request(ids=ABCD[:32]), loads((1, 0), (0, 0))) == 1
    assert router.route(request(ids=ABCD[:16]), loads((0, 0), (1, 0))) == 1
    # AB is at 1 alone: AB and 20 tokens more match 32 of 52, which is more than half
    assert router.route(request(ids=ABCD[:32] + (1,) * 20), loads((0, 0), (9, 9))) == 1
    # of AB and 32 more, exactly half matches, and that is not more than the threshold: the shorter queue
    assert router.route(request(ids=ABCD[:32] + (2,) * 32), loads((0, 0), (9, 9))) == 0


def test_prefix_aware_gives_way_to_balance_beyond_both_thresholds() -> None:
    router = make("prefix_aware", balance_abs_threshold=3, balance_rel_threshold=2)
    asked = request(ids=ABCD)
    assert router.route(asked, loads((0, 0), (0, 0))) == 0
    assert router.route(asked, loads((1, 2), (0, 0))) == 0  # 3 more are allowed
    assert router.route(asked, loads((4, 4), (4, 0))) == 0  # 4 more, but only twice as many
    assert router.route(asked, loads((2, 2), (0, 0))) == 1


def test_prefix_aware_spreads_what_it_does_not_know_by_queue_then_by_what_is_remembered() -> None:
    router = make("prefix_aware")
    assert router.route(request(ids=(1,) * 32), loads((0, 0), (0, 0))) == 0
    assert router.route(request(ids=(2,) * 32), loads((0, 0), (0, 0))) == 1  # 0 remembers two blocks
    assert router.route(request(ids=(3,) * 32), loads((0, 0), (0, 1))) == 0
    assert router.route(request(prompt=32), loads((0, 2), (0, 1))) == 1  # without token ids: the queue alone


def test_session_affinity_stays_at_home_whatever_the_load() -> None:
    router = make("session_affinity")
    assert router.route(request(session="s"), loads((1, 0), (0, 0))) == 1
    assert router.route(request(session="s"), loads((0, 0), (9, 9))) == 1
    assert router.route(request(), loads((0, 0), (9, 9))) == 0


def test_session_affinity_moves_house_when_home_cannot_take_a_call() -> None:
    router, instances = make("session_affinity"), idle(3)
    assert router.route(request(session="s"), instances) == 0
    assert router.route(request(session="s"), instances[1:]) == 0  # instance 1, the first of those left
    assert router.route(request(session="s"), instances) == 1


def test_session_affinity_forgets_the_session_with_the_oldest_call() -> None:
    router = make("session_affinity", max_sessions=2)
    full = loads((0, 0), (1, 0))
    for session in ("a", "b", "a", "c"):  # b is forgotten
        assert router.route(request(session=session), full) == 0
    busy = loads((1, 0), (0, 0))
    assert [router.route(request(session=session), busy) for session in ("a", "c", "b")] == [0, 0, 1]


def test_weighted_gives_shares_as_evenly_spread_as_can_be() -> None:
    """Weights 5, 1, 1: nginx's own example of the smooth order, a a b a c a a."""
    router = make("weighted", weights=[5, 1, 1])
    assert [router.route(request(), idle(3)) for _ in range(14)] == [0, 0, 1, 0, 2, 0, 0] * 2


def test_weighted_shares_among_those_that_can() -> None:
    router = make("weighted", weights=[5, 2, 1])
    assert Counter(router.route(request(), idle(3)[1:]) for _ in range(30)) == {0: 20, 1: 10}


def test_expected_time_fills_the_faster_hardware_first() -> None:
    """Speeds 2 and 1, prompts of 100: (50, 100) -> 0, (100, 100) -> 0 by the tie, (150, 100) -> 1, (150, 200) -> 0.

    Then 0 has 300 pending. Request 0 ends, 200 are left: (150, 200) -> 0.
    """
    router = make("expected_time", speeds={"fast": 2, "slow": 1})
    instances = [InstanceLoad(0, "m", 9, 9, 0.9, "fast"), InstanceLoad(1, "m", 0, 0, 0, "slow")]
    assert [router.route(request(i, prompt=100), instances) for i in range(4)] == [0, 0, 1, 0]
    router.finished(FinishedRequest(0, 0, 5, 10, 3))
    assert router.route(request(4, prompt=100), instances) == 0


def test_expected_time_learns_speeds_from_what_took_how_long() -> None:
    """Nothing is known: 100 tokens go to 0, then 100 to 1. They take 1 s and 4 s: 100 and 25 tokens/s.

    Prompts of 100 then expect (1 s, 4 s), (2, 4), (3, 4), and at (4, 4) the first again; the fifth (5, 4) goes to 1.
    """
    router = make("expected_time")
    assert [router.route(request(i, prompt=100), idle(2)) for i in range(2)] == [0, 1]
    router.finished(FinishedRequest(0, 0, 1, 10**9, 3))
    router.finished(FinishedRequest(1, 1, 1, 4 * 10**9, 3))
    assert [router.route(request(i, prompt=100), idle(2)) for i in range(2, 7)] == [0, 0, 0, 0, 1]


def test_expected_time_averages_what_it_learns() -> None:
    """Instance 0 shows 100 tokens/s, then 200: 100 + 0.5 * (200 - 100) = 150. Instance 1 shows 149 and comes second."""
    router = make("expected_time", smoothing=0.5)
    one, other = idle(2)[:1], idle(2)[1:]
    for at, (instances, took_ns) in enumerate([(one, 10**9), (one, 5 * 10**8), (other, 671_140_940)]):
        router.route(request(at, prompt=100), instances)
        router.finished(FinishedRequest(at, instances[0].index, 1, took_ns, 3))
    assert router.route(request(9, prompt=100), idle(2)) == 0
    assert router.route(request(10, prompt=100), idle(2)) == 1


@pytest.mark.parametrize(
    ("stated", "said"),
    [
        ({"policy": "random", "sed": 1}, "router 'random': unknown key 'sed' in a section (did you mean 'seed'?)"),
        ({"policy": "prefix_aware", "cache_threshold": 2}, "router 'prefix_aware': cache_threshold: expected float <="),
        ({"policy": "weighted"}, "router 'weighted': the section lacks the key 'weights'"),
        ({"policy": "weighted", "weights": [1, 0]}, "router 'weighted': weights[1]: expected float > 0.0"),
        ({"seed": 1}, "router: expected a name, or a section with the key 'policy', got {'seed': 1}"),
    ],
)
def test_wrong_options_are_refused_with_their_place(stated: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_router(stated, seed=0)
    assert said in str(caught.value)


def test_an_option_of_a_router_that_has_none_is_refused() -> None:
    with pytest.raises(PluginError, match="'round_robin' cannot be built from options start"):
        make("round_robin", start=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"policy": "weighted", "weights": [1, 2, 3]}, "weights: expected one per instance, 2, got 3"),
        (
            {"policy": "expected_time", "speeds": {"H1000": 1}},
            "speeds: no instance has the hardware 'H1000' (did you mean 'H100'?); expected A100, H100",
        ),
        ({"policy": "expected_time", "speeds": {"H100": 1}}, "speeds: expected A100, H100, got H100 only"),
    ],
)
def test_options_that_do_not_fit_the_instances_are_refused_before_the_run(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**options).started([InstanceLoad(i, "m", 0, 0, 0, name) for i, name in enumerate(["H100", "A100"])])
    assert said in str(caught.value)


class Configured:
    """A user's own, with keyword arguments instead of a Struct."""

    def __init__(self, position: int = 0) -> None:
        self.position = position

    def route(self, request: RoutedRequest, instances: object) -> int:
        del request, instances
        return self.position


def test_a_router_of_ones_own_may_take_its_options_as_keyword_arguments() -> None:
    assert make(f"{__name__}:Configured", position=2).route(request(), idle(3)) == 2
    with pytest.raises(PluginError, match="cannot be built from options place"):
        make(f"{__name__}:Configured", place=2)
