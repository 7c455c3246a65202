"""ASTRA-sim's input files are read strictly and written so that they read the same."""

import json
from pathlib import Path

import pytest

from llmservingsim.backend import MemoryLevelModel, MemoryModel, NetworkModel, SystemModel
from llmservingsim.backend.astra_files import (
    read_groups,
    read_memory,
    read_network,
    read_system,
    write_groups,
    write_memory,
    write_network,
    write_system,
)
from llmservingsim.errors import TraceError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_network_survives_writing_and_reading(tmp_path: Path) -> None:
    network = NetworkModel(["Ring", "Switch"], [4, 2], [50.0, 12.5], [500.0, 0.5])
    write_network(tmp_path / "n.yml", network)
    assert read_network(tmp_path / "n.yml") == network


def test_link_bandwidth_counts_gigabytes_of_two_to_the_thirty() -> None:
    assert NetworkModel(["Ring"], [4], [50.0], [500.0]).bandwidth_bytes_per_ns == [53.6870912]


def test_a_system_survives_writing_and_reading(tmp_path: Path) -> None:
    system = SystemModel(
        preferred_dataset_splits=4,
        active_chunks_per_dimension=2,
        scheduling_policy="FIFO",
        collective_optimization="baseline",
        endpoint_delay_ns=7,
        local_mem_bw_gbps=1600.0,
        all_to_all=[],
    )
    write_system(tmp_path / "s.json", system)
    assert read_system(tmp_path / "s.json") == system


@pytest.mark.parametrize(
    "level",
    [
        MemoryLevelModel(),
        MemoryLevelModel("MEMORY_POOL", 100, 50.0),
        MemoryLevelModel("PER_NODE_MEMORY_EXPANSION", 100, 50.0, 4),
    ],
)
def test_a_memory_survives_writing_and_reading(tmp_path: Path, level: MemoryLevelModel) -> None:
    write_memory(tmp_path / "m.json", MemoryModel(remote=level), npus=8)
    assert read_memory(tmp_path / "m.json") == MemoryModel(remote=level)


def test_a_memory_bandwidth_that_astra_sim_would_truncate_is_not_written(tmp_path: Path) -> None:
    memory = MemoryModel(remote=MemoryLevelModel("MEMORY_POOL", 100, 2.9))
    with pytest.raises(TraceError, match=r"remote-mem-bw: 2.9 GB/s is not a whole number"):
        write_memory(tmp_path / "m.json", memory, npus=8)


def test_groups_survive_writing_and_reading(tmp_path: Path) -> None:
    groups = {1: (3, 0, 2), 12: (1, 4)}
    write_groups(tmp_path / "g.json", groups)
    assert read_groups(tmp_path / "g.json") == groups


def test_absent_system_keys_get_astra_sims_defaults(tmp_path: Path) -> None:
    system = read_system(write(tmp_path / "s.json", "{}"), injection_scale=3.0)
    assert (system.endpoint_delay_ns, system.scheduling_policy, system.local_mem_bw_gbps) == (10, "LIFO", 0.0)
    assert system.all_reduce == []


def test_a_given_endpoint_delay_is_truncated_and_scaled(tmp_path: Path) -> None:
    assert read_system(write(tmp_path / "s.json", '{"endpoint-delay": 7.9}'), 1.5).endpoint_delay_ns == 10


def test_keys_that_astra_sim_ignores_are_accepted(tmp_path: Path) -> None:
    content = {"boost-mode": 1, "intra-dimension-scheduling": "FIFO", "anything": [1]}
    assert read_system(write(tmp_path / "s.json", json.dumps(content))) == read_system(write(tmp_path / "t.json", "{}"))


def test_memory_numbers_lose_their_fractions(tmp_path: Path) -> None:
    content = {"memory-type": "MEMORY_POOL", "remote-mem-latency": 2.9, "remote-mem-bw": 3.9}
    level = read_memory(write(tmp_path / "m.json", json.dumps(content))).remote
    assert (level.latency_ns, level.bandwidth_gbps) == (2, 3.0)


