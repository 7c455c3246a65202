"""The library's front door."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

import llmservingsim
from llmservingsim import Run, RunOptions, SimulationResult, simulate
from llmservingsim.config import load_run
from llmservingsim.config.catalog import find_accelerator
from llmservingsim.errors import ConfigError, DeadlockError, UserError, WorkloadError
from llmservingsim.workload import ArrivalSpec, FixedLength, GeneratorSpec, RequestSpec, Session, generate

SPEC = GeneratorSpec(12, FixedLength(20), FixedLength(4))
REQUESTS = [RequestSpec(i, i * 1_000_000, 20, 5) for i in range(20)]


def key(result: SimulationResult) -> list[object]:
    return [(r.request_id, r.finish_ns) for r in result.requests]


def test_the_package_offers_what_it_lists() -> None:
    assert all(getattr(llmservingsim, name) is not None for name in llmservingsim.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'simulat'"):
        _ = llmservingsim.simulat  # type: ignore[attr-defined]


def test_a_file_its_contents_and_a_spec_give_the_same_run(config: Path, cluster: dict[str, Any], trace: Path) -> None:
    results = [simulate(c, trace) for c in (config, str(config), cluster, load_run(config)[0])]
    assert len(results[0].requests) == 20
    assert all(key(result) == key(results[0]) for result in results)


def test_a_trace_and_its_requests_give_the_same_run(cluster: dict[str, Any], trace: Path) -> None:
    assert (
        key(simulate(cluster, trace)) == key(simulate(cluster, REQUESTS)) == key(simulate(cluster, reversed(REQUESTS)))
    )


def test_a_generator_gives_what_its_requests_give(cluster: dict[str, Any]) -> None:
    assert key(simulate(cluster, SPEC)) == key(simulate(cluster, generate(SPEC)))


def test_the_limit_counts_the_calls_of_sessions_by_arrival(cluster: dict[str, Any]) -> None:
    calls = tuple(RequestSpec(i, 5, 20, 2) for i in range(1, 4))
    found = simulate(cluster, [Session(calls, (0, 0, 0)), RequestSpec(0, 0, 20, 2)], num_requests=3).requests
    assert [r.request_id for r in found] == [0, 1, 2]


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_number_of_requests_is_limited_whatever_the_workload(
    cluster: dict[str, Any], trace: Path, limit: int
) -> None:
    for workload in (trace, SPEC, REQUESTS):
        assert len(simulate(cluster, workload, num_requests=limit).requests) == limit


def test_the_seed_of_the_options_wins_over_the_files(cluster: dict[str, Any]) -> None:
    assert simulate(cluster | {"seed": 1}, SPEC).summary["provenance"]["seed"] == 1
    assert simulate(cluster | {"seed": 1}, SPEC, seed=2).summary["provenance"]["seed"] == 2


def test_overrides_reach_dictionaries_too(cluster: dict[str, Any]) -> None:
    run = Run(cluster, SPEC, RunOptions(overrides=["nodes.0.instances.0.num_gpu_blocks=9"]))
    assert run.system.instances[0].memory.num_blocks == 9
    assert cluster["nodes"][0]["instances"][0]["num_gpu_blocks"] == 65  # the caller's data is as it was


def test_a_dictionary_in_the_other_format_is_known_as_such() -> None:
    memory = {"mem_size": 24, "mem_bw": 1008, "mem_util": 0.8}
    instance = {"model_name": "meta-llama/Llama-3.1-8B", "hardware": "RTX4090", "npu_mem": memory}
    result = simulate({"link_bw": [16, 8], "nodes": [{"instances": [instance | {"tp_size": 2}]}]}, SPEC)
    (note,) = result.summary["provenance"]["notes"]
    assert note.endswith("nothing is joined between instances of a node")


def test_wrong_contents_are_refused_by_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"config: unknown key 'sed' in a section \(did you mean 'seed'\?\)"):
        simulate(cluster | {"sed": 1}, SPEC)
    with pytest.raises(ConfigError, match="there is no workload"):
        simulate(cluster)
    with pytest.raises(WorkloadError, match="holds no request"):
        simulate(cluster, [])
    with pytest.raises(WorkloadError, match="two requests have the request_id 0"):
        simulate(cluster, [REQUESTS[0], REQUESTS[0]])
    with pytest.raises(TypeError, match="overides"):
        simulate(cluster, SPEC, overides=["seed=1"])


@pytest.mark.parametrize("option", ["profiles", "models"])
def test_a_library_that_is_no_folder_is_refused(cluster: dict[str, Any], option: str) -> None:
    with pytest.raises(UserError, match="nowhere: no such directory"):
        simulate(cluster, SPEC, **{option: ["nowhere"]})


def test_an_accelerator_of_ones_own_is_used(cluster: dict[str, Any], tmp_path: Path) -> None:
    half = msgspec.to_builtins(find_accelerator("H100"))
    del half["name"], half["aliases"]
    half["memory_bandwidth"] /= 2
    (tmp_path / "own.yaml").write_text(json.dumps({"Half-H100": half}))
    cluster["nodes"][0]["instances"][0]["hardware"] = "Half-H100"
    slow = simulate(cluster, SPEC, hardware=[tmp_path / "own.yaml"])
    cluster["nodes"][0]["instances"][0]["hardware"] = "H100"
    assert slow.summary["simulated_s"] > 1.2 * simulate(cluster, SPEC).summary["simulated_s"]


def test_progress_is_told_now_and_then(cluster: dict[str, Any]) -> None:
    seen: list[int] = []
    requests = [RequestSpec(i, 0, 20, 40) for i in range(64)]
    Run(cluster, requests, RunOptions(on_progress=lambda run: seen.append(len(run.recorder.records)))).execute()
    assert len(seen) >= 4
    assert seen == sorted(seen)


class Never:
    """A scheduler that schedules nothing."""

    def __init__(self, *parts: object) -> None:
        self.running: list[Any] = []
        self.queue: list[Any] = []

    @property
    def num_waiting(self) -> int:
        return len(self.queue)

    def add(self, request: object) -> None:
        self.queue.append(request)

    def schedule(self, now_ns: int) -> list[Any]:
        return []

    def finish(self, request: object) -> None:
        raise AssertionError("nothing is ever scheduled")

    def waiting(self) -> list[Any]:
        return self.queue


def test_after_a_deadlock_the_result_tells_what_happened_until_then(cluster: dict[str, Any]) -> None:
    run = Run(cluster, REQUESTS, RunOptions(overrides=[f"serving.scheduler={__name__}:Never"]))
    with pytest.raises(DeadlockError, match="instance 0: Request\\(19, waiting"):
        run.execute()
    summary = run.result().summary
    assert (summary["requests"]["arrived"], summary["requests"]["held"]) == (20, 20)
    assert summary["simulated_s"] == REQUESTS[-1].arrival_ns / 1e9


def test_a_run_that_was_not_started_has_an_empty_result(cluster: dict[str, Any]) -> None:
    summary = Run(cluster, REQUESTS).result().summary
    assert (summary["requests"]["arrived"], summary["simulated_s"], summary["iterations"]) == (0, 0.0, 0)


def test_two_runs_side_by_side_do_not_know_of_each_other(cluster: dict[str, Any]) -> None:
    alone = key(simulate(cluster, REQUESTS))
    first, second = Run(cluster, REQUESTS), Run(cluster, REQUESTS)
    assert key(second.execute()) == key(first.execute()) == alone


def test_running_a_generated_workload_is_quick(cpu_s: Callable[[Callable[[], object]], float]) -> None:
    """No measured data needed: Llama-3.1-8B on an H100 by roofline. Measured: 50,000."""
    instance = {"model": "meta-llama/Llama-3.1-8B", "hardware": "H100", "latency": {"source": "roofline"}}
    data = {"nodes": [{"instances": [instance]}]}
    workload = GeneratorSpec(300, FixedLength(220), FixedLength(215))
    rates = []
    for _ in range(2):
        run = Run(data, workload, RunOptions(overrides=["serving.max_num_seqs=16"]))
        spent = cpu_s(run.execute)
        rates.append(sum(i.engine.iterations for i in run.system.instances) / spent)
    assert max(rates) >= 10_000


@pytest.mark.parametrize("key", ["overrides", "profiles", "models", "hardware"])
def test_a_text_where_a_list_belongs_is_refused(cluster: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: expected a list, got 'seed=1'"):
        simulate(cluster, REQUESTS, **{key: "seed=1"})


def test_what_is_no_request_is_refused(cluster: dict[str, Any]) -> None:
    for wrong in ([3], [Session((), ())], {"requests": 1}):
        with pytest.raises(WorkloadError, match="expected"):
            simulate(cluster, wrong)


def test_a_seed_replaces_that_of_a_generator(cluster: dict[str, Any]) -> None:
    spec = msgspec.structs.replace(SPEC, arrival=ArrivalSpec("poisson", {"request_rate": 10}))
    arrivals = [
        [r.arrival_ns for r in simulate(cluster, msgspec.structs.replace(spec, seed=own), seed=seed).requests]
        for own, seed in ((0, None), (0, 7), (7, None))
    ]
    assert arrivals[0] != arrivals[1] == arrivals[2]
