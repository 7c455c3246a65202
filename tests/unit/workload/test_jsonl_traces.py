"""Traces of LLMServingSim 2.0 load as they are, and a wrong line is named with what was expected."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest

from llmservingsim.errors import WorkloadError
from llmservingsim.workload import JsonlWorkload, RequestSpec, Session, iter_requests, read_jsonl, write_jsonl

TRACES = Path(__file__).parents[3].parent / "shared/data/workloads"
REQUEST = '{"input_toks": 3, "output_toks": 2, "arrival_time_ns": 5}'


def trace(tmp_path: Path, *lines: str | bytes) -> Path:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"".join((line if isinstance(line, bytes) else line.encode()) + b"\n" for line in lines))
    return path


def with_keys(**keys: object) -> str:
    return json.dumps({**json.loads(REQUEST), **keys})


def session(*calls: dict[str, object], **keys: object) -> str:
    return json.dumps({"arrival_time_ns": 5, "sub_requests": calls, **keys})


def needs(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


def test_a_request_line_becomes_a_request(tmp_path):
    line = with_keys(input_tok_ids=[7, 8, 9], output_tok_ids=[1, 2], priority=-3, model="org/name")
    assert list(iter_requests(trace(tmp_path, REQUEST, line))) == [
        RequestSpec(0, 5, 3, 2),
        RequestSpec(1, 5, 3, 2, token_ids=(7, 8, 9, 1, 2), priority=-3, model="org/name"),
    ]


def test_requests_and_sessions_share_a_file_and_ids_count_every_call(tmp_path):
    calls = [{"input_toks": 4, "output_toks": 1, "tool_duration_ns": 70}, {"input_toks": 6, "output_toks": 2}]
    path = trace(tmp_path, REQUEST, session(*calls, session_id="a", priority=1, model="m"), REQUEST)
    shared = {"session_id": "a", "priority": 1, "model": "m"}
    assert list(read_jsonl(path)) == [
        RequestSpec(0, 5, 3, 2),
        Session((RequestSpec(1, 5, 4, 1, **shared), RequestSpec(2, 5, 6, 2, **shared)), (70, 0)),
        RequestSpec(3, 5, 3, 2),
    ]


def test_sessions_without_an_id_get_distinct_ones(tmp_path):
    call = {"input_toks": 1, "output_toks": 1}
    calls = list(iter_requests(trace(tmp_path, session(call, call), session(call), session(call, session_id=7))))
    assert [call.session_id for call in calls] == ["session-0", "session-0", "session-2", "7"]


def test_prompt_ids_alone_are_kept_and_null_ids_are_none(tmp_path):
    path = trace(
        tmp_path,
        with_keys(input_tok_ids=[7, 8, 9]),
        with_keys(input_tok_ids=None),
        with_keys(output_tok_ids=[1, 2]),
    )
    assert [call.token_ids for call in iter_requests(path)] == [(7, 8, 9), None, None]


def test_blank_lines_are_skipped_but_counted_in_messages(tmp_path):
    path = trace(tmp_path, "", REQUEST, "  \r", REQUEST, "", "{")
    calls = iter_requests(path)
    assert [next(calls).request_id for _ in range(2)] == [0, 1]
    with pytest.raises(WorkloadError, match=r"trace\.jsonl:6: broken JSON"):
        next(calls)


def test_a_packed_trace_reads_like_the_plain_one(tmp_path):
    plain = trace(tmp_path, REQUEST, session({"input_toks": 1, "output_toks": 1}))
    packed = tmp_path / "trace.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_jsonl(packed)) == list(read_jsonl(plain))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"input_toks": 3', "broken JSON"),
        (b'{"model": "\xff"}', "broken JSON: 'utf-8'"),
        ("[1]", "request: expected object, got [1]"),
        (with_keys(arrival_time=3), "unknown key 'arrival_time' in a request (did you mean 'arrival_time_ns'?)"),
        ('{"input_toks": 3, "arrival_time_ns": 5}', "the request lacks the key 'output_toks'"),
        (with_keys(input_toks=0), "input_toks: expected int >= 1, got 0"),
        (with_keys(output_toks=0), "output_toks: expected int >= 1, got 0"),
        (with_keys(input_toks=1.5), "input_toks: expected int, got 1.5"),
        (with_keys(output_toks=True), "output_toks: expected int, got True"),
        (with_keys(output_toks="7"), "output_toks: expected int, got '7'"),
        (with_keys(arrival_time_ns=-1), "arrival_time_ns: expected int >= 0, got -1"),
        (with_keys(arrival_time_ns=10**30), "arrival_time_ns: expected int <= "),
        (with_keys(input_tok_ids=[1, 2]), "input_tok_ids has 2 ids but input_toks is 3"),
        (with_keys(output_tok_ids=[]), "output_tok_ids has 0 ids but output_toks is 2"),
        (with_keys(input_tok_ids=[1, 2, -3]), "input_tok_ids[2]: expected int >= 0, got -3"),
        (with_keys(arrival_time_ns=4), "arrival_time_ns falls from 5 to 4; the file must be sorted"),
        (session(), "sub_requests: expected array of length >= 1, got []"),
        ('{"session_id": "a", "arrival_time_ns": 9}', "the session lacks the key 'sub_requests'"),
        (session({"input_toks": 1, "output_toks": 0}), "sub_requests[0].output_toks: expected int >= 1, got 0"),
        (
            session({"input_toks": 1, "output_toks": 1}, {"input_toks": 1, "output_toks": 1, "input_tok_ids": [1, 2]}),
            "sub_requests[1]: input_tok_ids has 2 ids but input_toks is 1",
        ),
        (
            session({"input_toks": 1, "output_toks": 1, "tool_duration": 3}),
            "sub_requests[0]: unknown key 'tool_duration' in a sub-request (did you mean 'tool_duration_ns'?)",
        ),
        (
            session({"input_toks": 1, "output_toks": 1, "arrival_time_ns": 3}),
            "sub_requests[0]: unknown key 'arrival_time_ns' in a sub-request; expected",
        ),
    ],
)
def test_a_wrong_line_is_named_with_file_line_and_expectation(tmp_path, line, message):
    path = trace(tmp_path, REQUEST, line)
    with pytest.raises(WorkloadError) as caught:
        JsonlWorkload(path).take(2**62)
    assert str(caught.value).startswith(f"{path}:2: {message}")


@pytest.mark.parametrize("lines", [(), ("", "   ")])
def test_an_empty_file_is_refused_at_once(tmp_path, lines):
    with pytest.raises(WorkloadError, match="holds no request"):
        JsonlWorkload(trace(tmp_path, *lines))


def test_a_missing_file_names_its_nearest_neighbour(tmp_path):
    trace(tmp_path, REQUEST)
    with pytest.raises(WorkloadError, match=r"no such workload file \(did you mean 'trace\.jsonl'\?\)"):
        JsonlWorkload(tmp_path / "trase.jsonl")
    with pytest.raises(WorkloadError, match=r"no such workload file$"):
        JsonlWorkload(tmp_path / "no" / "trace.jsonl")


def test_what_cannot_be_read_is_a_workload_error(tmp_path):
    (tmp_path / "plain.jsonl.gz").write_text(REQUEST)
    for path in (tmp_path, tmp_path / "plain.jsonl.gz"):
        with pytest.raises(WorkloadError, match="cannot be read"):
            JsonlWorkload(path)


def test_a_packed_file_that_ends_early_is_a_workload_error(tmp_path):
    packed = tmp_path / "cut.jsonl.gz"
    packed.write_bytes(gzip.compress((REQUEST + "\n").encode() * 100)[:-12])
    with pytest.raises(WorkloadError, match="cannot be read"):
        list(read_jsonl(packed))


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz"])
def test_what_is_written_reads_back_and_is_the_same_bytes_again(tmp_path, name):
    calls = [
        RequestSpec(0, 5, 3, 2),
        RequestSpec(1, 5, 3, 2, token_ids=(1, 2, 3)),
        RequestSpec(2, 9, 3, 2, token_ids=(1, 2, 3, 4, 5), priority=2, model="m"),
    ]
    path = tmp_path / name
    assert write_jsonl(calls, path) == 3
    first = path.read_bytes()
    assert list(read_jsonl(path)) == calls
    write_jsonl(iter(calls), path)
    assert path.read_bytes() == first


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([RequestSpec(0, 5, 3, 2, session_id="a")], "belongs to session 'a'"),
        ([RequestSpec(0, 5, 3, 2), RequestSpec(1, 4, 3, 2)], "request 1 arrives at 4, after one at 5"),
        ([RequestSpec(0, 5, 3, 2, token_ids=(1, 2, 3, 4))], r"has 4 token ids; expected 3 \(prompt\) or 5"),
    ],
)
def test_what_would_not_read_back_is_not_written(tmp_path, calls, message):
    with pytest.raises(WorkloadError, match=message):
        write_jsonl(calls, tmp_path / "out.jsonl")


def test_a_directory_that_is_missing_is_a_workload_error_when_writing(tmp_path):
    with pytest.raises(WorkloadError, match="cannot be written"):
        write_jsonl([RequestSpec(0, 5, 3, 2)], tmp_path / "no" / "out.jsonl")


def test_every_trace_of_the_predecessor_loads():
    for path in sorted(needs(TRACES).glob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        calls = JsonlWorkload(path).take(2**62)
        assert [(c.arrival_ns, c.prompt_tokens, c.output_tokens) for c in calls] == [
            (row["arrival_time_ns"], row["input_toks"], row["output_toks"]) for row in rows
        ], path
        expected = [tuple(row["input_tok_ids"] + row["output_tok_ids"]) for row in rows if "input_tok_ids" in row]
        assert [c.token_ids for c in calls if c.token_ids is not None] == expected, path


def test_a_trace_of_2_5_mb_with_token_ids_loads_within_60_ms():
    """CPU time, best of five, since other work on the machine is no fault of the reader; it takes 25 ms."""
    path = needs(TRACES / "sharegpt-llama-3.1-8b-300-sps10.jsonl")

    def load_s() -> float:
        start = time.process_time()
        assert len(JsonlWorkload(path).take(2**62)) == 300
        return time.process_time() - start

    assert min(load_s() for _ in range(5)) < 0.060


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"input_toks": 3, "output_toks": 2, "arrival_time_ns": 0}\r\n')
    assert [item.prompt_tokens for item in iter_requests(path)] == [3]
