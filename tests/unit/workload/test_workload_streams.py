"""Requests come by arrival, sessions wait for their answers, and memory does not grow with the file."""

from __future__ import annotations

import gzip
import heapq
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.errors import WorkloadError
from llmservingsim.workload import (
    ArrivalSpec,
    FixedLength,
    GeneratorSpec,
    JsonlWorkload,
    ListWorkload,
    RequestSpec,
    Session,
    Workload,
    generate,
    open_workload,
    write_jsonl,
)

times = st.integers(min_value=0, max_value=40)


def lines(path: Path, count: int) -> Path:
    path.write_text(
        "".join(f'{{"input_toks": 9, "output_toks": 4, "arrival_time_ns": {1000 * k}}}\n' for k in range(count))
    )
    return path


@given(arrivals=st.lists(times, min_size=1), clock=st.lists(times))
def test_take_returns_each_request_once_when_it_has_arrived_and_in_order(arrivals, clock):
    specs = [RequestSpec(k, arrival_ns, 1, 1) for k, arrival_ns in enumerate(arrivals)]
    workload = ListWorkload(specs)
    left = sorted(specs, key=lambda spec: (spec.arrival_ns, spec.request_id))
    for now_ns in [*sorted(clock), 40]:
        due = [spec for spec in left if spec.arrival_ns <= now_ns]
        left = left[len(due) :]
        assert workload.take(now_ns) == due
        assert workload.next_arrival_ns() == (left[0].arrival_ns if left else None)


@st.composite
def sessions_and_requests(draw: st.DrawFn) -> list[RequestSpec | Session]:
    items: list[RequestSpec | Session] = []
    next_id = 0
    for durations in draw(st.lists(st.lists(times, min_size=1, max_size=4), min_size=1, max_size=6)):
        arrival_ns = draw(times)
        calls = tuple(RequestSpec(next_id + k, arrival_ns, 1, 1) for k in range(len(durations)))
        next_id += len(calls)
        is_request = len(calls) == 1 and draw(st.booleans())
        items.append(calls[0] if is_request else Session(calls, tuple(durations)))
    return items


def play(workload: Workload, service_ns: dict[int, int]) -> tuple[dict[int, int], dict[int, int]]:
    """Serve every call in its given time, without queueing; return arrivals and finish times."""
    arrived: dict[int, int] = {}
    finished: dict[int, int] = {}
    running: list[tuple[int, int]] = []
    while (arrival_ns := workload.next_arrival_ns()) is not None or running:
        if running and (arrival_ns is None or running[0][0] <= arrival_ns):
            finish_ns, request_id = heapq.heappop(running)
            finished[request_id] = finish_ns
            workload.finished(request_id, finish_ns)
            continue
        assert arrival_ns is not None
        taken = workload.take(arrival_ns)
        assert [c.request_id for c in taken] == sorted(c.request_id for c in taken), "ties are in file order"
        for call in taken:
            assert call.arrival_ns == arrival_ns
            arrived[call.request_id] = arrival_ns
            heapq.heappush(running, (arrival_ns + service_ns[call.request_id], call.request_id))
    return arrived, finished


@given(items=sessions_and_requests(), data=st.data())
def test_call_k_plus_1_arrives_exactly_one_tool_duration_after_call_k_finished(items, data):
    items.sort(key=lambda item: item.arrival_ns)
    total = sum(len(item.calls) if isinstance(item, Session) else 1 for item in items)
    ids = iter(range(total))
    items = [renumbered(item, ids) for item in items]
    service_ns = {k: data.draw(times) for k in range(total)}
    workload = ListWorkload(items)
    assert workload.total_requests == total
    arrived, finished = play(workload, service_ns)
    assert set(arrived) == set(range(total))
    for item in items:
        calls = item.calls if isinstance(item, Session) else (item,)
        assert arrived[calls[0].request_id] == item.arrival_ns
        for k in range(len(calls) - 1):
            expected = finished[calls[k].request_id] + item.tool_durations_ns[k]
            assert arrived[calls[k + 1].request_id] == expected


def renumbered(item: RequestSpec | Session, ids) -> RequestSpec | Session:
    if isinstance(item, RequestSpec):
        return RequestSpec(next(ids), item.arrival_ns, 1, 1)
    return Session(tuple(RequestSpec(next(ids), item.arrival_ns, 1, 1) for _ in item.calls), item.tool_durations_ns)


def test_none_is_due_while_a_session_waits_for_its_answer():
    session = Session((RequestSpec(0, 10, 1, 1), RequestSpec(1, 10, 5, 1)), (300, 0))
    workload = ListWorkload([session])
    assert workload.take(9) == []
    assert workload.take(10) == [session.calls[0]]
    assert workload.next_arrival_ns() is None
    workload.finished(0, 50)
    assert workload.next_arrival_ns() == 350
    assert workload.take(400) == [RequestSpec(1, 350, 5, 1)]
    workload.finished(1, 500)
    assert workload.next_arrival_ns() is None


def test_a_session_in_a_file_waits_like_one_in_a_list(tmp_path):
    path = tmp_path / "sessions.jsonl"
    path.write_text(
        '{"arrival_time_ns": 10, "sub_requests": [{"input_toks": 1, "output_toks": 1, "tool_duration_ns": 7},'
        ' {"input_toks": 2, "output_toks": 1}]}\n{"input_toks": 3, "output_toks": 1, "arrival_time_ns": 20}\n'
    )
    workload = JsonlWorkload(path)
    assert workload.total_requests == 3
    assert [call.request_id for call in workload.take(10)] == [0]
    workload.finished(0, 13)
    assert [(call.request_id, call.arrival_ns) for call in workload.take(20)] == [(1, 20), (2, 20)]


