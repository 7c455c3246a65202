"""Instances that start and stop under load: times worked out by hand.

An iteration takes 1 ms whatever it holds, and an instance serves one request at a time, so a request of n tokens takes
n ms from the moment at which it is scheduled.
"""

from typing import Any

import pytest
from scaled_milliseconds import LARGER, MODEL, MS, Recording, config, own, requests, section

from llmservingsim import Run, RunOptions, simulate
from llmservingsim.errors import DeadlockError
from llmservingsim.scaled_pool import PhaseChange
from llmservingsim.workload import RequestSpec, Session


def first_tokens_ms(run: Run) -> list[float]:
    return [(r.first_token_ns or 0) / MS for r in sorted(run.recorder.records, key=lambda r: r.request_id)]


def finished(data: dict[str, Any], workload: list[Any]) -> tuple[Run, dict[str, Any]]:
    run = Run(data, workload)
    result = run.execute()
    assert {r.status for r in result.requests} == {"finished"}
    return run, result.summary["autoscaling"]


def steps(summary: dict[str, Any]) -> list[tuple[float, int, int]]:
    return [(round(e["time_s"] * 1e3, 6), e["from"], e["to"]) for e in summary["events"]]


def phases(run: Run, pool: int = 0) -> list[tuple[float, int, str]]:
    assert run.system.autoscaler is not None
    changes: list[PhaseChange] = run.system.autoscaler.pools[pool].changes
    return [(c.time_ns / MS, c.instance, c.phase) for c in changes if c.time_ns]


def test_a_burst_calls_for_instances_which_take_over_what_is_held_and_then_drain() -> None:
    """Six requests of 20 ms at once; one may wait at an instance, the others are held.

    0: R0 runs on 0.  1: R1 waits there, 2 to 5 are held.  10: 6 requests, 2 each, want 3 instances; 1 and 2 start.
    20: R1 runs.  21: R2 waits at 0.  35: 1 and 2 are ready and take R3 and R4.  36: R5 waits at 1, whose turn it is.
    40: R2 runs on 0; 4 requests want 2 instances, so 2 drains.  50: 3 requests want 2.  55: R4 has ended and 2 stops;
    R5 runs on 1.  60: R2 has ended, one request wants one instance, and 1 drains until R5 has ended at 75.
    """
    admission = {"max_waiting_per_instance": 1, "policy": "queue"}
    data = config(3, section(options={"target": 2}), admission=admission)
    run, summary = finished(data, requests(*[0] * 6, output=20))
    assert first_tokens_ms(run) == [1, 21, 41, 36, 36, 56]
    assert steps(summary) == [(10, 1, 3), (40, 3, 2), (60, 2, 1)]
    assert phases(run) == [
        *((10, i, "starting") for i in (1, 2)),
        *((35, i, "active") for i in (1, 2)),
        (40, 2, "draining"),
        (55, 2, "stopped"),
        (60, 1, "draining"),
        (75, 1, "stopped"),
    ]
    assert summary["instances"] == [
        {"index": 0, "active_s": 0.075, "starting_s": 0, "draining_s": 0},
        {"index": 1, "active_s": 0.025, "starting_s": 0.025, "draining_s": 0.015},
        {"index": 2, "active_s": 0.005, "starting_s": 0.025, "draining_s": 0.015},
    ]
    (pool,) = summary["pools"]
    assert (pool["mean_active"], pool["max_active"]) == (pytest.approx(105 / 75), 3)
    assert pool["device_s"] == pytest.approx(0.075 + 0.065 + 0.045)
    assert summary["events"][0]["why"] == (
        "queue asked for 3: 1 active, 0 starting, 0 draining; 1 requests waiting, 1 running, 4 held"
    )


