"""What the built-in autoscaling policies answer, by their formulas."""

from typing import Any

import pytest

from llmservingsim.errors import ConfigError
from llmservingsim.serving.routing import InstanceLoad
from llmservingsim.serving.scaling import ScalingPolicy, ScalingView, ServedRequest, make_policy

MS = 1_000_000


def view(*loads: int | float, now_ns: int = 0, starting: int = 0, held: int = 0, **keys: Any) -> ScalingView:
    """Active instances, each given by its running requests, or by its KV usage if that is no whole number."""
    active = tuple(
        InstanceLoad(i, "m", 0, load, 0.5) if isinstance(load, int) else InstanceLoad(i, "m", 0, 1, load)
        for i, load in enumerate(loads)
    )
    return ScalingView(
        now_ns=now_ns,
        model="m",
        active=active,
        num_starting=starting,
        num_held=held,
        window_ns=1000 * MS,
        min_instances=0,
        max_instances=99,
        **keys,
    )


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (view(200), 2),  # Kubernetes' own example: 1 * 200 / 100
        (view(50, 50), 1),
        (view(50, 51), 2),  # 1.01 rounds up
        (view(105, 110), 2),  # 2.15 / 2 is within 0.1 of 1
        (view(111, 111), 3),  # 2.22 / 2 is not
        (view(91, 91), 2),  # 0.91
        (view(45, 44), 1),  # 0.445
        (view(0, 0), 0),
        (view(held=1), 1),
        (view(held=250), 3),
        (view(100, 60, held=90), 3),
        (view(150, starting=2), 3),  # one above its target: those that start are kept
        (view(90, starting=2), 1),  # it is not
        (view(500, starting=2), 5),
    ],
)
def test_requests_per_instance_are_kept_at_the_target(seen: ScalingView, wanted: int) -> None:
    assert make_policy("queue", {"target": 100}).desired(seen) == wanted


def test_waiting_requests_count_like_running_ones() -> None:
    active = (InstanceLoad(0, "m", 7, 5, 0.1),)
    seen = ScalingView(now_ns=0, model="m", active=active, window_ns=1, min_instances=0, max_instances=9)
    assert make_policy("queue", {"target": 4}).desired(seen) == 3


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        (view(0.8, 0.8, 0.8), 3),
        (view(0.9, 0.9, 0.9), 4),  # 1.125 * 3
        (view(0.86, 0.86, 0.86), 3),  # 1.075 is close
        (view(0.4, 0.4), 1),
        (view(0.0, 0.0), 1),  # requests run, though they hold no block
        (view(), 0),
        (view(held=3), 1),
        (view(starting=2, held=3), 2),
    ],
)
def test_kv_usage_is_kept_at_the_target(seen: ScalingView, wanted: int) -> None:
    assert make_policy("kv_usage", {}).desired(seen) == wanted


def served(*ttfts_ms: int, tpot_ms: int = 1, arrival_ms: int = 0) -> tuple[ServedRequest, ...]:
    """Requests that arrived at one time and had these TTFTs; their 11 tokens took this TPOT."""
    return tuple(
        ServedRequest(arrival_ms * MS, (arrival_ms + ttft) * MS, (arrival_ms + ttft + 10 * tpot_ms) * MS, 11)
        for ttft in ttfts_ms
    )


def slo(**options: Any) -> ScalingPolicy:
    return make_policy("slo", {"ttft": "100ms", "tpot": "10ms", "attainment": 0.75, **options})


@pytest.mark.parametrize(
    ("requests", "wanted"),
    [
        (served(99, 100, 100, 101), 2),  # 3 of 4 are enough
        (served(99, 100, 101, 101), 3),
        (served(50, 50, 50, 51), 1),  # 3 of 4 keep the half of it too
        (served(50, 50, 51, 51), 2),
        (served(10, 10, 10, 10, tpot_ms=11), 3),
        (served(10, 10, 10, 10, tpot_ms=6), 2),
        ((ServedRequest(0, 10 * MS, 10 * MS, 1),), 1),  # one token has no TPOT
        ((), 2),  # nobody has finished, but some are there
    ],
)
def test_missed_limits_add_and_headroom_gives_up(requests: tuple[ServedRequest, ...], wanted: int) -> None:
    assert slo().desired(view(5, 5, served=requests)) == wanted


def test_only_requests_count_that_came_after_the_last_change() -> None:
    policy, late = slo(step=2), served(500, 500)
    assert policy.desired(view(5, served=late, now_ns=600 * MS)) == 3
    assert policy.desired(view(5, starting=2, served=late, now_ns=700 * MS)) == 3
    assert policy.desired(view(5, 5, 5, served=late, now_ns=800 * MS)) == 3
    later = served(500, arrival_ms=799)
    assert policy.desired(view(5, 5, 5, served=later, now_ns=1400 * MS)) == 3
    later = served(500, arrival_ms=800)
    assert policy.desired(view(5, 5, 5, served=later, now_ns=1400 * MS)) == 5


def test_the_last_instance_is_kept_while_a_request_is_there() -> None:
    good = served(1, 1)
    assert slo().desired(view(1, served=good)) == 1
    assert slo().desired(view(0, served=good)) == 0
    assert slo().desired(view(0, 0)) == 1
    assert slo().desired(view(0, 0, num_arrived=1)) == 2


TIMES = [{"at": "10ms", "instances": 3}, {"at": "50ms", "instances": 1}]


@pytest.mark.parametrize(
    ("now_ms", "once", "again"),
    [(0, 7, 1), (9, 7, 1), (10, 3, 3), (49, 3, 3), (50, 1, 1), (109, 1, 1), (110, 1, 3), (950, 1, 1), (1010, 1, 3)],
)
def test_a_schedule_says_how_many(now_ms: int, once: int, again: int) -> None:
    seen = view(*[0] * 7, now_ns=now_ms * MS)
    assert make_policy("schedule", {"times": TIMES}).desired(seen) == once
    assert make_policy("schedule", {"times": TIMES, "period": "100ms"}).desired(seen) == again


def test_a_schedule_knows_its_next_change() -> None:
    once: Any = make_policy("schedule", {"times": TIMES})
    again: Any = make_policy("schedule", {"times": TIMES, "period": "100ms"})
    assert [once.next_change_ns(ms * MS) for ms in (0, 10, 50)] == [10 * MS, 50 * MS, None]
    assert [again.next_change_ns(ms * MS) for ms in (0, 10, 50, 99, 110)] == [ms * MS for ms in (10, 50, 110, 110, 150)]
    assert again.next_change_ns(-1) == 10 * MS


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("queue", {}, "options of 'queue': the section lacks the key 'target'"),
        ("kv_usage", {"target": 1.5}, "options of 'kv_usage': target: expected"),
        ("slo", {"tpot": "fast"}, "tpot: expected a time with its unit"),
        ("schedule", {"times": []}, "options of 'schedule': times"),
        ("schedule", {"times": [{"at": "1s", "instances": -1}]}, "times"),
        ("schedule", {"times": TIMES, "period": "50ms"}, "times: expected all of them before the period's end, 50ms"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_policy(name, options)


def test_the_arrival_rate_is_that_of_the_whole_window() -> None:
    assert view(now_ns=2000 * MS, num_arrived=30).arrival_rate == 30
    assert view(now_ns=1 * MS, num_arrived=1).arrival_rate == 1