def test_a_list_is_sorted_and_keeps_its_order_where_arrivals_are_equal():
    specs = [RequestSpec(5, 8, 1, 1), RequestSpec(3, 2, 1, 1), RequestSpec(9, 8, 1, 1), RequestSpec(4, 8, 1, 1)]
    assert [spec.request_id for spec in ListWorkload(specs).take(8)] == [3, 5, 9, 4]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "holds no request"),
        ([RequestSpec(1, 0, 1, 1), RequestSpec(1, 5, 1, 1)], "two requests have the request_id 1"),
        ([Session((), ())], "a session has 0 calls"),
        ([Session((RequestSpec(0, 0, 1, 1),), ())], "1 calls and 0 tool durations"),
        ([Session((RequestSpec(0, 0, 1, 1),), (-1,))], "tool_durations_ns: expected int >= 0, got -1"),
        ([RequestSpec(3, 0, 0, 1)], "request 3: prompt_tokens: expected int >= 1, got 0"),
        ([RequestSpec(3, 0, 1, -2)], "request 3: output_tokens: expected int >= 1, got -2"),
        ([RequestSpec(3, -1, 1, 1)], "request 3: arrival_ns: expected int >= 0, got -1"),
        ([RequestSpec(3, 0.5, 1, 1)], "request 3: arrival_ns: expected int >= 0, got 0.5"),
        ([RequestSpec(3, 0, 5, 1, token_ids=(1, 2))], "request 3 has 2 token ids; expected those of its 5 prompt"),
        (["trace.jsonl"], "expected a RequestSpec or a Session, got 'trace.jsonl'"),
    ],
)
def test_a_malformed_list_is_refused(items, message):
    with pytest.raises(WorkloadError, match=message):
        ListWorkload(items)


def test_limit_takes_the_first_calls_and_does_not_read_on(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"input_toks": 1, "output_toks": 1, "arrival_time_ns": 0}\n' * 3 + "broken")
    workload = JsonlWorkload(path, limit=3)
    assert workload.total_requests == 3
    assert [call.request_id for call in workload.take(0)] == [0, 1, 2]
    with pytest.raises(WorkloadError, match=r"limit: expected at least 1 request, got 0"):
        JsonlWorkload(path, limit=0)


def test_limit_cuts_a_session(tmp_path):
    path = tmp_path / "trace.jsonl"
    calls = ", ".join(['{"input_toks": 1, "output_toks": 1}'] * 4)
    path.write_text(f'{{"arrival_time_ns": 0, "sub_requests": [{calls}]}}\n')
    arrived, _ = play(JsonlWorkload(path, limit=3), dict.fromkeys(range(4), 1))
    assert arrived == {0: 0, 1: 1, 2: 2}


def test_max_model_len_ends_outputs_and_leaves_hopeless_prompts_to_the_engine(tmp_path):
    path = tmp_path / "trace.jsonl"
    write_jsonl(
        [
            RequestSpec(0, 0, 6, 4, token_ids=tuple(range(10))),
            RequestSpec(1, 0, 7, 4, token_ids=tuple(range(11))),
            RequestSpec(2, 0, 10, 4),
        ],
        path,
    )
    calls = open_workload(path, max_model_len=10).take(0)
    assert [(c.prompt_tokens, c.output_tokens) for c in calls] == [(6, 4), (7, 3), (10, 4)]
    assert calls[1].token_ids == tuple(range(10))


def test_total_requests_is_none_where_counting_would_cost(tmp_path):
    plain = lines(tmp_path / "trace.jsonl", 30_000)
    assert JsonlWorkload(plain).total_requests == 30_000
    assert JsonlWorkload(plain, limit=7).total_requests == 7
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert JsonlWorkload(packed).total_requests is None


def test_requests_are_counted_where_a_key_lies_across_two_blocks_of_the_counter(tmp_path):
    path = tmp_path / "trace.jsonl"
    head = '{"output_toks": 1, "arrival_time_ns": 0, "model": "'
    padding = "x" * (2**20 - len(head) - len('", ') - 5)  # the key starts 5 bytes before the end of the block
    path.write_text(head + padding + '", "input_toks": 1}\n{"input_toks": 1, "output_toks": 1, "arrival_time_ns": 0}\n')
    assert path.read_text().index('"input_toks"') == 2**20 - 5
    assert JsonlWorkload(path).total_requests == 2


def test_a_specification_opens_as_the_workload_that_it_generates():
    arrival = ArrivalSpec("poisson", {"request_rate": 5})
    spec = GeneratorSpec(num_requests=20, input_length=FixedLength(3), output_length=FixedLength(2), arrival=arrival)
    assert open_workload(spec).take(2**62) == list(generate(spec))
    limited = open_workload(spec, 4)
    assert limited.total_requests == 4
    assert limited.take(2**62) == list(generate(spec))[:4]


def peak_bytes(path: Path, count: int) -> int:
    tracemalloc.start()
    try:
        workload = JsonlWorkload(path)
        taken = 0
        while (arrival_ns := workload.next_arrival_ns()) is not None:
            taken += len(workload.take(arrival_ns))
        assert taken == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_file_of_200_000_lines_takes_no_more_memory_than_one_of_20_000(tmp_path):
    """Holding the lines would take 13 MB more; 64 KiB are for what the interpreter allocates by the way."""
    small = peak_bytes(lines(tmp_path / "small.jsonl", 20_000), 20_000)
    large = peak_bytes(lines(tmp_path / "large.jsonl", 200_000), 200_000)
    assert large - small < 64 * 1024