NETWORK = {"topology": ["Ring"], "npus_count": [4], "bandwidth": [50], "latency": [500]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topology": "Ring"}, "topology: expected a list of str, not 'Ring'"),
        ({"topology": ["ring"]}, r"topology: expected one of FullyConnected, Ring, Switch, not 'ring' \(did you mean"),
        ({"npus_count": [4, 2]}, "one entry per dimension"),
        ({"npus_count": [0]}, r"npus_count: expected numbers of at least 1, not \[0\]"),
        ({"npus_count": [4.5]}, "npus_count: expected a list of int"),
        ({"bandwidth": [0]}, "bandwidth: expected positive"),
        ({"latency": [-1]}, "latency: expected numbers that are not negative"),
        ({"latency": None}, "latency: expected a list"),
    ],
)
def test_a_wrong_network_is_refused_by_name(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write(tmp_path / "n.yml", json.dumps(NETWORK | change))
    with pytest.raises(TraceError, match=message) as caught:
        read_network(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_missing_network_key_names_its_neighbour(tmp_path: Path) -> None:
    content = {k: v for k, v in NETWORK.items() if k != "latency"} | {"latencies": [500]}
    with pytest.raises(TraceError, match=r"latency is missing \(did you mean 'latencies'\?\)"):
        read_network(write(tmp_path / "n.yml", json.dumps(content)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"scheduling-policy": "lifo"}, "scheduling-policy: expected one of EXPLICIT, FIFO, LIFO"),
        ({"collective-optimization": 3}, "collective-optimization: expected a word"),
        ({"preferred-dataset-splits": 0}, "preferred-dataset-splits: expected a positive integer, not 0"),
        ({"preferred-dataset-splits": 1.5}, "preferred-dataset-splits: expected an integer, not 1.5"),
        ({"active-chunks-per-dimension": 0}, "active-chunks-per-dimension: expected a positive integer"),
        ({"endpoint-delay": "10"}, "endpoint-delay: expected a number"),
        ({"local-mem-bw": -1}, "local-mem-bw: expected a number that is not negative"),
        ({"all-reduce-implementation": "ring"}, "all-reduce-implementation: expected a list of str"),
        ({"roofline-enabled": 1}, "roofline-enabled: expected 0 or no such key: it is not supported"),
        ({"all-gather-implementation-custom": ["x"]}, "custom collectives are not supported"),
    ],
)
def test_a_wrong_system_is_refused_by_name(tmp_path: Path, content: dict[str, object], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_system(write(tmp_path / "s.json", json.dumps(content)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "memory-type is missing"),
        ({"memory-type": "POOL"}, "memory-type: expected one of MEMORY_POOL"),
        ({"memory-type": "MEMORY_POOL", "remote-mem-bw": 3}, "remote-mem-latency is missing"),
        (
            {"memory-type": "PER_NODE_MEMORY_EXPANSION", "remote-mem-latency": 1, "remote-mem-bw": 3},
            "num-npus-per-node is missing",
        ),
    ],
)
def test_a_wrong_memory_is_refused_by_name(tmp_path: Path, content: dict[str, object], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        read_memory(write(tmp_path / "m.json", json.dumps(content)))


@pytest.mark.parametrize("content", ['{"0": [1]}', '{"x": [1]}', '{"1": []}', '{"1": [2, 2]}', '{"1": [-1]}', "[]"])
def test_a_wrong_group_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(TraceError):
        read_groups(write(tmp_path / "g.json", content))


def test_a_file_that_is_not_there_or_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_system(tmp_path / "none.json")
    with pytest.raises(TraceError, match="not JSON"):
        read_system(write(tmp_path / "s.json", "{"))
    with pytest.raises(TraceError, match="not YAML"):
        read_network(write(tmp_path / "n.yml", "a: [1"))
