"""With links that carry one message at a time, every rank finishes when ASTRA-sim's congestion-aware binary says.

The rows are runs on one dimension; they lie outside the repository, so the test skips without them.
"""

import csv
from collections import defaultdict
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec
import pytest

from llmservingsim.backend.astra import RankResult, run_traces
from llmservingsim.backend.astra_files import read_groups, read_memory, read_network, read_system
from llmservingsim.errors import TraceError
from llmservingsim.trace.chakra import read_traces

DATA = Path(__file__).parents[3] / "shared" / "data" / "astra"
REFERENCE = DATA / "reference_public.csv"

# Rows per section that must be compared; fewer means that a filter below hides some.
SECTIONS = {
    "1d": 296,
    "odd_size": 92,
    "active_chunks": 18,
    "bw_lat": 19,
    "direct_window": 22,
    "endpoint_delay": 7,
    "injection_scale": 1,
    "local_mem_bw": 11,
    "local_reduction_delay": 1,
    "num_queues": 7,
    "one_impl": 20,
    "overlap": 5,
    "p2p": 29,
    "comm_group": 43,
    "policy": 4,
    "rendezvous": 2,
}

ABORTED = "error_rc-6"  # by SIGABRT


@cache
def rows(status: str) -> Mapping[str, list[dict[str, str]]]:
    if not REFERENCE.is_file():
        pytest.skip(f"the ASTRA-sim reference runs are not at {REFERENCE}")
    by_section: dict[str, list[dict[str, str]]] = defaultdict(list)
    with REFERENCE.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["simulator"] == "upstream_aware" and row["status"] == status:
                by_section[row["section"]].append(row)
    return by_section


def simulate(row: dict[str, str]) -> list[RankResult]:
    options = dict(option.split("=", 1) for option in row["cli_extra"].split())
    network = msgspec.structs.replace(read_network(DATA / row["network_file"]), model="aware")
    groups = None
    if path := options.pop("--comm-group-configuration", None):
        groups = read_groups(DATA / "astra_reference_configs" / "comm_group" / Path(path).name)
    system = read_system(DATA / row["system_file"], float(options.pop("--injection-scale", 1.0)))
    system = msgspec.structs.replace(
        system,
        num_queues_per_dim=int(options.pop("--num-queues-per-dim", 1)),
        rendezvous=options.pop("--rendezvous-protocol", "false") == "true",
    )
    assert not options, f"row {row['id']}: options {options} are not understood"
    graph = read_traces(DATA / row["workload_prefix"], ranks=network.npus, groups=groups, dimensions=1)
    return run_traces(graph, network, system, read_memory(DATA / row["memory_file"]))


def printed(row: dict[str, str]) -> list[int]:
    """The finish time of every rank as the reference has it: ``rank:time`` pairs, or ``=`` when all are equal."""
    if row["finish_per_npu"] == "=":
        return [int(row["finish_cycles_ns"])] * int(row["npus"])
    by_rank = dict(pair.split(":") for pair in row["finish_per_npu"].replace(";", " ").replace("|", " ").split())
    return [int(by_rank[str(rank)]) for rank in range(int(row["npus"]))]


def mismatch(row: dict[str, str]) -> str | None:
    finish = [result.finish_ns for result in simulate(row)]
    return None if finish == printed(row) else f"row {row['id']}: finished at {finish}, expected {printed(row)}"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_rank_finishes_when_astra_sim_says(section: str) -> None:
    compared = rows("ok")[section]
    assert len(compared) == SECTIONS[section]
    assert [m for m in map(mismatch, compared) if m] == []


def test_what_aborts_in_astra_sim_is_refused_with_the_reason() -> None:
    aborted = [row for section in rows(ABORTED).values() for row in section]
    assert len(aborted) == 6
    for row in aborted:
        with pytest.raises(TraceError, match="aborts on a Ring of 2 ranks"):
            simulate(row)
