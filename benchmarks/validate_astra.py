"""Run every reference run of ASTRA-sim again and compare: each rank's finish time and rank 0's exposed communication.

Run: ``python benchmarks/validate_astra.py [SECTION]...``; exits with 1 if a row differs, or if the sweep of them all
takes more CPU time than its goal. The reference runs lie beside the repository, in ``../shared/data/astra``; without
them there is nothing to compare, and this says so.

A row that ASTRA-sim ended with an abort, or never, must be refused with the reason. Its crashes in PER_NODE memory are
of its own making (it reads freed memory); those rows are run as its rules mean them, and only what it printed counts.
"""

import csv
import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from llmservingsim.backend import MemoryModel, NetworkModel, SystemModel
from llmservingsim.backend.astra import RankResult, run_workloads
from llmservingsim.backend.astra_files import CHAKRA_DIALECTS, read_groups, read_memory, read_network, read_system
from llmservingsim.backend.config import Dialect
from llmservingsim.errors import UserError
from llmservingsim.graph import Graph
from llmservingsim.trace.chakra import read_traces

DATA = Path(__file__).parents[2] / "shared" / "data" / "astra"
FILES: Mapping[str, Dialect] = {"reference_public.csv": "astra-sim", "reference_fork_public.csv": "llmservingsim"}

CPU_GOAL_S = 3.0
"""For every row of ASTRA-sim's, files read included; the real program took 144 s of process time."""

MEMORY_CRASH = "error_rc-11"

# What the message of a refused row says, by how the real program ended: an abort, or never.
CAUSES = re.compile(
    r"aborts on a Ring of 2 ranks|would loop for ever|at which ASTRA-sim aborts|no dimension of more than one rank"
)


@dataclass(frozen=True)
class Row:
    """A reference run.

    Attributes:
        cells: Its columns.
        dialect: Which program ran it.
    """

    cells: Mapping[str, str]
    dialect: Dialect

    @property
    def name(self) -> str:
        """Where it stands."""
        return f"row {self.cells['id']} ({self.cells['section']})"

    def path(self, column: str) -> Path:
        """A file that it names."""
        return DATA / self.cells[column]

    @property
    def options(self) -> dict[str, str]:
        """The command line's options beyond the usual."""
        return dict(option.split("=", 1) for option in self.cells.get("cli_extra", "").split())

    @property
    def printed(self) -> dict[int, int]:
        """Rank -> finish time, as far as the program printed it."""
        text = self.cells["finish_per_npu"]
        if text == "=":
            return dict.fromkeys(range(int(self.cells["npus"])), int(self.cells["finish_cycles_ns"]))
        return {int(rank): int(ns) for rank, ns in re.findall(r"(\d+):(\d+)", text)}


class Verdict(NamedTuple):
    """What became of a row: ``problem`` is None where ours says what the reference says."""

    row: Row
    problem: str | None
    cpu_s: float


def read_rows(file: str) -> list[Row]:
    """Return the rows of a reference file."""
    with (DATA / file).open(encoding="utf-8") as lines:
        return [Row(cells, FILES[file]) for cells in csv.DictReader(lines)]


@cache
def network_of(path: Path, is_aware: bool) -> NetworkModel:
    """Read a network once, as a sweep over many systems does."""
    return msgspec.structs.replace(read_network(path), model="aware" if is_aware else "unaware")


@cache
def system_of(path: Path, dialect: Dialect, injection_scale: float) -> SystemModel:
    """Read a system once."""
    return read_system(path, injection_scale, dialect)


@cache
def memory_of(path: Path, dialect: Dialect) -> MemoryModel:
    """Read a memory once."""
    return read_memory(path, dialect)


@cache
def traces_of(prefix: Path, dialect: Dialect, ranks: int, groups: Path | None) -> Graph:
    """Read traces once."""
    communicators = read_groups(groups) if groups else None
    return read_traces(prefix, ranks=ranks, groups=communicators, dialect=CHAKRA_DIALECTS[dialect])


