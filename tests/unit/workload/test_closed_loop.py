"""Clients that wait for answers: who sends what, and when."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.errors import WorkloadError
from llmservingsim.workload import ClosedLoop, ListWorkload, RequestSpec, Session, Workload


def calls(*arrivals_ns: int) -> Workload:
    return ListWorkload([RequestSpec(i, at_ns, 5, 5) for i, at_ns in enumerate(arrivals_ns)])


def taken(workload: Workload, now_ns: int) -> list[tuple[int, int]]:
    return [(call.request_id, call.arrival_ns) for call in workload.take(now_ns)]


def test_a_call_is_sent_when_one_ends() -> None:
    loop = ClosedLoop(calls(0, 0, 0, 3), max_concurrency=2)
    assert loop.next_arrival_ns() == 0
    assert taken(loop, 0) == [(0, 0), (1, 0)]
    assert loop.next_arrival_ns() is None
    loop.finished(1, 10)
    assert loop.next_arrival_ns() == 10
    assert taken(loop, 10) == [(2, 10)]
    loop.finished(0, 12)
    assert taken(loop, 12) == [(3, 12)]
    assert loop.next_arrival_ns() is None


def test_arrivals_are_the_earliest_times() -> None:
    loop = ClosedLoop(calls(5, 50), max_concurrency=1)
    assert (loop.next_arrival_ns(), taken(loop, 4), taken(loop, 5)) == (5, [], [(0, 5)])
    loop.finished(0, 20)
    assert (loop.next_arrival_ns(), taken(loop, 49), taken(loop, 50)) == (50, [], [(1, 50)])


def test_a_client_thinks_before_it_sends_again() -> None:
    loop = ClosedLoop(calls(0, 0, 0), max_concurrency=1, think_ns=7)
    assert taken(loop, 0) == [(0, 0)]
    loop.finished(0, 10)
    assert (loop.next_arrival_ns(), taken(loop, 16), taken(loop, 17)) == (17, [], [(1, 17)])


def test_calls_of_a_session_follow_each_other_and_wait_for_a_client() -> None:
    """Call 1 of the session would arrive at 10 + 5, but the other client is busy and the first has taken request 2."""
    session = Session((RequestSpec(0, 0, 5, 5), RequestSpec(1, 0, 5, 5)), (5, 0))
    loop = ClosedLoop(ListWorkload([session, RequestSpec(2, 1, 5, 5)]), max_concurrency=1)
    assert taken(loop, 0) == [(0, 0)]
    loop.finished(0, 10)
    assert taken(loop, 10) == [(2, 10)]
    loop.finished(2, 30)
    assert taken(loop, 30) == [(1, 30)]


def test_a_session_that_is_given_up_makes_room() -> None:
    session = Session((RequestSpec(0, 0, 5, 5), RequestSpec(1, 0, 5, 5)), (5, 0))
    loop = ClosedLoop(ListWorkload([session, RequestSpec(2, 1, 5, 5)]), max_concurrency=1)
    assert taken(loop, 0) == [(0, 0)]
    loop.abandoned(0, 10)
    assert taken(loop, 10) == [(2, 10)]
    loop.finished(2, 30)
    assert loop.next_arrival_ns() is None


def test_the_number_of_calls_is_that_of_the_workload() -> None:
    assert ClosedLoop(calls(0, 1, 2), 1).total_requests == 3


@pytest.mark.parametrize(("clients", "think_ns"), [(0, 0), (1, -1)])
def test_no_client_and_no_time_are_refused(clients: int, think_ns: int) -> None:
    with pytest.raises(WorkloadError, match="expected at least"):
        ClosedLoop(calls(0), clients, think_ns)


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), min_size=1, max_size=30),
    st.integers(1, 5),
    st.integers(0, 6),
)
def test_the_loop_does_what_a_list_of_clients_would(drawn: list[tuple[int, int]], clients: int, think_ns: int) -> None:
    """Against the plain rule: of all clients, the one that is free first takes the next call."""
    drawn.sort(key=lambda call: call[0])
    free_ns = [0] * clients
    expected = []
    for number, (arrival_ns, service_ns) in enumerate(drawn):
        sent_ns = max(arrival_ns, min(free_ns))
        free_ns[free_ns.index(min(free_ns))] = sent_ns + service_ns + think_ns
        expected.append((number, sent_ns))
    loop = ClosedLoop(calls(*(at_ns for at_ns, _ in drawn)), clients, think_ns)
    ends: deque[tuple[int, int]] = deque()
    sent, now_ns = [], 0
    while True:
        for number, sent_ns in taken(loop, now_ns):
            sent.append((number, sent_ns))
            ends = deque(sorted([*ends, (sent_ns + drawn[number][1], number)]))
        times = [t for t in (loop.next_arrival_ns(), ends[0][0] if ends else None) if t is not None]
        if not times:
            break
        now_ns = min(times)
        while ends and ends[0][0] <= now_ns:
            loop.finished(ends.popleft()[1], now_ns)
    assert sent == expected