def test_the_last_instance_stops_and_starts_again_for_the_next_request() -> None:
    """3: held, asked at once; ready at 28.  32: done.  30 was the last time that one was wanted, so after 30 ms that
    answer no longer counts at 70.  200: held again; ready at 225.
    """
    data = config(1, section(min_instances=0, scale_down_delay="30ms"))
    run, summary = finished(data, requests(3, 200))
    assert first_tokens_ms(run) == [29, 226]
    assert steps(summary) == [(3, 0, 1), (70, 1, 0), (200, 0, 1)]
    assert run.recorder.end_ns == 229 * MS
    assert summary["pools"][0]["instance_s"] == {"active": 0.046, "starting": 0.05, "draining": 0}
    assert summary["events"][0]["why"].endswith("0 requests waiting, 0 running, 1 held")


def test_weights_are_loaded_by_all_devices_at_once() -> None:
    data = config(1, section(min_instances=0, start_up_delay="1ms", weight_load_bandwidth="10GB/s"))
    data["nodes"][0]["instances"][0]["tensor_parallel_size"] = 2
    run, _ = finished(data, requests(0, output=1))
    weights = run.system.instances[0].memory.weights_bytes
    assert weights > 10**9
    (record,) = run.recorder.records
    assert record.scheduled_ns == MS + round(weights / 10)


def test_an_instance_that_stopped_has_lost_its_prefix_cache() -> None:
    ids = tuple(range(100))
    workload = [RequestSpec(i, at * MS, 64, 2, ids) for i, at in enumerate((0, 5, 200))]
    run, _ = finished(config(1, section(min_instances=0)), workload)
    assert [r.cached_tokens for r in run.recorder.records] == [0, 48, 0]
    run.system.instances[0].engine.kv.pool.check([])


def test_an_instance_drains_until_its_cache_is_written_and_finds_it_there_again() -> None:
    """64 tokens of 32,768 bytes take 1.28 ms into a host memory of 1.6384 GB/s, from 1 on, when the batch ends."""
    data = config(1, section(min_instances=0, initial_instances=1, interval="1ms"))
    data["nodes"][0]["cpu_memory"] = {"size": "1GiB", "bandwidth": "1.6384GB/s"}
    data["serving"] |= {"prefix_storage": "cpu", "prefix_chunk_size": 32}
    ids = tuple(range(100))
    run, _ = finished(data, [RequestSpec(i, at * MS, 70, 1, ids) for i, at in enumerate((0, 200))])
    (drains, one, draining), (stops, other, stopped) = phases(run)[:2]
    assert (drains, one, draining, other, stopped) == (1, 0, "draining", 0, "stopped")
    assert stops == pytest.approx(2.28, rel=0.01)
    assert [r.cached_tokens for r in run.recorder.records] == [0, 64]


def test_a_start_up_that_nobody_waits_for_does_not_prolong_the_run() -> None:
    run, summary = finished(config(2, section(start_up_delay="1h", scale_down_delay="1s")), requests(0, 0, output=20))
    assert steps(summary) == [(10, 1, 2)]
    assert run.recorder.end_ns == 40 * MS
    assert summary["instances"][1] == {"index": 1, "active_s": 0, "starting_s": 0.03, "draining_s": 0}


def test_an_instance_given_up_while_it_starts_never_takes_a_request() -> None:
    """10: 1 starts.  20: it is given up.  30: it starts anew.  35: the first start ends.  55: the second does."""
    answers = own("Answers", answers=[2, 1, 2, 2, 2, 1])
    run, summary = finished(config(2, section() | answers), requests(*[0] * 3, 40, 56, output=20))
    assert steps(summary) == [(10, 1, 2), (20, 2, 1), (30, 1, 2), (60, 2, 1)]
    assert phases(run) == [
        (10, 1, "starting"),
        (20, 1, "stopped"),
        (30, 1, "starting"),
        (55, 1, "active"),
        (60, 1, "draining"),
        (76, 1, "stopped"),
    ]
    assert [r.instance for r in sorted(run.recorder.records, key=lambda r: r.request_id)] == [0, 0, 0, 0, 1]


