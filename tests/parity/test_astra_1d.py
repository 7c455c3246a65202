"""Finish times of every rank equal those that ASTRA-sim printed, to the nanosecond.

The rows are runs of the congestion-unaware binary on one dimension with ring collectives; see the reference's own
columns. They lie outside the repository, so the test skips without them.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from llmservingsim.backend.astra import RankResult, run_traces
from llmservingsim.backend.astra_files import read_groups, read_memory, read_network, read_system
from llmservingsim.trace.chakra import read_traces

DATA = Path(__file__).parents[3] / "shared" / "data" / "astra"
REFERENCE = DATA / "reference_public.csv"

# Rows per section that must be compared; fewer means that a filter below hides some.
SECTIONS = {
    "1d": 96,
    "odd_size": 94,
    "active_chunks": 8,
    "bw_lat": 9,
    "endpoint_delay": 4,
    "injection_scale": 1,
    "local_mem_bw": 6,
    "local_reduction_delay": 1,
    "compute": 5,
    "p2p": 27,
    "comm_group": 23,
    "overlap": 4,
    "policy": 4,
    "remote_mem": 39,
}

# Options and keys that the one-dimensional ring model does not have.
UNSUPPORTED_OPTIONS = ("--rendezvous-protocol", "--num-queues-per-dim")
UNSUPPORTED_KEYS = ('"halvingDoubling"', '"doubleBinaryTree"', '"direct')


@cache
def rows() -> Mapping[str, list[dict[str, str]]]:
    if not REFERENCE.is_file():
        pytest.skip(f"the ASTRA-sim reference runs are not at {REFERENCE}")
    by_section: dict[str, list[dict[str, str]]] = defaultdict(list)
    with REFERENCE.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["simulator"] == "upstream_unaware" and row["status"] == "ok" and is_supported(row):
                by_section[row["section"]].append(row)
    return by_section


def is_supported(row: dict[str, str]) -> bool:
    return (
        "_" not in row["topology"]
        and row["implementation"] in ("ring", "")
        and not any(option in row["cli_extra"] for option in UNSUPPORTED_OPTIONS)
        and not any(key in (DATA / row["system_file"]).read_text(encoding="utf-8") for key in UNSUPPORTED_KEYS)
    )


def simulate(row: dict[str, str]) -> list[RankResult]:
    options = dict(option.split("=", 1) for option in row["cli_extra"].split())
    network = read_network(DATA / row["network_file"])
    groups = None
    if path := options.pop("--comm-group-configuration", None):
        groups = read_groups(DATA / "astra_reference_configs" / "comm_group" / Path(path).name)
    system = read_system(DATA / row["system_file"], float(options.pop("--injection-scale", 1.0)))
    assert not options, f"row {row['id']}: options {options} are not understood"
    graph = read_traces(DATA / row["workload_prefix"], ranks=network.npus, groups=groups)
    return run_traces(graph, network, system, read_memory(DATA / row["memory_file"]))


def printed(row: dict[str, str]) -> list[int]:
    """The finish time of every rank as the reference has it: ``rank:time`` pairs, or ``=`` when all are equal."""
    if row["finish_per_npu"] == "=":
        return [int(row["finish_cycles_ns"])] * int(row["npus"])
    by_rank = dict(pair.split(":") for pair in row["finish_per_npu"].replace(";", " ").replace("|", " ").split())
    return [int(by_rank[str(rank)]) for rank in range(int(row["npus"]))]


def mismatch(row: dict[str, str]) -> str | None:
    got = simulate(row)
    finish = [result.finish_ns for result in got]
    if finish != printed(row):
        return f"row {row['id']}: finished at {finish}, expected {printed(row)}"
    if got[0].exposed_comm_ns != int(row["exposed_comm_npu0_ns"]):
        return f"row {row['id']}: exposed {got[0].exposed_comm_ns}, expected {row['exposed_comm_npu0_ns']}"
    return None


@pytest.mark.parametrize("section", SECTIONS)
def test_every_rank_finishes_when_astra_sim_says(section: str) -> None:
    compared = rows()[section]
    assert len(compared) == SECTIONS[section]
    assert [m for m in map(mismatch, compared) if m] == []
