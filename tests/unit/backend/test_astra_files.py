"""ASTRA-sim's input files are read strictly and written so that they read the same."""

import json
from pathlib import Path

import msgspec
import pytest

from llmservingsim.backend import MemoryLevelModel, MemoryModel, NetworkModel, SystemModel
from llmservingsim.backend.astra_files import (
    read_groups,
    read_memory,
    read_network,
    read_system,
    read_tensor_tracking,
    write_groups,
    write_memory,
    write_network,
    write_system,
)
from llmservingsim.backend.config import Dialect, FabricModel, LinkModel, SharedBusModel
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
        ({"topology": {}}, "topology: expected a list of str, not {}"),
        ({"topology": "ring"}, "topology: expected one of FullyConnected, Ring, Switch, not 'ring'"),
        ({"topology": True}, "topology: expected a list of str, not True"),
        ({"npus_count": "4"}, "npus_count: expected a list of int, but it holds '4'"),
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
        ({"endpoint-delay": -1}, "endpoint-delay: expected a number that is not negative"),
        ({"all-reduce-implementation": 3}, "all-reduce-implementation: expected a list of str, but it holds 3"),
        ({"all-to-all-implementation": ["rings"]}, r"all-to-all-implementation: .*'rings' \(did you mean 'ring'\?\)"),
        ({"all-gather-implementation": ["direct4x"]}, "all-gather-implementation: expected one of .*direct<W>"),
        ({"reduce-scatter-implementation": ["direct123456"]}, "reduce-scatter-implementation: expected one of"),
        ({"peak-perf": "1"}, "peak-perf: expected a number"),
        ({"peak-perf": -1}, "peak-perf: expected a number that is not negative"),
        ({"roofline-enabled": "yes"}, "roofline-enabled: expected a number, not 'yes'"),
        ({"roofline-enabled": 1, "local-mem-bw": 5}, "peak-perf: expected a positive number, which roofline"),
        ({"roofline-enabled": 1, "peak-perf": 5}, "local-mem-bw: expected a positive number, which roofline"),
        ({"replay-only": []}, r"replay-only: expected a number, not \[\]"),
        ({"local-reduction-delay": -1}, "local-reduction-delay: expected a number that is not negative"),
        ({"model-shared-bus": {}}, "model-shared-bus: expected a number"),
        ({"model-shared-bus": 1, "L": "a"}, "L: expected a number, not 'a'"),
        ({"model-shared-bus": 1, "o": -1}, "o: expected a number that is not negative"),
        ({"model-shared-bus": 1, "g": None}, "g: expected a number, not None"),
        ({"model-shared-bus": 1, "G": 1e39}, "G: expected a number that binary32 can hold"),
        ({"all-gather-implementation-custom": ["a", "b"]}, "implementation-custom: expected a list of one path prefix"),
        ({"all-gather-implementation-custom": [1]}, "all-gather-implementation-custom: expected a list of str"),
        ({"per-node-custom-implementation": 3}, "per-node-custom-implementation: expected a word, not 3"),
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


def test_one_dimension_needs_no_lists(tmp_path: Path) -> None:
    plain = "topology: Ring\nnpus_count: 4\nbandwidth: 50\nlatency: 500\n"
    assert read_network(write(tmp_path / "n.yml", plain)) == NetworkModel(["Ring"], [4], [50.0], [500.0])
    system = read_system(write(tmp_path / "s.json", '{"all-reduce-implementation": "direct8"}'))
    assert system.all_reduce == ["direct8"]


@pytest.mark.parametrize(
    "name", ["ring", "oneRing", "direct", "direct12345", "oneDirect2", "halvingDoubling", "my.package:Tree"]
)
def test_algorithms_by_the_names_of_astra_sim_or_ones_own(tmp_path: Path, name: str) -> None:
    content = json.dumps({"all-gather-implementation": [name, "doubleBinaryTree"]})
    assert read_system(write(tmp_path / "s.json", content)).all_gather == [name, "doubleBinaryTree"]