def test_an_instance_that_drains_comes_back_only_after_it_has_stopped() -> None:
    """Requests of 50 ms run on 0 and 1.  20: 1 drains.  30: two are wanted, but 1 drains until 50.  75: it is ready."""
    answers = own("Answers", answers=[2, 1, 2])
    data = config(2, section(initial_instances=2) | answers)
    run, summary = finished(data, requests(0, 0, 60, 76, output=50))
    assert steps(summary) == [(20, 2, 1), (30, 1, 2)]
    assert phases(run) == [(20, 1, "draining"), (50, 1, "stopped"), (50, 1, "starting"), (75, 1, "active")]
    assert first_tokens_ms(run) == [1, 1, 61, 77]


def test_a_schedule_is_kept_to_the_nanosecond_whatever_the_interval_is() -> None:
    times = [{"at": "7us", "instances": 2}, {"at": "30003us", "instances": 1}]
    data = config(2, section("schedule", {"times": times, "period": "100ms"}, interval="1h"))
    run, summary = finished(data, requests(0, 26, 40, 150))
    assert steps(summary) == [(0.007, 1, 2), (30.003, 2, 1), (100.007, 1, 2), (130.003, 2, 1)]
    assert phases(run)[:4] == [
        (0.007, 1, "starting"),
        (25.007, 1, "active"),
        (30.003, 1, "draining"),
        (30.003, 1, "stopped"),
    ]
    assert [r.instance for r in run.recorder.records] == [0, 1, 0, 0]


def test_missed_limits_add_an_instance_and_kept_ones_give_it_up() -> None:
    """Requests of 8 ms come every 5 ms, which one instance cannot serve: TTFT grows by 3 ms from one to the next.

    10: R0 has ended, 1 ms.  20: R1 too, 1 + 3 ms, above the limit of 3 ms, so instance 1 starts and is ready at 45.
    """
    load = requests(*range(0, 100, 5), output=8)
    data = config(2, section("slo", {"ttft": "3ms"}, window="100ms"), router="least_loaded")
    run, summary = finished(data, [*load, *(RequestSpec(20 + i, (300 + 20 * i) * MS, 20, 8) for i in range(9))])
    assert steps(summary)[0] == (20, 1, 2)
    assert phases(run)[1] == (45, 1, "active")
    assert steps(summary)[-1][1:] == (2, 1)


def test_cached_keys_and_values_call_for_instances() -> None:
    """Two prompts of 4000 tokens and their answers hold 2 * 251 of 1000 blocks, and 0.502 / 0.3 is between 1 and 2."""
    data = config(3, section("kv_usage", {"target": 0.3}))
    data["serving"]["max_num_seqs"] = 2
    _, summary = finished(data, [RequestSpec(i, 0, 4000, 30) for i in range(2)])
    assert steps(summary)[0] == (10, 1, 2)
    assert summary["events"][0]["why"].startswith("kv_usage asked for 2")


def test_decode_instances_scale_by_themselves_and_hand_overs_wait_for_them() -> None:
    """1: the prompt is done and no decode instance runs, so one starts. 26: it does, and 20 tokens begin to cross."""
    sections = [section(role="kv_producer"), section(role="kv_consumer", min_instances=0)]
    data = config(0, sections, roles=["kv_producer", "kv_consumer"])
    run, summary = finished(data, requests(0, output=3))
    assert run.system.transfers is not None
    (moved,) = run.system.transfers.records
    assert (moved.handed_ns, moved.start_ns) == (1 * MS, 26 * MS)
    assert moved.end_ns == pytest.approx(26 * MS + 1000 + 20 * 32_768, abs=2)
    assert run.recorder.records[0].finish_ns == moved.end_ns + 2 * MS
    assert [(e["time_s"], e["role"], e["to"]) for e in summary["events"]] == [(0.001, "kv_consumer", 1)]


