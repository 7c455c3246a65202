"""Small scenarios whose whole tables are checked in; ``pytest --update-golden tests/golden`` writes them anew.

A change here is not wrong, but somebody has to mean it: theory and measured runs say what is right.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmservingsim import SimulationResult, simulate
from llmservingsim.workload import ArrivalSpec, GeneratorSpec, PrefixSpec, UniformLength

FOLDER = Path(__file__).parent
SIZE_MAX_BYTES = 50_000
TABLES = ("requests.csv", "timeseries.csv")

Clusters = Callable[..., dict[str, Any]]


def prefix_sharing_and_preemption(clusters: Clusters) -> SimulationResult:
    """One instance of 512 tokens of KV: prompts share three prefixes of 40 tokens, decodes preempt each other."""
    data = clusters(timeseries_interval="20ms")
    data["nodes"][0]["instances"][0].update(num_gpu_blocks=33)
    workload = GeneratorSpec(
        60,
        UniformLength(1, 60),
        UniformLength(1, 90),
        arrival=ArrivalSpec("poisson", {"request_rate": 300.0}),
        prefix=PrefixSpec(3, 40),
        token_ids=True,
        seed=11,
    )
    return simulate(data, workload)


def two_instances_least_loaded(clusters: Clusters) -> SimulationResult:
    """Two unequal instances on two nodes behind the least-loaded router; bursts, and max_model_len cuts answers."""
    data = clusters(router="least_loaded", timeseries_interval="20ms")
    small = dict(data["nodes"][0]["instances"][0])
    data["nodes"].append({"instances": [small | {"tensor_parallel_size": 2, "max_num_seqs": 3}]})
    data["serving"]["max_model_len"] = 80
    arrival = ArrivalSpec("gamma", {"request_rate": 400.0, "burstiness": 0.3})
    workload = GeneratorSpec(80, UniformLength(5, 85), UniformLength(1, 40), arrival=arrival, seed=12)
    return simulate(data, workload)


def two_servers_and_their_power(clusters: Clusters) -> SimulationResult:
    """Two servers, one of which states what its parts draw; the devices of the other are the catalogue's."""
    data = clusters(timeseries_interval="20ms", power={})
    alone = dict(data["nodes"][0]["instances"][0])
    data["nodes"].append({"instances": [alone | {"tensor_parallel_size": 2}]})
    data["nodes"][0]["power"] = {
        "base": "219W",
        "accelerators": {alone["hardware"]: {"idle": "33W", "standby": "89W", "standby_duration": "30ms"}},
        "cpu": {"idle": "10W", "active": "185W", "utilisation": 0.5},
        "nic": {"idle": "11.2W"},
    }
    arrival = ArrivalSpec("poisson", {"request_rate": 30.0})
    workload = GeneratorSpec(12, UniformLength(5, 85), UniformLength(1, 40), arrival=arrival, seed=13)
    return simulate(data, workload)


SCENARIOS = [prefix_sharing_and_preemption, two_instances_least_loaded, two_servers_and_their_power]
Scenario = Callable[[Clusters], SimulationResult]


@pytest.fixture(params=SCENARIOS, ids=lambda scenario: scenario.__name__)
def scenario(request: pytest.FixtureRequest) -> Scenario:
    chosen: Scenario = request.param
    return chosen


def test_the_tables_are_those_that_are_checked_in(
    scenario: Scenario, clusters: Clusters, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    kept = FOLDER / scenario.__name__
    if pytestconfig.getoption("--update-golden"):
        kept.mkdir(exist_ok=True)
        for path in scenario(clusters).write(tmp_path):
            if path.name in TABLES:
                (kept / path.name).write_bytes(path.read_bytes())
    scenario(clusters).write(tmp_path)
    for name in TABLES:
        assert (tmp_path / name).read_text().splitlines() == (kept / name).read_text().splitlines(), name


def test_the_scenarios_hold_what_they_are_for(clusters: Clusters) -> None:
    first = prefix_sharing_and_preemption(clusters)
    assert sum(r.preemptions for r in first.requests) >= 5
    assert sum(r.cached_tokens > 0 for r in first.requests) >= 20
    power = [s.power_w for s in two_servers_and_their_power(clusters).timeseries if s.scope == "node:0"]
    assert len(set(power)) >= 5
    second = two_instances_least_loaded(clusters)
    assert {r.instance for r in second.requests} == {0, 1}
    assert {r.status for r in second.requests} == {"finished", "rejected"}
    assert sum(r.prompt_tokens + r.output_tokens == 80 for r in second.requests if r.status == "finished") >= 5


def test_the_laws_of_records_hold(scenario: Scenario, clusters: Clusters) -> None:
    result = scenario(clusters)
    requests = result.summary["requests"]
    assert requests["arrived"] == requests["finished"] + requests["rejected"] + requests["held"] == len(result.requests)
    assert requests["held"] == 0
    assert [r.request_id for r in result.requests] == list(range(len(result.requests)))
    for r in result.requests:
        if r.status == "rejected":
            assert (r.scheduled_ns, r.first_token_ns, r.finish_ns) == (None, None, None)
            continue
        assert r.scheduled_ns is not None
        assert r.first_token_ns is not None
        assert r.finish_ns is not None
        assert r.arrival_ns <= r.scheduled_ns < r.first_token_ns <= r.finish_ns
        assert (r.finish_ns == r.first_token_ns) is (r.output_tokens == 1)
        assert 0 <= r.cached_tokens < r.prompt_tokens
        assert r.cached_tokens % 16 == 0


def test_the_time_series_adds_up(scenario: Scenario, clusters: Clusters) -> None:
    """Scopes are sums of the scopes below them, rates times the interval are the tokens, the last state is empty."""
    result = scenario(clusters)
    samples = result.timeseries
    generated = sum(r.output_tokens for r in result.requests if r.status == "finished")
    for kind in ("cluster", "node:", "instance:"):
        rates = [s.generation_tokens_per_s for s in samples if s.scope.startswith(kind)]
        assert sum(rates) * 0.02 == pytest.approx(generated)
        for state in ("running", "waiting", "npu_memory_bytes"):
            by_time: dict[float, int] = {}
            for s in samples:
                if s.scope.startswith(kind):
                    by_time[s.time_s] = by_time.get(s.time_s, 0) + getattr(s, state)
            assert list(by_time.values()) == [getattr(s, state) for s in samples if s.scope == "cluster"]
    last = samples[-1]
    assert (last.running, last.waiting) == (0, 0)
    assert last.time_s - 0.02 < result.summary["simulated_s"] <= last.time_s


def test_the_checked_in_files_are_small() -> None:
    files = list(FOLDER.rglob("*.csv"))
    assert len(files) == len(SCENARIOS) * len(TABLES)
    assert sum(path.stat().st_size for path in files) < SIZE_MAX_BYTES
