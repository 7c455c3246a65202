"""Generated sessions, clients, patience and shares: what is said follows the specification call by call."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmservingsim.errors import WorkloadError
from llmservingsim.workload import (
    ArrivalSpec,
    DurationSpec,
    EmpiricalLength,
    ExponentialDuration,
    FixedLength,
    GeneratorSpec,
    LognormalDuration,
    ModelShare,
    PrefixSpec,
    PriorityShare,
    RequestSpec,
    Session,
    SessionSpec,
    UniformDuration,
    UniformLength,
    generate,
    open_workload,
    read_jsonl,
    write_jsonl,
)

MS = 1_000_000
S = 1_000_000_000


def spec(num_requests: int = 6, **fields: Any) -> GeneratorSpec:
    """Ten new tokens a call, four in the answer; a session per second."""
    arrival = ArrivalSpec("fixed", {"request_rate": 1})
    return GeneratorSpec(num_requests, FixedLength(10), FixedLength(4), **({"arrival": arrival} | fields))


def sessions(made: GeneratorSpec) -> list[Session]:
    items = list(generate(made))
    assert all(isinstance(item, Session) for item in items)
    return items  # type: ignore[return-value]


def prompts(session: Session) -> list[int]:
    return [call.prompt_tokens for call in session.calls]


def test_a_prompt_repeats_what_was_said_before() -> None:
    """10; then 10 + 4 + 10; then 24 + 4 + 10."""
    first, second = sessions(spec(sessions=SessionSpec(turns=3), token_ids=True))
    assert prompts(first) == prompts(second) == [10, 24, 38]
    for session in (first, second):
        told: tuple[int, ...] = ()
        for call in session.calls:
            assert call.token_ids is not None
            assert call.token_ids[: len(told)] == told
            assert len(call.token_ids) == call.prompt_tokens + 4
            told = call.token_ids
    assert first.calls[0].token_ids != second.calls[0].token_ids


def test_sessions_arrive_and_calls_count_through() -> None:
    first, second = sessions(spec(sessions=SessionSpec(turns=3)))
    assert [call.request_id for session in (first, second) for call in session.calls] == list(range(6))
    assert (first.arrival_ns, second.arrival_ns) == (S, 2 * S)
    assert {c.session_id for c in first.calls} == {"session-0"}
    assert {c.session_id for c in second.calls} == {"session-3"}


def test_the_last_session_is_cut_at_the_number_of_requests() -> None:
    assert [len(s.calls) for s in sessions(spec(7, sessions=SessionSpec(turns=3)))] == [3, 3, 1]


def test_without_history_every_call_is_new() -> None:
    (session,) = sessions(spec(3, sessions=SessionSpec(turns=3, history=False), token_ids=True))
    assert prompts(session) == [10, 10, 10]
    assert len({call.token_ids for call in session.calls}) == 3


@pytest.mark.parametrize("history", [True, False])
def test_sessions_share_a_system_prompt(history: bool) -> None:
    """Eight tokens before everything else: 18, then 18 + 4 + 10, or 18 again."""
    made = spec(sessions=SessionSpec(turns=2, history=history), prefix=PrefixSpec(1, 8), token_ids=True)
    drawn = sessions(made)
    assert [prompts(s) for s in drawn] == [[18, 32 if history else 18]] * 3
    assert len({(call.token_ids or ())[:8] for s in drawn for call in s.calls}) == 1


def test_users_think_and_tools_run() -> None:
    shape = SessionSpec(turns=2, calls_per_turn=3, tool_time="1s")
    (session,) = sessions(spec(sessions=shape, think_time="20s"))
    assert [ns // S for ns in session.tool_durations_ns] == [1, 1, 20, 1, 1, 20]


def test_a_tool_brings_input_of_its_own_length() -> None:
    """New tokens: 10 of the user, then 100 of each tool; four of an answer after each."""
    shape = SessionSpec(turns=2, calls_per_turn=3, tool_length=FixedLength(100))
    (session,) = sessions(spec(sessions=shape))
    assert prompts(session) == [10, 114, 218, 232, 336, 440]


def test_a_session_ends_where_the_model_has_no_room_for_more() -> None:
    """The third prompt of 38 leaves two tokens for its answer; a fourth would be of 50."""
    drawn = sessions(spec(8, sessions=SessionSpec(turns=9), max_model_len=40, token_ids=True))
    assert [prompts(s) for s in drawn] == [[10, 24, 38], [10, 24, 38], [10, 24]]
    last = drawn[0].calls[2]
    assert (last.output_tokens, len(last.token_ids or ())) == (2, 40)


def test_clients_send_one_session_after_another() -> None:
    """Four sessions of two turns for three clients: the first has the fourth too, whose history begins anew."""
    made = spec(8, sessions=SessionSpec(turns=2), clients=3, think_time="5s", arrival=ArrivalSpec())
    drawn = sessions(made)
    assert [prompts(s) for s in drawn] == [[10, 24, 10, 24], [10, 24], [10, 24]]
    assert [s.arrival_ns for s in drawn] == [0, 0, 0]
    assert drawn[0].tool_durations_ns == (5 * S, 5 * S, 5 * S, 5 * S)
    assert [{c.session_id for c in s.calls} for s in drawn] == [{"client-0"}, {"client-1"}, {"client-2"}]
    assert [c.request_id for s in drawn for c in s.calls] == list(range(8))


def test_clients_send_requests_one_after_another() -> None:
    assert [prompts(s) for s in sessions(spec(8, clients=3))] == [[10] * 3, [10] * 3, [10] * 2]
    assert len(sessions(spec(2, clients=3))) == 2


def test_a_longer_workload_begins_with_the_shorter_one() -> None:
    made = spec(3000, sessions=SessionSpec(turns=UniformLength(1, 5)), think_time=ExponentialDuration("3s"))
    longer = sessions(made)
    shorter = sessions(msgspec.structs.replace(made, num_requests=100))
    assert longer[: len(shorter) - 1] == shorter[:-1]
    assert sum(len(s.calls) for s in longer) == 3000


BASE = spec(
    300,
    sessions=SessionSpec(turns=UniformLength(1, 4), calls_per_turn=UniformLength(1, 2)),
    think_time=ExponentialDuration("3s"),
    token_ids=True,
    priorities=(PriorityShare(0, 1), PriorityShare(3, 1)),
    models=(ModelShare("a", 1), ModelShare("b", 2)),
    patience=ExponentialDuration("9s"),
)


@pytest.mark.parametrize(
    ("field", "value", "changes"),
    [
        ("think_time", UniformDuration("1s", "9s"), "pause"),
        ("priorities", (PriorityShare(0, 5), PriorityShare(3, 1)), "priority"),
        ("models", (ModelShare("a", 5), ModelShare("b", 1)), "model"),
        ("patience", "9s", "abort_after_ns"),
        ("vocab_size", 99, "token_ids"),
    ],
)
def test_changing_one_draw_leaves_the_others_as_they_are(field: str, value: object, changes: str) -> None:
    before, after = (sessions(made) for made in (BASE, msgspec.structs.replace(BASE, **{field: value})))
    for key in ("prompt_tokens", "output_tokens", "priority", "model", "abort_after_ns", "token_ids"):
        same = [getattr(c, key) for s in before for c in s.calls] == [getattr(c, key) for s in after for c in s.calls]
        assert same == (key != changes), key
    same = [s.tool_durations_ns for s in before] == [s.tool_durations_ns for s in after]
    assert same == (changes != "pause")


def test_shares_are_shares() -> None:
    """Of 8,000 requests a quarter has priority 0, within four standard deviations of 39; sessions agree in theirs."""
    requests = list(generate(spec(8000, priorities=(PriorityShare(0, 1), PriorityShare(7, 3)))))
    counts = Counter(r.priority for r in requests if isinstance(r, RequestSpec))
    assert set(counts) == {0, 7}
    assert abs(counts[0] - 2000) < 4 * 39
    for session in sessions(BASE):
        assert len({(call.priority, call.model) for call in session.calls}) == 1


@pytest.mark.parametrize(
    ("duration", "mean_s", "deviation_s"),
    [
        ("2s", 2, 0),
        (ExponentialDuration("2s"), 2, 2),
        (UniformDuration("1s", "3s"), 2, 2 / 12**0.5),
        (LognormalDuration(0.5, mean="2s"), 2, 2 * (2.718281828**0.25 - 1) ** 0.5),
        (LognormalDuration(0.5, median="2s"), 2 * 2.718281828**0.125, 2.27 * (2.718281828**0.25 - 1) ** 0.5),
    ],
)
def test_times_have_the_mean_that_they_state(duration: DurationSpec, mean_s: float, deviation_s: float) -> None:
    """Within four standard errors of 10,000 draws."""
    made = spec(10_000, clients=1, think_time=duration)
    (client,) = sessions(made)
    mean = statistics.fmean(client.tool_durations_ns) / S
    assert abs(mean - mean_s) <= 4 * deviation_s / 100 + 1e-9


def test_patience_is_at_least_a_nanosecond() -> None:
    drawn = generate(spec(50, patience=UniformDuration("0ns", "1ns")))
    assert {r.abort_after_ns for r in drawn if isinstance(r, RequestSpec)} == {1}


def test_the_number_of_turns_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "turns.csv").write_text("turns\n2\n5\n")
    made = spec(400, sessions=SessionSpec(turns=EmpiricalLength(str(tmp_path / "turns.csv"), "turns")))
    assert {len(s.calls) for s in sessions(made)[:-1]} == {2, 5}


@pytest.mark.parametrize("name", ["sessions.jsonl", "sessions.jsonl.gz"])
def test_sessions_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    assert write_jsonl(generate(BASE), tmp_path / name) == 300
    assert list(read_jsonl(tmp_path / name)) == list(generate(BASE))
    calls = tuple(RequestSpec(1 + k, 5, 9, 9, session_id="a", model="m", abort_after_ns=k + 1) for k in range(3))
    mixed = [RequestSpec(0, 0, 5, 5, abort_after_ns=9), Session(calls, (1, 2, 3))]
    assert write_jsonl(mixed, tmp_path / name) == 4
    assert list(read_jsonl(tmp_path / name)) == mixed


@pytest.mark.parametrize(
    ("key", "value"), [("session_id", None), ("session_id", "b"), ("priority", 1), ("model", "other")]
)
def test_a_session_that_would_read_back_otherwise_is_not_written(tmp_path: Path, key: str, value: object) -> None:
    calls = tuple(RequestSpec(i, 0, 5, 5, session_id="a") for i in range(2))
    changed = (calls[0], msgspec.structs.replace(calls[1], **{key: value}))
    with pytest.raises(WorkloadError, match=f"request 1: {key}: expected one for the session"):
        write_jsonl([Session(changed, (0, 0))], tmp_path / "out.jsonl")


def test_a_workload_takes_as_many_calls_as_asked_for() -> None:
    """Of the clients' calls, evenly: fewer requests are dealt, not all but the first client's left out."""
    workload = open_workload(spec(100, clients=2, arrival=ArrivalSpec()), limit=4)
    assert workload.total_requests == 4
    assert [call.session_id for call in workload.take(0)] == ["client-0", "client-1"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"think_time": "2s"}, "think_time needs sessions or clients"),
        ({"think_time": "2", "clients": 1}, "think_time: expected a time with its unit"),
        ({"patience": UniformDuration("2s", "1s")}, "patience: min 2s is above max 1s"),
        ({"patience": LognormalDuration(1.0)}, "patience: expected either mean or median"),
        ({"patience": LognormalDuration(1.0, "1s", "1s")}, "patience: expected either mean or median"),
        ({"patience": LognormalDuration(1.0, "0s")}, "patience: expected a lognormal time of more than 0"),
        ({"sessions": SessionSpec(turns=0)}, "sessions.turns: expected int >= 1"),
        ({"sessions": SessionSpec(turns=EmpiricalLength("x.csv"))}, "sessions.turns: expected a column"),
        ({"sessions": SessionSpec(tool_time="1x")}, "sessions.tool_time: 'x' is no unit of time"),
        ({"priorities": (PriorityShare(0, 0),)}, r"priorities\[0\].share: expected float > 0"),
        ({"clients": 0}, "clients: expected int >= 1"),
    ],
)
def test_what_contradicts_itself_is_refused_at_once(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkloadError, match=message):
        generate(spec(**fields))


LENGTHS = ("--input-length", "10", "--output-length", "4", "--arrival", "all_at_once", "--num-requests", "40")


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        (("--turns", "3", "--think-time", "2s"), {"sessions": SessionSpec(turns=3), "think_time": "2s"}),
        (
            ("--turns", "uniform:1-4", "--think-time", "exponential:mean=2s"),
            {"sessions": SessionSpec(turns=UniformLength(1, 4)), "think_time": ExponentialDuration("2s")},
        ),
        (
            ("--calls-per-turn", "3", "--tool-time", "uniform:1s-2.5s", "--tool-length", "uniform:5-9"),
            {
                "sessions": SessionSpec(
                    calls_per_turn=3, tool_time=UniformDuration("1s", "2.5s"), tool_length=UniformLength(5, 9)
                )
            },
        ),
        (("--turns", "2", "--no-history"), {"sessions": SessionSpec(turns=2, history=False)}),
        (
            ("--clients", "4", "--think-time", "lognormal:median=2s,sigma=1"),
            {"clients": 4, "think_time": LognormalDuration(1.0, median="2s")},
        ),
        (
            ("--priorities", "0=0.25,5=0.75", "--models", "org/a=3,org/b=1"),
            {
                "priorities": (PriorityShare(0, 0.25), PriorityShare(5, 0.75)),
                "models": (ModelShare("org/a", 3), ModelShare("org/b", 1)),
            },
        ),
        (("--patience", "exponential:mean=500ms"), {"patience": ExponentialDuration("500ms")}),
    ],
)
def test_the_command_line_says_what_the_specification_says(
    options: tuple[str, ...], fields: dict[str, Any], cli: Callable[..., Any], tmp_path: Path
) -> None:
    answer = cli("workload", "generate", "--output", tmp_path / "a.jsonl", *LENGTHS, *options)
    assert (answer.code, answer.out) == (0, f"40 requests: {tmp_path / 'a.jsonl'}\n")
    assert list(read_jsonl(tmp_path / "a.jsonl")) == list(generate(spec(40, arrival=ArrivalSpec(), **fields)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--think-time", "gamma:mean=2s", "--clients", "1"),
            "a time or one of exponential, lognormal, uniform",
        ),
        (("--priorities", "high"), "expected PRIORITY=SHARE"),
        (("--models", "a=much"), r"models\[0\].share: expected float, got 'much'"),
        (("--turns", "few"), "--turns few: expected a number or one of"),
        (("--think-time", "2s"), "think_time needs sessions or clients"),
    ],
)
def test_wrong_options_are_explained(
    options: tuple[str, ...], message: str, cli: Callable[..., Any], tmp_path: Path
) -> None:
    import re

    answer = cli("workload", "generate", "--output", tmp_path / "a.jsonl", *LENGTHS, *options)
    assert answer.code == 2
    assert re.search(message, answer.err), answer.err


def test_a_stream_of_sessions_is_not_held() -> None:
    """A workload of a billion calls begins at once."""
    made = spec(10**9, sessions=SessionSpec(turns=3))
    assert len(list(islice(generate(made), 5))) == 5