def test_a_prefill_instance_drains_until_its_blocks_have_crossed() -> None:
    """It is given up at 10, its prompt is done at 1, but the KV crosses only when the decode instance runs at 26."""
    sections = [
        section(role="kv_producer", initial_instances=1, min_instances=0) | own("Never"),
        section(role="kv_consumer", min_instances=0),
    ]
    data = config(0, sections, roles=["kv_producer", "kv_consumer"])
    run, _ = finished(data, requests(0, output=3))
    assert run.system.transfers is not None
    crossed_ms = run.system.transfers.records[0].end_ns / MS
    assert phases(run) == [(10, 0, "draining"), (crossed_ms, 0, "stopped")]


def test_each_model_has_instances_of_its_own() -> None:
    data = config(4, section(min_instances=0))
    for one in data["nodes"][0]["instances"][2:]:
        one["model"] = LARGER
    workload = [RequestSpec(0, 0, 20, 4, model=MODEL), RequestSpec(1, 2 * MS, 20, 4, model=LARGER)]
    run, summary = finished(data, workload)
    assert first_tokens_ms(run) == [26, 28]
    assert [(e["time_s"], e["model"], e["to"]) for e in summary["events"]] == [
        (0, MODEL, 1),
        (0.002, LARGER, 1),
        (0.03, MODEL, 0),
    ]


def test_a_model_without_a_section_runs_all_the_time() -> None:
    data = config(2, [section(min_instances=0, model=LARGER)])
    data["nodes"][0]["instances"][1]["model"] = LARGER
    workload = [RequestSpec(i, 0, 20, 4, model=model) for i, model in enumerate((MODEL, LARGER))]
    assert first_tokens_ms(finished(data, workload)[0]) == [1, 26]


def test_a_session_goes_on_on_an_instance_that_starts_for_each_call() -> None:
    calls = tuple(RequestSpec(i, 0, 20, 2) for i in range(3))
    run, _ = finished(config(1, section(min_instances=0)), [Session(calls, (100 * MS,) * 3)])
    assert first_tokens_ms(run) == [26, 153, 280]


def test_requests_are_held_for_want_of_an_instance_even_where_admission_rejects() -> None:
    """All four wait for the start; then the limit is none of theirs, since they were taken in."""
    data = config(1, section(min_instances=0), admission={"max_waiting_per_instance": 1})
    run, _ = finished(data, requests(0, 0, 0, 10, output=1))
    assert first_tokens_ms(run) == [26, 27, 28, 29]


@pytest.mark.parametrize(
    "options",
    [own("Never"), {"policy": "schedule", "options": {"times": [{"at": "0s", "instances": 0}], "period": "1s"}}],
)
def test_a_policy_that_never_starts_an_instance_ends_the_run_with_who_waits(options: dict[str, Any]) -> None:
    with pytest.raises(DeadlockError) as caught:
        simulate(config(1, section(min_instances=0) | options), requests(0, 5))
    for number in (0, 1):
        assert f"router: request {number} waits for an instance to start" in str(caught.value)
    assert f"autoscaling of {MODEL}: 2 requests are held" in str(caught.value)
    assert "0 active and 0 starting instances of at most 1" in str(caught.value)


def test_a_request_that_fits_no_instance_which_runs_starts_one_that_it_fits() -> None:
    """One instance of 4 blocks runs; 200 tokens fit the third alone. Two start in 25 ms; then they are given up."""
    data = config(3, section(min_instances=1, initial_instances=1, max_instances=3))
    for position, blocks in enumerate((5, 5, 1001)):
        data["nodes"][0]["instances"][position]["num_gpu_blocks"] = blocks
    run = Run(data, [RequestSpec(0, MS, 200, 4)])
    result = run.execute()
    (record,) = result.requests
    assert (record.instance, record.first_token_ns) == (2, 1 * MS + 25 * MS + 1 * MS)
    event = result.summary["autoscaling"]["events"][0]
    assert (event["from"], event["to"], event["why"]) == (1, 3, "a request is held that fits no instance which is up")