def test_every_other_system_key_survives_writing_and_reading(tmp_path: Path) -> None:
    system = SystemModel(
        peak_perf_tflops=312.5,
        local_mem_bw_gbps=1600.0,
        roofline_enabled=True,
        replay_only=True,
        local_reduction_delay_ns=3,
        shared_bus=SharedBusModel(L=10, o=5, g=2, G=0.5),
        dialect="llmservingsim",
    )
    write_system(tmp_path / "s.json", system)
    assert read_system(tmp_path / "s.json", dialect="llmservingsim") == system


def test_bus_parameters_are_truncated_and_gap_per_byte_is_a_binary32(tmp_path: Path) -> None:
    content = {"model-shared-bus": 1, "L": 10.9, "o": 5, "G": 0.01}
    bus = read_system(write(tmp_path / "s.json", json.dumps(content))).shared_bus
    # 0.01 as binary32 is 10737418 / 2^30
    assert bus == SharedBusModel(L=10, o=5, g=0, G=10737418 / 2**30)


@pytest.mark.parametrize(("value", "is_on"), [(0, False), (1, True), (2.5, True), (True, True), (False, False)])
def test_a_switch_is_on_unless_it_is_0(tmp_path: Path, value: object, is_on: bool) -> None:
    system = read_system(write(tmp_path / "s.json", json.dumps({"replay-only": value})))
    assert system.replay_only is is_on


def test_tracking_of_tensors_has_a_name_when_it_is_on(tmp_path: Path) -> None:
    content: dict[str, object] = {"track-local-mem": 1}
    assert read_tensor_tracking(write(tmp_path / "s.json", "{}")) is None
    assert read_tensor_tracking(write(tmp_path / "s.json", json.dumps(content))) == "local_mem_trace"
    content["local-mem-trace-filename"] = "mine"
    assert read_tensor_tracking(write(tmp_path / "s.json", json.dumps(content))) == "mine"
    content["local-mem-trace-filename"] = 3
    with pytest.raises(TraceError, match=r"s\.json: local-mem-trace-filename: expected a word, not 3"):
        read_tensor_tracking(write(tmp_path / "s.json", json.dumps(content)))


LEVELS = {
    "local_mem": {"memory-type": "PER_NPU_MEMORY_EXPANSION", "mem-latency": 1.9, "mem-bw": 1597},
    "cxl_mem": {
        "memory-type": "MEMORY_POOL",
        "mem-latency": 250,
        "mem-bw": 60.5,
        "num-devices": 2,
        "pim-channels": 4,
    },
}


def test_memory_levels_of_llmservingsim_2(tmp_path: Path) -> None:
    memory = read_memory(write(tmp_path / "m.json", json.dumps(LEVELS)), "llmservingsim")
    local = MemoryLevelModel("PER_NPU_MEMORY_EXPANSION", 1, 1597.0, queues_per_device=True)
    cxl = MemoryLevelModel("MEMORY_POOL", 250, 60.0, num_devices=2, pim_channels=4, queues_per_device=True)
    assert memory == MemoryModel(local=local, cxl=cxl)
    write_memory(tmp_path / "again.json", memory, 8, "llmservingsim")
    assert read_memory(tmp_path / "again.json", "llmservingsim") == memory
    write_memory(tmp_path / "none.json", MemoryModel(), 8, "llmservingsim")
    assert read_memory(tmp_path / "none.json", "llmservingsim") == MemoryModel()


