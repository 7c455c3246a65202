"""Clients that give up: when, where the request is by then, and what comes free; times worked out by hand.

An iteration takes 1 ms whatever it holds. Llama-3.2-1B keeps 32,768 bytes per token; a link moves 1 byte per nanosecond
and costs 1,000 ns.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmservingsim import Run, simulate
from llmservingsim.errors import ConfigError, WorkloadError
from llmservingsim.report import RequestRecord
from llmservingsim.serving.routing import FinishedRequest, InstanceView, RoutedRequest
from llmservingsim.workload import RequestSpec, Session, read_jsonl

MS = 1_000_000


def config(*roles: str, serving: dict[str, object] | None = None, **keys: Any) -> dict[str, Any]:
    instance = {"model": "meta-llama/Llama-3.2-1B", "hardware": "H100"}
    options = {
        "latency": {"source": "constant_latency:Constant"},
        "enforce_eager": True,
        "async_scheduling": False,
        "num_gpu_blocks": 1001,
    }
    return {
        "nodes": [{"instances": [instance | {"kv_role": role} for role in roles or ("kv_both",)]}],
        "network": {"topology": "Switch", "bandwidth": "1GB/s", "latency": "500ns"},
        "serving": options | (serving or {}),
        "kv_transfer": {"first_token": "prefill", "get_finished": "at_end"},
        **keys,
    }


def request(number: int, prompt: int, output: int, patience_ms: float | None = None, at_ms: float = 0) -> RequestSpec:
    patience_ns = None if patience_ms is None else round(patience_ms * MS)
    return RequestSpec(number, round(at_ms * MS), prompt, output, abort_after_ns=patience_ns)


def run(spec: dict[str, Any], *requests: RequestSpec | Session) -> tuple[Run, list[RequestRecord]]:
    made = Run(spec, list(requests))
    result = made.execute()
    counts = result.summary["requests"]
    assert counts["arrived"] == counts["finished"] + counts["aborted"] + counts["rejected"] + counts["held"]
    for one in made.system.instances:
        assert (one.engine.kv.pool.num_held, one.engine.holds_requests) == (0, False)
    return made, result.requests


def in_ms(record: RequestRecord) -> tuple[str, float | None, float | None, float | None, int]:
    times = (None if t is None else t / MS for t in (record.scheduled_ns, record.first_token_ns, record.finish_ns))
    return (record.status, *times, record.output_tokens)  # type: ignore[return-value]


ONE_SEAT = {"max_num_seqs": 1}


def test_who_waits_too_long_for_the_first_token_leaves_the_queue() -> None:
    """Request 0 has its first token at 1 ms and ends at 5; 1 gives up at 3 ms, so 2 takes its turn."""
    spec = config(serving=ONE_SEAT, timeouts={"ttft": "3ms"})
    made, records = run(spec, request(0, 10, 5), request(1, 10, 5), request(2, 10, 1, at_ms=4))
    assert [in_ms(r) for r in records] == [
        ("finished", 0, 1, 5, 5),
        ("aborted", None, None, None, 0),
        ("finished", 5, 6, 6, 1),
    ]
    assert records[1].reason == "ttft"
    counts = made.result().summary["requests"]
    assert (counts["aborted"], counts["aborts"]) == (1, [{"reason": "ttft", "count": 1, "request_ids": [1]}])


@pytest.mark.parametrize(("asynchronous", "first_token_ms"), [(False, 6), (True, 7)])
def test_a_running_request_leaves_at_the_next_boundary_and_loses_the_tokens_in_flight(
    asynchronous: bool, first_token_ms: int
) -> None:
    """Request 0 has a token every ms and gives up at 4.5 ms. The batch that runs ends at 5 ms; then 1 takes its seat.

    With asynchronous scheduling another batch of request 0 stands ready by then, behind which 1 is computed.
    """
    spec = config(serving=ONE_SEAT | {"async_scheduling": asynchronous})
    _, records = run(spec, request(0, 10, 9, patience_ms=4.5), request(1, 10, 1))
    assert [in_ms(r) for r in records] == [
        ("aborted", 0, 1, None, 4),
        ("finished", 5, first_token_ms, first_token_ms, 1),
    ]
    assert records[0].reason == "abort_after_ns"


def test_what_ends_at_the_instant_of_the_deadline_has_ended() -> None:
    """Of two requests that get their fifth token at 5 ms, it is the last for one; the other has received it."""
    _, records = run(config(), request(0, 10, 5, patience_ms=5), request(1, 10, 6, patience_ms=5))
    assert [in_ms(r) for r in records] == [("finished", 0, 1, 5, 5), ("aborted", 0, 1, None, 5)]


def test_a_first_token_at_the_deadline_is_in_time_and_the_next_limit_holds() -> None:
    spec = config(timeouts={"ttft": "1ms", "e2e": "3ms"})
    _, records = run(spec, request(0, 10, 3), request(1, 10, 4))
    assert [in_ms(r) for r in records] == [("finished", 0, 1, 3, 3), ("aborted", 0, 1, None, 3)]
    assert records[1].reason == "e2e"


def test_at_a_boundary_the_seat_is_taken_at_that_instant() -> None:
    """At 4 ms a batch has just ended: request 0 leaves and 1 is scheduled before the clock moves."""
    _, records = run(config(serving=ONE_SEAT), request(0, 10, 9, patience_ms=4), request(1, 10, 1))
    assert [in_ms(r) for r in records] == [("aborted", 0, 1, None, 4), ("finished", 4, 5, 5, 1)]


def test_the_nearest_of_several_limits_counts() -> None:
    spec = config(timeouts={"ttft": "4ms", "e2e": "8ms"})
    _, records = run(spec, request(0, 10, 20), request(1, 10, 20, patience_ms=2.5), request(2, 10, 20, patience_ms=9))
    assert [(r.reason, r.output_tokens) for r in records] == [("e2e", 8), ("abort_after_ns", 2), ("e2e", 8)]


def test_one_that_the_router_holds_leaves_and_the_next_moves_up() -> None:
    """Of two seats, 0 has the running one, 1 waits at the instance, 2 and 3 are held. 2 gives up at 2 ms."""
    spec = config(serving=ONE_SEAT, admission={"max_waiting_per_instance": 1, "policy": "queue"})
    made, records = run(
        spec,
        request(0, 10, 3),
        request(1, 10, 3),
        request(2, 10, 3, patience_ms=2),
        request(3, 10, 3),
        request(4, 10, 1),
    )
    assert [in_ms(r)[:2] for r in records] == [
        ("finished", 0),
        ("finished", 3),
        ("aborted", None),
        ("finished", 6),
        ("finished", 9),
    ]
    assert made.recorder.num_open == 0


def test_a_preempted_request_leaves_the_queue() -> None:
    """Four blocks of 16, two prompts of 30: for a 33rd token, at 3 ms, 1 loses its blocks; at 4.5 ms it gives up."""
    spec = config(serving={"num_gpu_blocks": 5})
    _, records = run(spec, request(0, 30, 20), request(1, 30, 20, patience_ms=4.5))
    assert in_ms(records[0]) == ("finished", 0, 1, 20, 20)
    assert in_ms(records[1]) == ("aborted", 0, 1, None, 3)
    assert records[1].preemptions == 1


def test_its_blocks_are_found_again_by_their_contents() -> None:
    """The prompt of an aborted request was computed; the same prompt finds its full blocks."""
    ids = tuple(range(48))
    first = RequestSpec(0, 0, 40, 8, ids, abort_after_ns=2 * MS)
    _, records = run(config(), first, RequestSpec(1, 10 * MS, 40, 8, ids))
    assert [r.cached_tokens for r in records] == [0, 32]


def test_deadlines_that_never_come_change_nothing_and_do_not_keep_the_run_alive() -> None:
    requests = [request(i, 10 + i, 5 + i, at_ms=i / 3) for i in range(20)]
    plain = simulate(config(), requests)
    watched = simulate(config(timeouts={"ttft": "1h", "e2e": "146000h"}), requests)
    assert watched.requests == plain.requests
    assert watched.timeseries == plain.timeseries
    assert watched.summary["simulated_s"] == plain.summary["simulated_s"]


@pytest.mark.parametrize(("session", "statuses"), [("continue", ["aborted", "finished"]), ("end", ["aborted"])])
def test_a_session_goes_on_after_a_call_that_was_given_up_or_ends(session: str, statuses: list[str]) -> None:
    calls = (request(0, 10, 50), request(1, 10, 2))
    made, records = run(config(timeouts={"e2e": "4ms", "session": session}), Session(calls, (3 * MS, 0)))
    assert [r.status for r in records] == statuses
    assert [r.arrival_ns for r in records] == [0, 7 * MS][: len(records)]
    assert made.recorder.num_open == 0


# Prompts on instance 0, answers on instance 1: 100 tokens cross in 1,000 + 3,276,800 ns.
CROSSING_NS = 3_277_800
P_AND_D = ("kv_producer", "kv_consumer")


def watch_blocks(made: Run, at_ns: int) -> list[int]:
    """Run until the clock passes ``at_ns``; tell how many blocks each instance held from then on, first change last."""
    seen: list[int] = []
    clock_moved = made.recorder.clock_moved

    def look(now_ns: int) -> None:
        if now_ns > at_ns and not seen:
            seen.extend(i.engine.kv.pool.num_held for i in made.system.instances)
        clock_moved(now_ns)

    made.recorder.clock_moved = look  # type: ignore[method-assign]
    made.execute()
    return seen


def test_one_that_waits_for_its_prompt_is_known_to_the_prefill_side_alone() -> None:
    spec = config(*P_AND_D, serving=ONE_SEAT | {"max_num_batched_tokens": 50})
    _, records = run(spec, request(0, 200, 1), request(1, 100, 3, patience_ms=2.5), request(2, 50, 1))
    assert [in_ms(r) for r in records] == [
        ("finished", 0, 4, 4, 1),
        ("aborted", None, None, None, 0),
        ("finished", 4, 5, 5, 1),
    ]
    assert (records[1].instance, records[1].decode_instance) == (0, None)


def test_a_prompt_that_is_being_computed_is_not_handed_over() -> None:
    made, records = run(config(*P_AND_D), request(0, 100, 3, patience_ms=0.5))
    assert in_ms(records[0]) == ("aborted", 0, None, None, 0)
    assert made.system.transfers is not None
    assert made.system.transfers.records == []


def test_while_its_kv_crosses_both_sides_keep_their_blocks_until_it_has() -> None:
    """The first token is there at 1 ms; the client leaves at 2; the KV has crossed at 1 ms + CROSSING_NS."""
    spec = config(*P_AND_D)
    late = request(1, 10, 1, at_ms=50)
    held = watch_blocks(Run(spec, [request(0, 100, 3, patience_ms=2), late]), 2 * MS)
    assert held == [7, 7]
    held = watch_blocks(Run(spec, [request(0, 100, 3, patience_ms=2), late]), 1 * MS + CROSSING_NS + 2)
    assert held == [0, 0]
    made, records = run(spec, request(0, 100, 3, patience_ms=2))
    assert in_ms(records[0]) == ("aborted", 0, 1, None, 1)
    assert (records[0].instance, records[0].decode_instance) == (0, 1)
    assert made.system.transfers is not None
    assert [r.num_tokens for r in made.system.transfers.records] == [100]


def test_one_that_waits_on_the_decode_side_gives_the_prefill_side_its_blocks_back_at_once() -> None:
    """7 blocks there hold one prompt at a time. Request 0 decodes until 30 ms; 1 gives up before its KV crosses."""
    spec = config(*P_AND_D)
    spec["nodes"][0]["instances"][1]["num_gpu_blocks"] = 11
    requests = [request(0, 100, 30), request(1, 100, 30, patience_ms=9), request(2, 10, 1, at_ms=12)]
    assert watch_blocks(Run(spec, requests), 8 * MS) == [7, 7]
    assert watch_blocks(Run(spec, requests), 9 * MS) == [0, 7]
    made, records = run(spec, *requests)
    assert [r.status for r in records] == ["finished", "aborted", "finished"]
    assert made.system.transfers is not None
    assert [r.request_id for r in made.system.transfers.records] == [0]


def test_one_that_decodes_elsewhere_leaves_there() -> None:
    made, records = run(config(*P_AND_D), request(0, 100, 30, patience_ms=8), request(1, 100, 2, at_ms=20))
    assert (records[0].status, records[0].output_tokens) == ("aborted", 1 + 3)  # decodes from 4.2778 ms on
    assert made.system.transfers is not None
    assert [r.request_id for r in made.system.transfers.records] == [0, 1]


def test_a_place_in_the_queue_that_comes_free_is_reported() -> None:
    """The prefill side, 8 blocks, idles: 7 hold the KV of request 0, which crosses until 4.3 ms, and 1 needs 7 more.

    Request 2 would fit, but one may wait. 1 gives up at 2.5 ms; the report at 3 ms says so.
    """
    limits = {"max_waiting_per_instance": 1, "policy": "queue"}
    spec = config(*P_AND_D, admission=limits, load_update_interval="1ms")
    spec["nodes"][0]["instances"][0]["num_gpu_blocks"] = 9
    _, records = run(spec, request(0, 100, 9), request(1, 100, 9, patience_ms=2.5), request(2, 10, 1, at_ms=1.5))
    assert [in_ms(r)[:2] for r in records] == [("finished", 0), ("aborted", None), ("finished", 3)]


drawn_requests = st.lists(
    st.tuples(st.integers(1, 150), st.integers(1, 40), st.integers(0, 30), st.none() | st.integers(1, 60_000)),
    min_size=1,
    max_size=25,
)


@given(drawn=drawn_requests, blocks=st.integers(14, 40), asynchronous=st.booleans(), shared=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whenever_clients_give_up_every_block_comes_back_on_both_sides(
    drawn: list[tuple[int, int, int, int | None]], blocks: int, asynchronous: bool, shared: bool
) -> None:
    """Two instances of each kind, few blocks, preemptions, prefix hits, KV on the way; a double release would raise."""
    spec = config("kv_producer", "kv_producer", "kv_consumer", "kv_consumer", "kv_both")
    spec["serving"] |= {"async_scheduling": asynchronous, "num_gpu_blocks": blocks}
    requests = [
        RequestSpec(
            i,
            at * MS,
            prompt,
            output,
            tuple(range(prompt + output)) if shared else None,
            abort_after_ns=None if patience_us is None else patience_us * 1000,
        )
        for i, (prompt, output, at, patience_us) in enumerate(drawn)
    ]
    made, records = run(spec, *sorted(requests, key=lambda r: r.arrival_ns))
    assert len(records) == len(drawn)
    for record in records:
        _, output, at, patience_us = drawn[record.request_id]
        given_up_ns = None if patience_us is None else at * MS + patience_us * 1000
        if record.status == "finished":
            assert record.output_tokens == output
            assert given_up_ns is None or (record.finish_ns or 0) <= given_up_ns
        else:
            assert record.status == "aborted"
            assert record.output_tokens < output
            assert (record.first_token_ns is not None) == (record.output_tokens > 0)
            assert (record.first_token_ns or 0) <= (given_up_ns or 0)
    for one in made.system.instances:
        one.engine.kv.pool.check([])


class Bookkeeper:
    """A router that keeps account of what is under way at each instance."""

    def __init__(self) -> None:
        self.under_way: list[int] = [0, 0]

    def route(self, request: RoutedRequest, instances: list[InstanceView]) -> int:
        position = self.under_way.index(min(self.under_way))
        self.under_way[instances[position].index] += 1
        return position

    def finished(self, request: FinishedRequest) -> None:
        self.under_way[request.index] -= 1

    def aborted(self, request_id: int, index: int) -> None:
        self.under_way[index] -= 1


def test_routers_that_keep_account_hear_of_it() -> None:
    spec = config("kv_both", "kv_both", router=f"{__name__}:Bookkeeper")
    made, records = run(spec, *(request(i, 10, 9, patience_ms=2.5 if i % 3 else None, at_ms=i) for i in range(20)))
    assert {r.status for r in records} == {"finished", "aborted"}
    assert made.system.router.under_way == [0, 0]  # type: ignore[attr-defined]


def test_the_router_that_counts_pending_prompts_takes_those_of_aborted_requests_off() -> None:
    """Request 0, of 900 tokens, is given up at 2.5 ms; at 3 ms both instances have nothing pending but 1's 100."""
    spec = config("kv_both", "kv_both", router="expected_time")
    _, records = run(spec, request(0, 900, 50, patience_ms=2.5), request(1, 100, 50), request(2, 10, 2, at_ms=3))
    assert [r.instance for r in records] == [0, 1, 0]