def test_hand_overs_that_no_decode_instance_will_take_are_named() -> None:
    sections = [section(role="kv_producer"), section(role="kv_consumer", min_instances=0) | own("Never")]
    with pytest.raises(DeadlockError, match=r"Request\(0.* waits for a decode instance to start"):
        simulate(config(0, sections, roles=["kv_producer", "kv_consumer"]), requests(0))


def test_a_stuck_instance_ends_the_run_though_policies_could_be_asked_for_ever() -> None:
    times = [{"at": "0s", "instances": 2}, {"at": "1ms", "instances": 1}]
    data = config(2, section("schedule", {"times": times, "period": "2ms"}, start_up_delay="0s"))
    data["serving"]["scheduler"] = "scaled_milliseconds:IdleScheduler"
    with pytest.raises(DeadlockError, match="instance 0: Request"):
        simulate(data, requests(0))


def test_a_policy_is_asked_until_it_has_seen_that_nothing_happens() -> None:
    """10: it sees the last token.  A window of 20 ms, a delay of 15 ms and two intervals of 10 ms more end at 65."""
    Recording.asked_ns.clear()
    finished(config(1, section(scale_down_delay="15ms") | own("Recording")), requests(0, 1000))
    assert [ns / MS for ns in Recording.asked_ns] == [10, 20, 30, 40, 50, 60, 1000]


def test_long_silence_costs_nothing() -> None:
    """Ten years at an interval of 10 ms would be 3e10 evaluations."""
    run, summary = finished(config(2, section(), timeseries_interval="1000h"), requests(0, 10 * 365 * 24 * 3.6e6))
    assert len(run.recorder.records) == 2
    assert summary["events"] == []


def test_a_plan_that_changes_all_the_time_is_given_up_in_silence_and_taken_up_again() -> None:
    """More than 10,000 planned changes of the first silence are too many; the one after the second request is made."""
    times = [{"at": "0s", "instances": 2}, {"at": "1ms", "instances": 1}]
    data = config(2, section("schedule", {"times": times, "period": "2ms"}, start_up_delay="0s"))
    run, summary = finished(data, requests(0, 60_000.5))
    assert len(run.recorder.records) == 2
    silent = [event for event in summary["events"] if 4e-3 < event["time_s"] < 60]
    assert 10_000 <= len(silent) <= 10_010
    assert summary["events"][-1]["time_s"] == pytest.approx(60.004)


def test_an_astra_sim_backend_starts_instances_too(stand_in: Any) -> None:
    from llmservingsim.astra_sim import AstraSimBackend
    from llmservingsim.backend.astra_binary import AstraSimBinary

    data = config(2, section(min_instances=0))
    data["nodes"][0]["instances"][0]["tensor_parallel_size"] = 2
    binary = AstraSimBinary(stand_in())
    options = RunOptions(backend=lambda network, system, memory: AstraSimBackend(network, system, memory, binary))
    run = Run(data, requests(0, output=1), options)
    run.execute()
    assert run.recorder.records[0].scheduled_ns == 25 * MS


def test_the_command_line_says_how_many_were_active(cli: Any, write_config: Any, write_lines: Any) -> None:
    trace = write_lines([{"input_toks": 20, "output_toks": 5, "arrival_time_ns": 0}])
    data = section(min_instances=0) | {"policy": "queue"}
    plain = config(2, data) | {"serving": {"max_num_seqs": 1}}
    said = cli("run", write_config(plain), "--workload", trace)
    assert said.code == 0, said.err
    assert "of 2 instances active on average, 1 at most" in " ".join(said.out.split())


def test_without_the_section_the_summary_has_none(clusters: Any) -> None:
    assert "autoscaling" not in simulate(clusters(2), requests(0)).summary