@pytest.mark.parametrize(("location", "level"), [(None, "remote"), ("LOCAL_MEMORY", "local"), ("CXL_MEMORY", "cxl")])
def test_a_flat_memory_of_llmservingsim_2_has_a_location(tmp_path: Path, location: str | None, level: str) -> None:
    content = {"memory-type": "MEMORY_POOL", "mem-latency": 5, "mem-bw": 7}
    content |= {"memory-location": location} if location else {}
    memory = read_memory(write(tmp_path / "m.json", json.dumps(content)), "llmservingsim")
    expected = MemoryLevelModel("MEMORY_POOL", 5, 7.0, queues_per_device=True)
    assert memory == msgspec.structs.replace(MemoryModel(), **{level: expected})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory-type": None}, "memory-type: expected a word, not None"),
        ({"memory-location": "DISK"}, "memory-location: expected one of CXL_MEMORY"),
        ({"mem-latency": "5"}, "mem-latency: expected a number"),
        ({"mem-bw": -1}, "mem-bw: expected a number that is not negative"),
        ({"num-devices": 0}, "num-devices: expected a positive integer"),
        ({"pim-channels": -1}, "pim-channels: expected an integer that is not negative"),
        ({"local_mem": 3}, "local_mem: expected an object"),
        ({"local_mem": {"memory-type": "MEMORY_POOL", "mem-bw": 1}}, "local_mem: mem-latency is missing"),
        ({"cxl_mem": LEVELS["cxl_mem"] | {"num-devices": 1.5}}, "cxl_mem: num-devices: expected an integer"),
    ],
)
def test_a_wrong_memory_of_llmservingsim_2_is_refused_by_name(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    content = {"memory-type": "MEMORY_POOL", "mem-latency": 5, "mem-bw": 7} | change
    path = write(tmp_path / "m.json", json.dumps(content))
    with pytest.raises(TraceError, match=message) as caught:
        read_memory(path, "llmservingsim")
    assert str(caught.value).startswith(f"{path}: ")


def test_old_names_in_a_memory_of_llmservingsim_2_are_not_taken_for_a_memory_without_bandwidth(tmp_path: Path) -> None:
    content = {"memory-type": "MEMORY_POOL", "remote-mem-latency": 5, "remote-mem-bw": 7}
    path = write(tmp_path / "m.json", json.dumps(content))
    with pytest.raises(TraceError, match=r"mem-latency is missing \(did you mean 'remote-mem-latency'\?\)"):
        read_memory(path, "llmservingsim")


@pytest.mark.parametrize(
    ("memory", "dialect", "message"),
    [
        (MemoryModel(cxl=MemoryLevelModel("MEMORY_POOL", 1, 1.0)), "astra-sim", "holds one remote memory"),
        (MemoryModel(remote=MemoryLevelModel("MEMORY_POOL", 1, 1.0, num_devices=2)), "astra-sim", "without devices"),
        (MemoryModel(storage=MemoryLevelModel("MEMORY_POOL", 1, 1.0)), "llmservingsim", "no key for storage"),
        (MemoryModel(cxl=MemoryLevelModel("MEMORY_POOL", 1, 1.0)), "llmservingsim", "cxl_mem: .* queue per device"),
    ],
)
def test_a_memory_that_a_file_cannot_hold_is_not_written(
    tmp_path: Path, memory: MemoryModel, dialect: Dialect, message: str
) -> None:
    with pytest.raises(TraceError, match=message):
        write_memory(tmp_path / "m.json", memory, 8, dialect)
    assert not (tmp_path / "m.json").exists()


def test_a_fabric_is_not_written_as_a_network(tmp_path: Path) -> None:
    network = NetworkModel([], [2], [], [], fabric=FabricModel([LinkModel(0, 1, 1.0, 1.0)]))
    with pytest.raises(TraceError, match="arbitrary links has no ASTRA-sim file"):
        write_network(tmp_path / "n.yml", network)


def test_a_file_that_is_not_there_or_not_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_system(tmp_path / "none.json")
    with pytest.raises(TraceError, match="not JSON"):
        read_system(write(tmp_path / "s.json", "{"))
    with pytest.raises(TraceError, match="not YAML"):
        read_network(write(tmp_path / "n.yml", "a: [1"))
