"""Queueing laws: an engine that serves one request at a time, in constant time, under Poisson arrivals is M/D/1."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from constant_latency import ITERATION_NS, TOKEN_NS

from llmservingsim import Run, SimulationResult, simulate
from llmservingsim.workload import ArrivalSpec, FixedLength, GeneratorSpec, RequestSpec, UniformLength

Clusters = Callable[..., dict[str, Any]]

SERVICE_S = ITERATION_NS / 1e9
UTILISATION = 0.6
NUM_REQUESTS = 24_000
NUM_BATCHES = 20
STUDENT_T_99 = 2.861
"""Two-sided 99 % quantile of Student's t with 19 degrees of freedom, for 20 batch means."""


def constant(clusters: Clusters, source: str = "Constant", **instance: Any) -> dict[str, Any]:
    """One synchronous, eager engine whose iterations take a time known by hand."""
    latency = {"source": f"constant_latency:{source}"}
    data = clusters(serving={"async_scheduling": False, "enforce_eager": True, "latency": latency})
    data["nodes"][0]["instances"][0].update(instance)
    return data


def poisson(rate_per_s: float, prompt: int = 20, seed: int = 3) -> GeneratorSpec:
    arrival = ArrivalSpec("poisson", {"request_rate": rate_per_s})
    return GeneratorSpec(NUM_REQUESTS, FixedLength(prompt), FixedLength(1), arrival=arrival, seed=seed)


@pytest.fixture(scope="module")
def single_server(clusters: Clusters) -> SimulationResult:
    """One request at a time, each one iteration of a millisecond, at 60 % utilisation."""
    return simulate(constant(clusters, max_num_seqs=1), poisson(UTILISATION / SERVICE_S))


def batch_means(values: Any) -> tuple[float, float]:
    """Mean and half-width of its 99 % confidence interval, from means of batches long against the correlation time."""
    means = np.array([batch.mean() for batch in np.array_split(np.asarray(values, dtype=float), NUM_BATCHES)])
    return float(means.mean()), STUDENT_T_99 * float(means.std(ddof=1)) / math.sqrt(NUM_BATCHES)


def test_the_mean_wait_is_pollaczek_and_khinchines(single_server: SimulationResult) -> None:
    """M/D/1: W = rho * D / (2 * (1 - rho)), here 0.75 ms."""
    requests = single_server.requests
    waits_s = [(r.scheduled_ns - r.arrival_ns) / 1e9 for r in requests if r.scheduled_ns is not None]
    assert len(waits_s) == NUM_REQUESTS
    mean, half_width = batch_means(waits_s)
    expected = UTILISATION * SERVICE_S / (2 * (1 - UTILISATION))
    assert half_width < 0.15 * expected  # else the test could not fail
    assert abs(mean - expected) <= half_width


def test_the_share_of_arrivals_that_need_not_wait_is_the_idle_share(single_server: SimulationResult) -> None:
    """Poisson arrivals see time averages: an arrival finds the server idle with probability 1 - rho."""
    is_free = [r.scheduled_ns == r.arrival_ns for r in single_server.requests]
    mean, half_width = batch_means(is_free)
    assert half_width < 0.05
    assert abs(mean - (1 - UTILISATION)) <= half_width


def test_service_is_first_come_first_served_without_a_gap(single_server: SimulationResult) -> None:
    """Lindley's recursion, exactly: a request starts when it has arrived and the one before has ended."""
    free_ns = 0
    for request in single_server.requests:
        start_ns = max(free_ns, request.arrival_ns)
        free_ns = start_ns + ITERATION_NS
        assert (request.scheduled_ns, request.first_token_ns, request.finish_ns) == (start_ns, free_ns, free_ns)


def test_work_is_conserved(clusters: Clusters) -> None:
    """Whatever is batched with what, the busy time is the sum of the tokens' times."""
    arrival = ArrivalSpec("poisson", {"request_rate": 8_000.0})
    workload = GeneratorSpec(3_000, UniformLength(1, 60), UniformLength(1, 8), arrival=arrival, seed=9)
    run = Run(constant(clusters, "PerToken", num_gpu_blocks=1000), workload)
    busy = Busy()
    run.system.instances[0].listener = busy
    requests = run.execute().requests
    assert sum(r.preemptions for r in requests) == 0
    tokens = sum(r.prompt_tokens + r.output_tokens - 1 for r in requests)  # the last token is not computed
    assert busy.busy_ns == tokens * TOKEN_NS
    assert run.result().summary["iterations"] < len(requests) * 8  # batches did form


class Busy:
    """Adds up the time in which an instance runs an iteration."""

    def __init__(self) -> None:
        self.busy_ns = 0
        self._start_ns: list[int] = []
        self._last_end_ns = 0

    def submitted(self, execution: object, now_ns: int) -> None:
        self._start_ns.append(now_ns)

    def ended(self, execution: object, now_ns: int) -> None:
        self.busy_ns += now_ns - max(self._start_ns.pop(0), self._last_end_ns)
        self._last_end_ns = now_ns


@pytest.mark.parametrize("is_async", [False, True])
def test_littles_law_holds_for_what_the_time_series_shows(clusters: Clusters, is_async: bool) -> None:
    """L = lambda * W, on a whole busy period: samples every 100 us against the requests' own times.

    The count is sampled, so its mean differs from the exact one by about one part in the number of independent samples;
    3 % is three times what four seeds differ by.
    """
    data = constant(clusters, num_gpu_blocks=1000)
    data["timeseries_interval"] = "100us"
    data["serving"]["async_scheduling"] = is_async
    arrival = ArrivalSpec("poisson", {"request_rate": 900.0})
    workload = GeneratorSpec(2_000, FixedLength(30), FixedLength(4), arrival=arrival, seed=4)
    result = simulate(data, workload)
    held = [s.running + s.waiting for s in result.timeseries if s.scope == "cluster"]
    time_in_system_ns = sum(r.finish_ns - r.arrival_ns for r in result.requests if r.finish_ns is not None)
    expected = time_in_system_ns / 1e9 / result.summary["simulated_s"]
    assert np.mean(held) == pytest.approx(expected, rel=0.03)


def test_a_saturated_engine_decodes_a_full_batch_per_iteration(clusters: Clusters) -> None:
    """8 sequences, a token each per millisecond: 8,000 tokens/s; 8 prompts of 8 tokens fill a batch of 64 at first."""
    requests = [RequestSpec(i, 0, prompt_tokens=8, output_tokens=101) for i in range(16)]
    result = simulate(constant(clusters, num_gpu_blocks=1000), requests)
    # Two rounds of 8 requests, each one prefill that gives a token and 100 decodes, nothing between them.
    assert result.summary["iterations"] == 2 * 101
    assert result.summary["simulated_s"] == 2 * 101 * SERVICE_S
    assert result.summary["throughput"]["output_tokens_per_s"] == pytest.approx(8 / SERVICE_S)


def test_saturated_prefill_takes_the_token_budget_per_iteration(clusters: Clusters) -> None:
    """64 tokens per millisecond, chunks of several prompts in one batch: 40 prompts of 48 tokens are 30 iterations."""
    requests = [RequestSpec(i, 0, prompt_tokens=48, output_tokens=1) for i in range(40)]
    result = simulate(constant(clusters, num_gpu_blocks=1000), requests)
    assert result.summary["iterations"] == 40 * 48 // 64
    assert result.summary["throughput"]["prompt_tokens_per_s"] == pytest.approx(64 / SERVICE_S)