def test_the_router_of_the_decode_side_hears_of_it_too() -> None:
    """Request 0 gives up at instance 1. So request 2 finds nothing pending there, but 100 tokens at instance 2."""
    spec = config("kv_producer", "kv_consumer", "kv_consumer", decode_router="expected_time")
    _, records = run(spec, request(0, 900, 90, patience_ms=50), request(1, 100, 90), request(2, 10, 2, at_ms=60))
    assert [(r.status, r.decode_instance) for r in records] == [("aborted", 1), ("finished", 2), ("finished", 1)]


def test_a_trace_states_when_a_client_leaves(tmp_path: Any) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        '{"input_toks": 10, "output_toks": 9, "arrival_time_ns": 0, "abort_after_ns": 2500000}\n'
        '{"session_id": "a", "arrival_time_ns": 0, "sub_requests": [{"input_toks": 10, "output_toks": 9, '
        '"tool_duration_ns": 5, "abort_after_ns": 1500000}, {"input_toks": 10, "output_toks": 1}]}\n'
    )
    records = simulate(config(), path).requests
    assert [(r.status, r.output_tokens) for r in records] == [("aborted", 2), ("aborted", 1), ("finished", 1)]
    assert records[2].arrival_ns == 1_500_005


@pytest.mark.parametrize("value", ["0", "-1", "1.5", '"2ms"'])
def test_a_patience_that_is_none_is_refused(tmp_path: Any, value: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(f'{{"input_toks": 1, "output_toks": 1, "arrival_time_ns": 0, "abort_after_ns": {value}}}\n')
    with pytest.raises(WorkloadError, match=r"trace\.jsonl:1: abort_after_ns: expected int"):
        list(read_jsonl(path))


def test_a_program_is_told_likewise() -> None:
    with pytest.raises(WorkloadError, match="request 0: abort_after_ns: expected int >= 1, got 0"):
        simulate(config(), [request(0, 10, 1, patience_ms=0)])


@pytest.mark.parametrize(
    ("timeouts", "message"),
    [
        ({"ttft": "0s"}, "ttft: expected more than 0"),
        ({"e2e": "soon"}, "e2e: expected a time with its unit"),
        ({"tfft": "1s"}, "did you mean 'ttft'"),
        ({"session": "stop"}, "expected one of continue, end"),
    ],
)
def test_limits_that_make_no_sense_are_refused(timeouts: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(config(timeouts=timeouts), [request(0, 1, 1)])
