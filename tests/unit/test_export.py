"""Which iterations are exported, and what stands beside them."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmservingsim import Run, RunOptions
from llmservingsim.backend import NetworkModel
from llmservingsim.backend.astra_files import read_memory, read_network, read_system
from llmservingsim.backend.config import FabricModel
from llmservingsim.errors import ConfigError
from llmservingsim.export import TraceExporter, parse_iterations
from llmservingsim.workload import RequestSpec

REQUESTS = [RequestSpec(i, i * 3_000_000, 20, 5) for i in range(4)]


@pytest.mark.parametrize(
    ("text", "first", "end"),
    [("0:10", 0, 10), ("3:4", 3, 4), ("7", 7, 8), (":5", 0, 5), ("2:", 2, 2**62), (":", 0, 2**62)],
)
def test_a_range_of_iterations_is_read(text: str, first: int, end: int) -> None:
    assert parse_iterations(text) == range(first, end)


@pytest.mark.parametrize("text", ["", "a", "a:b", "1:2:3", "5:2", "3:3", "-1:2", "-1", "1.5"])
def test_what_is_no_range_is_refused_with_an_example_or_the_rule(text: str) -> None:
    with pytest.raises(
        ConfigError, match=f"--emit-iterations {text}: expected (first:end, such as 0:10|0 <= first < end)"
    ):
        parse_iterations(text)


def export(data: dict[str, Any], folder: Path, iterations: range) -> list[dict[str, str]]:
    Run(data, REQUESTS, RunOptions(emit_traces=folder, emit_iterations=iterations)).execute()
    with (folder / "iterations.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_only_the_asked_iterations_are_written_one_file_per_rank(cluster: dict[str, Any], tmp_path: Path) -> None:
    cluster["nodes"][0]["instances"][0]["tensor_parallel_size"] = 2
    found = export(cluster, tmp_path / "t", range(2, 4))
    assert [row["iteration"] for row in found] == ["2", "3"]
    names = sorted(p.relative_to(tmp_path / "t").as_posix() for p in (tmp_path / "t").rglob("*.et"))
    assert names == [f"instance0/iteration_0000{i}.{rank}.et" for i in (2, 3) for rank in (0, 1)]


def test_iterations_of_an_instance_follow_each_other(cluster: dict[str, Any], tmp_path: Path) -> None:
    found = export(cluster, tmp_path, range(100))
    ends = [int(row["start_ns"]) + int(row["duration_ns"]) for row in found]
    assert all(int(row["duration_ns"]) > 0 for row in found)
    assert all(int(row["start_ns"]) >= end for row, end in zip(found[1:], ends, strict=False))


def test_the_described_system_is_one_instance_of_the_runs(
    clusters: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    data = clusters(2, network={"bandwidth": "100GiB/s", "latency": "2us", "topology": "Switch"})
    for instance in data["nodes"][0]["instances"]:
        instance["tensor_parallel_size"] = 4
    export(data, tmp_path, range(1))
    network = read_network(tmp_path / "network.yml")
    assert (network.topology, network.npus_count) == (["Switch"], [4])
    assert (network.bandwidth_gbps, network.latency_ns) == ([100.0], [2000])
    assert read_system(tmp_path / "system.json").endpoint_delay_ns == 10
    assert read_memory(tmp_path / "memory.json") is not None


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (NetworkModel([], [4], [], [], fabric=FabricModel([])), "ASTRA-sim's network file has no arbitrary links"),
        (
            NetworkModel(["Switch", "Ring"], [2, 2], [1.0] * 2, [1.0] * 2),
            "an instance of 2 devices is no system of its own in a network of 2 x 2; use one instance on all of it",
        ),
    ],
)
def test_a_network_that_no_file_of_astra_sim_describes_is_refused(
    clusters: Callable[..., dict[str, Any]], tmp_path: Path, network: NetworkModel, said: str
) -> None:
    data = clusters(1)
    data["nodes"][0]["instances"][0]["tensor_parallel_size"] = 2
    system = replace(Run(data, REQUESTS).system, network=network)
    with pytest.raises(ConfigError, match=said):
        TraceExporter(tmp_path / "t", system, range(1))
    assert not (tmp_path / "t").exists()


def test_an_instance_on_all_of_a_grid_is_described_by_it(
    clusters: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    data = clusters(1)
    data["nodes"][0]["instances"][0]["tensor_parallel_size"] = 4
    grid = NetworkModel(["Switch", "Ring"], [2, 2], [1.0] * 2, [1.0] * 2)
    TraceExporter(tmp_path, replace(Run(data, REQUESTS).system, network=grid), range(1))
    assert read_network(tmp_path / "network.yml") == grid


def test_the_table_is_written_when_the_run_ends_early(cluster: dict[str, Any], tmp_path: Path) -> None:
    requests = [RequestSpec(0, 0, 20, 5), RequestSpec(1, 10**9, 20, 5, model="another")]
    run = Run(cluster, requests, RunOptions(emit_traces=tmp_path))
    with pytest.raises(ConfigError, match="asks for the model 'another'"):
        run.execute()
    assert len((tmp_path / "iterations.csv").read_text().splitlines()) == 6
