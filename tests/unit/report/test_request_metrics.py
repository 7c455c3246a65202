"""Where the time of a request goes, by hand: every iteration takes a millisecond."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmservingsim import Run, SimulationResult, simulate
from llmservingsim.errors import ConfigError
from llmservingsim.report import RequestMetrics
from llmservingsim.report.request_metrics import METRIC_COLUMNS
from llmservingsim.report.token_gaps import sorted_by_owner
from llmservingsim.workload import RequestSpec

MS = 1_000_000
PHASES = ("queueing_ms", "prefill_ms", "transfer_stall_ms", "transfer_ms", "decode_ms")
MODEL, OTHER = "meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.1-8B"
BASE = {"model": MODEL, "hardware": "H100", "num_gpu_blocks": 101}


def config(*instances: dict[str, Any], **keys: Any) -> dict[str, Any]:
    serving = {"latency": {"source": "constant_latency:Constant"}, "async_scheduling": False, "enforce_eager": True}
    network = {"topology": "Switch", "bandwidth": "1GB/s", "latency": "500ns"}
    listed = [BASE | own for own in instances or ({},)]
    return {"nodes": [{"instances": listed}], "serving": serving, "network": network, **keys}


def phases(row: RequestMetrics) -> tuple[float | None, ...]:
    return tuple(getattr(row, phase) for phase in PHASES)


def test_one_sequence_at_a_time_waits_prefills_and_decodes() -> None:
    """Two requests of 3 tokens, one behind the other: the second waits 3 ms, less half a millisecond."""
    asked = [RequestSpec(0, 0, 10, 3), RequestSpec(1, MS // 2, 10, 3)]
    first, second = simulate(config({"max_num_seqs": 1}), asked).request_metrics
    assert phases(first) == (0.0, 1.0, 0.0, 0.0, 2.0)
    assert phases(second) == (2.5, 1.0, 0.0, 0.0, 2.0)
    assert (second.path, second.ttft_ms, second.e2e_ms, second.tpot_ms) == ("0", 3.5, 5.5, 1.0)
    assert (second.itl_mean_ms, second.itl_p50_ms, second.itl_max_ms) == (1.0, 1.0, 1.0)


def test_a_request_knows_the_gaps_that_a_preemption_tears() -> None:
    """Blocks of 16 for 2 requests of 17 tokens, which soon need a fifth; the later one waits for the other's end."""
    asked = [RequestSpec(0, 0, 17, 20), RequestSpec(1, 0, 17, 20)]
    first, second = simulate(config({"num_gpu_blocks": 6}), asked).request_metrics
    assert (first.preemptions, first.recomputed_tokens, first.itl_max_ms) == (0, 0, 1.0)
    assert second.preemptions == 1
    gaps = 19 - 1
    assert second.itl_max_ms == pytest.approx((second.decode_ms or 0) - gaps)
    assert second.itl_p50_ms == 1.0
    assert second.recomputed_tokens == 32  # 17 and 15 of the answer, at the 33rd of which both need a third block


@pytest.mark.parametrize("first_token", ["prefill", "decode"])
def test_over_two_sides_the_transfer_stands_between(first_token: str) -> None:
    """1 ms for the prompt; 100 tokens of 32,768 bytes at 1 byte/ns and 1,000 ns; one token per ms from there."""
    sides = ({"kv_role": "kv_producer"}, {"kv_role": "kv_consumer"})
    made = config(*sides, kv_transfer={"first_token": first_token, "proxy_latency": "20us"})
    result = simulate(made, [RequestSpec(0, 0, 100, 4)])
    (row,) = result.request_metrics
    (crossed,) = result.transfers
    assert (row.path, row.queueing_ms, row.prefill_ms) == ("0>1", 0.0, 1.0)
    assert row.transfer_stall_ms == (crossed.start_ns - MS) / MS == 0.02
    assert row.transfer_ms == (crossed.end_ns - crossed.start_ns) / MS == pytest.approx(3.2778)
    assert row.decode_ms == pytest.approx(3.0 if first_token == "prefill" else 4.0)
    assert row.ttft_ms == pytest.approx(1.0 if first_token == "prefill" else 1.02 + 3.2778 + 1)
    assert row.itl_max_ms == pytest.approx(0.02 + 3.2778 + 1 if first_token == "prefill" else 1.0)
    assert row.itl_p50_ms == 1.0


def test_requests_that_come_to_nothing_have_what_had_ended() -> None:
    asked = [RequestSpec(0, 0, 10, 9, abort_after_ns=3 * MS + 1), RequestSpec(1, 0, 5000, 9)]
    aborted, rejected = simulate(config(slo={"ttft": "1s"}), asked).request_metrics
    assert phases(aborted) == (0.0, 1.0, None, None, None)
    assert (aborted.status, aborted.path, aborted.itl_max_ms, aborted.e2e_ms) == ("aborted", "0", 1.0, None)
    assert phases(rejected) == (None,) * 5
    assert (rejected.path, rejected.itl_max_ms) == ("", None)
    assert [row.slo for row in (aborted, rejected)] == [{"ttft": False, "all": False}] * 2


