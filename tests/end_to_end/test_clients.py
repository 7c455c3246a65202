"""A limited number of clients against an engine: every iteration takes 1 ms, so all is known beforehand."""

from typing import Any

import pytest

from llmservingsim import Run, simulate
from llmservingsim.errors import ConfigError
from llmservingsim.workload import RequestSpec

MS = 1_000_000


def config(**keys: Any) -> dict[str, Any]:
    return {
        "nodes": [{"instances": [{"model": "meta-llama/Llama-3.2-1B", "hardware": "H100", "num_gpu_blocks": 1001}]}],
        "serving": {
            "latency": {"source": "constant_latency:Constant"},
            "enforce_eager": True,
            "async_scheduling": False,
        },
        **keys,
    }


def test_calls_are_sent_when_answers_come() -> None:
    """Two clients, five calls of 3, 5, 2, 4 and 1 tokens, all there at 0; an iteration serves both clients."""
    requests = [RequestSpec(i, 0, 10, output) for i, output in enumerate([3, 5, 2, 4, 1])]
    records = simulate(config(clients={"max_concurrency": 2}), requests).requests
    assert [(r.arrival_ns // MS, (r.finish_ns or 0) // MS) for r in records] == [(0, 3), (0, 5), (3, 5), (5, 9), (5, 6)]


def test_clients_think() -> None:
    requests = [RequestSpec(i, 0, 10, 2) for i in range(3)]
    records = simulate(config(clients={"max_concurrency": 1, "think_time": "500us"}), requests).requests
    assert [(r.arrival_ns, r.finish_ns) for r in records] == [
        (0, 2 * MS),
        (2 * MS + 500_000, 4 * MS + 500_000),
        (5 * MS, 7 * MS),
    ]


def test_limits_count_from_sending_and_whoever_gives_up_sends_the_next() -> None:
    """Each answer would take 9 ms; the client leaves after 4 and sends the next call at once."""
    spec = config(clients={"max_concurrency": 1}, timeouts={"e2e": "4ms"})
    records = simulate(spec, [RequestSpec(i, 0, 10, 9) for i in range(3)]).requests
    assert [(r.status, r.arrival_ns // MS, r.output_tokens) for r in records] == [
        ("aborted", 0, 4),
        ("aborted", 4, 4),
        ("aborted", 8, 4),
    ]


def test_a_rejected_call_makes_room_for_the_next() -> None:
    requests = [RequestSpec(0, 0, 20_000, 1), RequestSpec(1, 0, 10, 2), RequestSpec(2, 0, 20_000, 1)]
    records = simulate(config(clients={"max_concurrency": 1}), requests).requests
    assert [(r.status, r.arrival_ns // MS) for r in records] == [("rejected", 0), ("finished", 0), ("rejected", 2)]


def test_never_more_calls_are_under_way_than_there_are_clients() -> None:
    """Little's law in a closed loop: 8 clients without a pause keep 8 calls under way until the last are sent."""
    made = Run(config(clients={"max_concurrency": 8}), [RequestSpec(i, 0, 10, 1 + i % 17) for i in range(200)])
    most = 0
    admitted = made.recorder.admitted

    def count(spec: RequestSpec) -> None:
        nonlocal most
        admitted(spec)
        most = max(most, made.recorder.num_open)

    made.recorder.admitted = count  # type: ignore[method-assign]
    records = made.execute().requests
    assert most == 8
    last_sent_ns = max(r.arrival_ns for r in records)
    under_way_ns = sum(min(r.finish_ns or 0, last_sent_ns) - min(r.arrival_ns, last_sent_ns) for r in records)
    assert under_way_ns == 8 * last_sent_ns


def test_as_many_clients_as_calls_are_an_open_loop() -> None:
    requests = [RequestSpec(i, i * 700_000, 10, 5) for i in range(20)]
    assert simulate(config(clients={"max_concurrency": 20}), requests).requests == simulate(config(), requests).requests


@pytest.mark.parametrize(
    ("clients", "message"),
    [
        ({}, "lacks the key 'max_concurrency'"),
        ({"max_concurrency": 0}, "max_concurrency: expected int >= 1"),
        ({"max_concurrency": 1, "think_time": "2"}, "think_time: expected a time with its unit"),
    ],
)
def test_clients_that_make_no_sense_are_refused(clients: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(config(clients=clients), [RequestSpec(0, 0, 1, 1)])
