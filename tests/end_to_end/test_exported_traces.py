"""What a run exports, `llmservingsim astra` times alike, to the nanosecond."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
Writer = Callable[..., Path]


class Workbench:
    """Exports runs into a folder and times what was exported."""

    def __init__(self, cli: Cli, folder: Path) -> None:
        self.cli = cli
        self.folder = folder

    def export(self, config: Path, trace: Path, *arguments: object) -> list[dict[str, str]]:
        """Run with --emit-traces; return the rows of iterations.csv."""
        answer = self.cli(
            "run", config, "-w", trace, "-o", self.folder / "out", "--emit-traces", self.folder, *arguments
        )
        assert answer.code == 0, answer.err
        with (self.folder / "iterations.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def command(self, prefix: str) -> list[object]:
        """The command that runs an exported iteration."""
        files = {"workload": prefix, "system": "system.json", "network": "network.yml", "remote-memory": "memory.json"}
        pairs = [(f"--{kind}-configuration", self.folder / name) for kind, name in files.items()]
        return ["astra", *(part for pair in pairs for part in pair)]

    def ranks(self, prefix: str) -> list[dict[str, int]]:
        """What the ranks of an exported iteration took."""
        answer = self.cli(*self.command(prefix), "--json")
        assert answer.code == 0, answer.err
        found: list[dict[str, int]] = json.loads(answer.out)["ranks"]
        return found


@pytest.fixture
def bench(cli: Cli, tmp_path: Path) -> Workbench:
    return Workbench(cli, tmp_path)


@pytest.mark.parametrize("topology", ["FullyConnected", "Ring", "Switch"])
@pytest.mark.parametrize(("tp", "is_async"), [(tp, is_async) for tp in (1, 2, 4) for is_async in (True, False)])
def test_every_exported_iteration_takes_as_long_as_in_the_run(
    bench: Workbench, files: Callable[[Any], tuple[Path, Path]], clusters: Any, tp: int, topology: str, is_async: bool
) -> None:
    """Prompts of 20 tokens and answers of 5: the first 12 iterations prefill, decode, and do both."""
    data = clusters(serving={"async_scheduling": is_async}, network={"topology": topology})
    data["nodes"][0]["instances"][0]["tensor_parallel_size"] = tp
    found = bench.export(*files(data), "--emit-iterations", "0:12")
    assert [row["iteration"] for row in found] == [str(i) for i in range(12)]
    for row in found:
        ranks = bench.ranks(row["prefix"])
        assert [rank["rank"] for rank in ranks] == list(range(tp))
        assert {rank["finish_ns"] for rank in ranks} == {int(row["duration_ns"])}
        assert all((rank["exposed_comm_ns"] > 0) is (tp > 1) for rank in ranks)


@pytest.fixture
def files(write_config: Writer, trace: Path) -> Callable[[Any], tuple[Path, Path]]:
    """Writes a run file; returns it with a trace of 20 requests."""
    return lambda data: (write_config(data), trace)


@pytest.mark.parametrize("routing", ["balanced", "random", "skewed"])
@pytest.mark.parametrize(("tp", "keys"), [(1, {}), (2, {}), (2, {"ep": True}), (4, {"size": 2})], ids=str)
def test_a_mixture_of_experts_takes_as_long_in_its_traces(
    bench: Workbench, files: Callable[[Any], tuple[Path, Path]], clusters: Any, tp: int, keys: Any, routing: str
) -> None:
    """Ranks with other experts work for other times; the iteration ends with the last of them."""
    data = clusters(serving={"experts": {"routing": routing}})
    data["nodes"][0]["instances"][0] |= {
        "model": "mistralai/Mixtral-8x7B",
        "tensor_parallel_size": tp,
        "memory_size": "192GiB",
        "enable_expert_parallel": bool(keys),
        "expert_parallel_size": keys.get("size"),
    }
    found = bench.export(*files(data), "--emit-iterations", "0:6")
    for row in found:
        ranks = bench.ranks(row["prefix"])
        assert len(ranks) == tp
        assert max(rank["finish_ns"] for rank in ranks) == int(row["duration_ns"])
    busy = {rank["finish_ns"] - rank["exposed_comm_ns"] for rank in ranks}
    assert (len(busy) > 1) is (bool(keys) and routing != "balanced")


def test_the_durations_are_those_that_the_requests_saw(bench: Workbench, config: Path, write_lines: Writer) -> None:
    """One request alone: its first token comes when the first iteration ends, its last when the last one ends."""
    line = {"input_toks": 20, "output_toks": 5, "arrival_time_ns": 1000}
    found = bench.export(config, write_lines([line]), "--emit-iterations", "0:")
    with (bench.folder / "out" / "requests.csv").open(newline="") as file:
        (request,) = csv.DictReader(file)
    durations = [int(row["duration_ns"]) for row in found]
    assert len(durations) == 5
    assert int(request["first_token_ns"]) == 1000 + durations[0]
    assert int(request["finish_ns"]) == 1000 + sum(durations)


def test_two_instances_export_apart(bench: Workbench, files: Callable[[Any], tuple[Path, Path]], clusters: Any) -> None:
    data = clusters(2)
    for instance in data["nodes"][0]["instances"]:
        instance["tensor_parallel_size"] = 2
    found = bench.export(*files(data), "--emit-iterations", "1:3")
    ids = sorted((row["instance"], row["iteration"]) for row in found)
    assert ids == [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")]
    for row in found:
        assert row["prefix"].startswith(f"instance{row['instance']}/")
        assert [rank["finish_ns"] for rank in bench.ranks(row["prefix"])] == [int(row["duration_ns"])] * 2


def test_exporting_changes_nothing_in_the_results(bench: Workbench, config: Path, trace: Path) -> None:
    bench.export(config, trace)
    exported, plain = bench.folder / "out", bench.folder / "plain"
    assert bench.cli("run", config, "-w", trace, "-o", plain, "-q").code == 0
    for name in ("requests.csv", "timeseries.csv"):
        assert (exported / name).read_bytes() == (plain / name).read_bytes()
    summaries = [json.loads((folder / "summary.json").read_text()) | {"wall_s": 0} for folder in (exported, plain)]
    assert summaries[0] == summaries[1]


def test_a_user_sees_the_lines_of_astra_sim(llmservingsim: Cli, bench: Workbench, config: Path, trace: Path) -> None:
    (row,) = bench.export(config, trace, "--emit-iterations", "2")
    done = llmservingsim(*bench.command(row["prefix"]))
    assert done.code == 0
    assert done.out == f"sys[0] finished, {row['duration_ns']} cycles, exposed communication 0 cycles.\n"


@pytest.mark.parametrize(
    ("sizes", "topology", "said"),
    [
        ([1, 2], "FullyConnected", "the instances have different numbers of devices"),
        ([2, 2], "Ring", "instances that share a ring are no systems of their own"),
    ],
)
def test_instances_that_are_no_systems_of_their_own_are_not_exported(
    bench: Workbench,
    files: Callable[[Any], tuple[Path, Path]],
    clusters: Any,
    sizes: list[int],
    topology: str,
    said: str,
) -> None:
    data = clusters(2, network={"topology": topology})
    for instance, size in zip(data["nodes"][0]["instances"], sizes, strict=True):
        instance["tensor_parallel_size"] = size
    config, trace = files(data)
    answer = bench.cli("run", config, "-w", trace, "--emit-traces", bench.folder / "t")
    assert answer.code == 2
    assert said in answer.err
    assert not (bench.folder / "t").exists()


def test_the_bundle_of_a_measured_device_exports_alike(bench: Workbench, shared: Path) -> None:
    data = shared / "data"
    config = data / "clusters" / "rtx4090_single_instance.json"
    trace = data / "workloads" / "sharegpt-llama-3.1-8b-300-sps10.jsonl"
    options = ["--profiles", data / "profiles", "--models", data / "models", "--num-requests", 20]
    found = bench.export(config, trace, *options, "--emit-iterations", "0:40")
    assert len(found) == 40
    for row in found[::6]:
        assert [rank["finish_ns"] for rank in bench.ranks(row["prefix"])] == [int(row["duration_ns"])]