def goals(**slo: Any) -> SimulationResult:
    """Three requests on one place: TTFTs of 1, 3 and 5 ms, and 2 tokens each; and one that is rejected."""
    asked = [*(RequestSpec(i, 0, 10, 2) for i in range(3)), RequestSpec(3, 0, 5000, 2)]
    return simulate(config({"max_num_seqs": 1}, slo=slo), asked)


def test_attainment_is_told_per_limit() -> None:
    result = goals(ttft="3ms", itl="1ms", e2e="2ms")
    goodput = result.summary["goodput"]
    assert goodput["limits"] == {
        "ttft": {"missed": 2, "attainment_pct": 50.0},
        "itl": {"missed": 1, "attainment_pct": 75.0},
        "e2e": {"missed": 3, "attainment_pct": 25.0},
    }
    assert (goodput["requests"], goodput["good_requests"], goodput["attainment_pct"]) == (4, 1, 25.0)
    assert goodput["requests_per_s"] == pytest.approx(1 / 0.006)
    assert goodput["output_tokens_per_s"] == pytest.approx(2 / 0.006)
    assert result.summary["instances"][0]["goodput"] == {
        key: value for key, value in goodput.items() if key not in ("slo", "percentiles")
    }


def test_a_limit_over_all_requests_holds_or_does_not() -> None:
    found = goals(percentiles={"ttft_p50": "3ms", "ttft_mean": "2.9ms", "itl_p99": "1ms"}).summary["goodput"]
    assert [(of["statistic"], of["value_ms"], of["is_kept"]) for of in found["percentiles"]] == [
        ("ttft_p50", 3.0, True),
        ("ttft_mean", 3.0, False),
        ("itl_p99", 1.0, True),
    ]


def test_the_first_section_that_fits_a_request_holds() -> None:
    instances = ({}, {"model": OTHER})
    slo = [{"model": OTHER, "ttft": "1us"}, {"priority": 5, "e2e": "1us"}, {"model": MODEL, "ttft": "1s"}]
    models = (OTHER, MODEL, MODEL)
    asked = [RequestSpec(i, 0, 10, 2, model=model, priority=5 * (i == 1)) for i, model in enumerate(models)]
    result = simulate(config(*instances, slo=slo), asked)
    assert [row.slo for row in result.request_metrics] == [
        {"ttft": False, "all": False},
        {"e2e": False, "all": False},
        {"ttft": True, "all": True},
    ]
    per_model = {entry["model"]: entry for entry in result.summary["models"]}
    assert {name: entry["goodput"]["good_requests"] for name, entry in per_model.items()} == {MODEL: 1, OTHER: 0}
    assert {name: entry["requests"]["finished"] for name, entry in per_model.items()} == {MODEL: 2, OTHER: 1}


@pytest.mark.parametrize(
    ("slo", "message"),
    [
        ([{"model": "meta-llama/Llama-3.2-1", "ttft": "1s"}], r"slo\[0\].model: nobody serves .*did you mean"),
        ({"percentiles": {"ttft_q99": "1s"}}, "'ttft_q99' is none; expected ttft, tpot, itl or e2e"),
        ({"percentiles": {"ttft_p101": "1s"}}, "'ttft_p101' is none"),
        ({"percentiles": {"ttft_p99": "1"}}, "percentiles: ttft_p99: "),
        ({"itl": "0ns"}, "itl: expected more than 0"),
    ],
)
def test_limits_that_make_no_sense_are_refused(slo: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Run(config(slo=slo), [RequestSpec(0, 0, 10, 2)])


def test_an_instance_is_busy_while_a_batch_is_in_flight() -> None:
    """2 requests together for 2 ms, 6 ms of nothing, one for 2 ms: 4 of 10 ms; 10 + 10, 2, 10, 1 tokens."""
    asked = [RequestSpec(0, 0, 10, 2), RequestSpec(1, 0, 10, 2), RequestSpec(2, 8 * MS, 10, 2)]
    (told,) = simulate(config(), asked).summary["instances"]
    assert told["busy_pct"] == pytest.approx(40.0)
    assert told["batch"] == {"mean_sequences": 6 / 4, "mean_tokens": 33 / 4}
    assert told["kv_usage"] == {"mean_pct": pytest.approx((2 * 2 + 1 * 2) / 10), "max_pct": 2.0}
    assert told["requests"] == {"handed_on": 0, "finished": 3, "aborted": 0, "rejected": 0}
    assert told["tokens"] == {"prompt": 30, "cached": 0, "output": 6}


def test_the_file_has_what_the_rows_have(tmp_path: Path) -> None:
    result = goals(ttft="3ms")
    path = next(p for p in result.write(tmp_path) if p.name == "request_metrics.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["slo_ttft"] for row in rows] == ["true", "true", "false", "false"]
    assert [row["queueing_ms"] for row in rows] == ["0.0", "2.0", "4.0", ""]
    assert list(rows[0]) == [*METRIC_COLUMNS, "slo_ttft", "slo_all"]


def test_gaps_too_long_for_the_fast_way_are_sorted_too() -> None:
    owners = np.array([1, 0, 1, 0, 1])
    for unit in (1, 2**61 // 5):
        gaps = np.array([5, 4, 3, 2, 1]) * unit
        assert sorted_by_owner(owners, gaps).tolist() == [2 * unit, 4 * unit, unit, 3 * unit, 5 * unit]