def simulate(row: Row) -> list[list[RankResult]]:
    """Run a row; return the results of each of its workloads."""
    options = row.options
    groups = options.pop("--comm-group-configuration", None)
    network = network_of(row.path("network_file"), row.cells["simulator"].endswith("_aware"))
    system = msgspec.structs.replace(
        system_of(row.path("system_file"), row.dialect, float(options.pop("--injection-scale", 1))),
        num_queues_per_dim=int(options.pop("--num-queues-per-dim", 1)),
        rendezvous=options.pop("--rendezvous-protocol", "false") == "true",
    )
    if options:
        raise SystemExit(f"{row.name}: options {options} are not understood")
    prefixes = [row.cells["workload_prefix"], *row.cells.get("more_workloads", "").split()]
    where = DATA / groups if groups else None
    graphs = [traces_of(DATA / prefix, row.dialect, network.npus, where) for prefix in prefixes]
    executions = run_workloads(graphs, network, system, memory_of(row.path("memory_file"), row.dialect))
    return [execution.ranks for execution in executions]


def judge(row: Row) -> str | None:
    """Return what is wrong with our answer to a row, or None."""
    status = row.cells["status"]
    try:
        results = simulate(row)
    except UserError as error:
        if status in ("ok", MEMORY_CRASH):
            return f"refused: {error}"
        return None if CAUSES.search(str(error)) else f"refused for another reason: {error}"
    if status not in ("ok", MEMORY_CRASH):
        return f"simulated, where the reference ended with {status}"
    finish = {r.rank: r.finish_ns for r in results[-1]}
    differing = {rank: (finish[rank], ns) for rank, ns in row.printed.items() if finish[rank] != ns}
    if differing:
        rank, (ours, theirs) = next(iter(differing.items()))
        return f"{len(differing)} ranks differ; rank {rank} finished at {ours}, expected {theirs}"
    return wrong_iterations(row, results) or wrong_exposure(row, results[0][0])


def wrong_iterations(row: Row, results: Sequence[Sequence[RankResult]]) -> str | None:
    """Compare the ends of several workloads, where there are several."""
    expected = json.loads(row.cells.get("iteration_ticks_per_npu") or "{}")
    for rank, ends in expected.items():
        got = [result[int(rank)].finish_ns for result in results]
        if got != ends:
            return f"rank {rank} ended its workloads at {got}, expected {ends}"
    return None


def wrong_exposure(row: Row, first: RankResult) -> str | None:
    """Compare rank 0's exposed communication, where the reference has it."""
    expected = row.cells.get("exposed_comm_npu0_ns")
    if not expected or row.cells["status"] != "ok" or first.exposed_comm_ns == int(expected):
        return None
    return f"exposed communication {first.exposed_comm_ns}, expected {expected}"


def judged(rows: Sequence[Row]) -> Iterator[Verdict]:
    """Judge rows one after another, in this process."""
    for row in rows:
        start = time.process_time()
        problem = judge(row)
        yield Verdict(row, problem, time.process_time() - start)


def report(file: str, sections: Sequence[str]) -> tuple[int, float]:
    """Judge a file's rows and print a line per section; return how many rows differ and the CPU-seconds."""
    start = time.process_time()
    rows = [row for row in read_rows(file) if not sections or row.cells["section"] in sections]
    verdicts = defaultdict(list)
    for verdict in judged(rows):
        verdicts[verdict.row.cells["section"]].append(verdict)
    cpu_s = time.process_time() - start
    wrong = [v for found in verdicts.values() for v in found if v.problem]
    print(f"{file}: dialect {FILES[file]}")
    for section, found in verdicts.items():
        equal = sum(not v.problem for v in found)
        refused = sum(v.row.cells["status"] not in ("ok", MEMORY_CRASH) for v in found)
        note = f", {refused} of them refused as they should be" if refused else ""
        print(f"  {section:24s} {equal:5d} of {len(found):5d} rows equal{note}")
    for verdict in wrong[:20]:
        print(f"  DIFFERS {verdict.row.name}: {verdict.problem}")
    print(f"  {len(rows) - len(wrong)} of {len(rows)} rows equal, {cpu_s:.2f} CPU-seconds")
    return len(wrong), cpu_s


def main(sections: Sequence[str]) -> int:
    """Report both programs; return 1 if a row differs or the goal is missed."""
    if not DATA.is_dir():
        print(f"the reference runs of ASTRA-sim are not at {DATA}: nothing to compare")
        return 0
    differing, cpu_s = report("reference_public.csv", sections)
    fork_differing, _ = report("reference_fork_public.csv", sections)
    missed = cpu_s > CPU_GOAL_S
    print(f"sweep of ASTRA-sim's rows: {cpu_s:.2f} CPU-seconds, goal {CPU_GOAL_S}{' MISSED' if missed else ''}")
    return int(bool(differing or fork_differing or missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
