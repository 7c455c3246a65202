"""Deadlines in a heap: which is next, what makes one meaningless, and what a hundred thousand cost."""

from collections.abc import Callable

import pytest

from llmservingsim.config import TimeoutSpec
from llmservingsim.deadlines import Deadlines, Patience
from llmservingsim.serving import Request
from llmservingsim.units import TIME_MAX_NS
from llmservingsim.workload import RequestSpec


def spec(number: int, arrival_ns: int = 0, patience_ns: int | None = None) -> RequestSpec:
    return RequestSpec(number, arrival_ns, 5, 5, abort_after_ns=patience_ns)


def drained(deadlines: Deadlines, now_ns: int = TIME_MAX_NS) -> list[tuple[int, str]]:
    found = []
    while (given_up := deadlines.take(now_ns)) is not None:
        found.append((given_up[0].spec.request_id, given_up[1]))
    return found


def test_a_section_of_the_run_file_becomes_nanoseconds() -> None:
    assert Patience.of(None) == Patience(None, None, ends_session=False)
    assert Patience.of(TimeoutSpec(ttft="2us", session="end")) == Patience(2000, None, ends_session=True)


def test_whoever_waits_for_ever_is_not_watched() -> None:
    deadlines = Deadlines(Patience())
    deadlines.watch(spec(0))
    assert (deadlines.heap, deadlines.next_ns(), drained(deadlines)) == ([], None, [])


def test_deadlines_come_by_time_then_by_request() -> None:
    deadlines = Deadlines(Patience(e2e_ns=100))
    for number, arrival_ns, patience_ns in [(0, 0, None), (1, 0, 40), (2, 3, 37), (3, 0, 200)]:
        deadlines.watch(spec(number, arrival_ns, patience_ns))
    assert deadlines.next_ns() == 40
    assert drained(deadlines, now_ns=39) == []
    assert drained(deadlines) == [(1, "abort_after_ns"), (2, "abort_after_ns"), (0, "e2e"), (3, "e2e")]


def test_a_first_token_leaves_the_later_limit() -> None:
    deadlines = Deadlines(Patience(ttft_ns=10, e2e_ns=100))
    request = Request(0, 0, 5)
    deadlines.watch(spec(0))
    deadlines.sent(None, request)  # type: ignore[arg-type]
    assert deadlines.next_ns() == 10
    request.first_token_ns = 10
    assert (deadlines.next_ns(), drained(deadlines)) == (100, [(0, "e2e")])


def test_a_first_token_where_it_is_all_that_is_waited_for_ends_the_matter() -> None:
    deadlines = Deadlines(Patience(ttft_ns=10))
    request = Request(0, 0, 5)
    deadlines.watch(spec(0))
    deadlines.sent(None, request)  # type: ignore[arg-type]
    request.first_token_ns = 3
    assert (deadlines.next_ns(), deadlines.heap) == (None, [])


def test_a_request_that_ended_is_forgotten() -> None:
    deadlines = Deadlines(Patience(e2e_ns=100))
    deadlines.watch(spec(0))
    deadlines.watch(spec(1))
    deadlines.forget(0)
    assert drained(deadlines) == [(1, "e2e")]


@pytest.mark.parametrize("patience_ns", [TIME_MAX_NS - 5, TIME_MAX_NS])
def test_a_deadline_beyond_the_clock_never_comes(patience_ns: int) -> None:
    deadlines = Deadlines(Patience())
    deadlines.watch(spec(0, 5, patience_ns))
    assert deadlines.next_ns() is None


def test_a_hundred_thousand_deadlines_cost_as_much_each_as_a_thousand(cpu_s: Callable[..., float]) -> None:
    """All are in the heap at once and every other one is forgotten; the logarithms differ by a factor below 2.

    A heap of 100,000 leaves the caches of a busy core, which made it 7 times as slow once; work that grew with the heap
    would make it 100 times as slow.
    """

    def serve(count: int) -> None:
        deadlines = Deadlines(Patience(ttft_ns=10**9))
        for number in range(count):
            deadlines.watch(spec(number, number * 7919 % count))
        for number in range(0, count, 2):
            deadlines.forget(number)
        assert len(drained(deadlines)) == count // 2

    few = min(cpu_s(lambda: [serve(1000) for _ in range(10)]) for _ in range(3)) / 10
    assert min(cpu_s(lambda: serve(100_000)) for _ in range(2)) < 100 * few * 20
