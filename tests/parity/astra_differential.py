"""Compare our backend with the model on random programs, and shrink what differs; about a hundred per second.

Run: ``python tests/parity/astra_differential.py --minutes 10``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
from astra_model import AbortError, EndlessError, simulate
from astra_programs import Program, random_program

from llmservingsim.backend import MemoryModel, SystemModel
from llmservingsim.backend.astra import run_workloads
from llmservingsim.errors import DeadlockError, UserError

Outcome = list[list[tuple[int, int, int]]] | str
"""Per workload and rank: rank, finish and exposed communication; or why there are none."""


def ours(program: Program) -> Outcome:
    """Run our backend."""
    try:
        executions = run_workloads(program.graphs, program.network, program.system, program.memory)
    except (UserError, DeadlockError) as error:
        return f"{type(error).__name__}: {error}"
    return [[tuple(r) for r in execution.ranks] for execution in executions]


def theirs(program: Program) -> Outcome:
    """Run the model."""
    try:
        results = simulate(program.graphs, program.network, program.system, program.memory)
    except (AbortError, EndlessError) as error:
        return f"{type(error).__name__}: {error}"
    return [[tuple(r) for r in workload] for workload in results]


def difference(program: Program) -> str:
    """Return who has results where one has others or none; empty: they agree."""
    a, b = ours(program), theirs(program)
    if a == b or (isinstance(a, str) and isinstance(b, str)):
        return ""
    return "only the model fails" if isinstance(b, str) else "only ours fails" if isinstance(a, str) else "times differ"


def shrunk(program: Program, still: Callable[[Program], bool], seconds: float = 20.0) -> Program:
    """Return a smaller program for which ``still`` holds; with enough time none of its own smaller ones do so."""
    end = time.monotonic() + seconds
    smaller: Program | None = program
    while smaller is not None:
        program = smaller
        candidates = (p for p in smaller_ones(program) if p != program and time.monotonic() < end)
        smaller = next((p for p in candidates if holds(p, still)), None)
    return program


def holds(program: Program, still: Callable[[Program], bool]) -> bool:
    """Whether ``still`` holds; a program that either cannot run at all does not count."""
    try:
        return still(program)
    except (ValueError, IndexError, KeyError, ZeroDivisionError):
        return False


def smaller_ones(program: Program) -> Iterator[Program]:
    """Yield programs a step simpler, the largest steps first."""
    if program.repeats > 1:
        yield replace(program, repeats=1)
    names = {node.name for own in program.ranks for node in own}
    for name in sorted(names):
        yield without(program, lambda r, i, name=name: program.ranks[r][i].name == name)
    longest = max(map(len, program.ranks))
    for i in reversed(range(longest)):
        yield without(program, lambda r, j, i=i: i == j)
    for rank in range(len(program.ranks)):
        yield without(program, lambda r, i, rank=rank: r == rank)
    for rank, own in enumerate(program.ranks):
        for i in reversed(range(len(own))):
            yield without(program, lambda r, j, rank=rank, i=i: (r, j) == (rank, i))
    yield from simpler_machines(program)
    yield from simpler_nodes(program)


def without(program: Program, drops: Callable[[int, int], bool]) -> Program:
    """Return a program less some nodes; what waited for them waits for what they waited for."""
    ranks = []
    for r, own in enumerate(program.ranks):
        kept = [i for i in range(len(own)) if not drops(r, i)]
        place = {old: new for new, old in enumerate(kept)}
        ranks.append(
            tuple(
                replace(
                    own[i],
                    data_deps=tuple(place[d] for d in own[i].data_deps if d in place),
                    ctrl_deps=tuple(place[d] for d in own[i].ctrl_deps if d in place),
                )
                for i in kept
            )
        )
    return replace(program, ranks=tuple(ranks))


def simpler_machines(program: Program) -> Iterator[Program]:
    """Yield programs with a field of the system, or the memory, at its default."""
    default = SystemModel(local_mem_bw_gbps=1600)
    for name in SystemModel.__struct_fields__:
        value = getattr(default, name)
        if name not in ("dialect", "parity") and getattr(program.system, name) != value:
            yield replace(program, system=msgspec.structs.replace(program.system, **{name: value}))
    if program.memory != MemoryModel():
        yield replace(program, memory=MemoryModel())
    if program.groups:
        yield replace(program, groups=())
    network = program.network
    for name, plain in (("topology", "FullyConnected"), ("latency_ns", 500.0), ("bandwidth_gbps", 50.0)):
        for d, value in enumerate(getattr(network, name)):
            if value != plain:
                values = list(getattr(network, name))
                values[d] = plain
                yield replace(program, network=msgspec.structs.replace(network, **{name: values}))
    if network.model == "aware":
        yield replace(program, network=msgspec.structs.replace(network, model="unaware"))


def simpler_nodes(program: Program) -> Iterator[Program]:
    """Yield programs in which a node waits for less, or is smaller."""
    for r, own in enumerate(program.ranks):
        for i, node in enumerate(own):
            simpler = [replace(node, ctrl_deps=()), replace(node, data_deps=()), replace(node, priority=0)]
            if node.duration_ns > 1:
                simpler.append(replace(node, duration_ns=1))
            for other in simpler:
                if other != node:
                    yield replace(
                        program, ranks=(*program.ranks[:r], (*own[:i], other, *own[i + 1 :]), *program.ranks[r + 1 :])
                    )
    for size in sorted({n.size_bytes for own in program.ranks for n in own} - {1, 64}):
        for new in (64, 1):
            if new < size:
                yield replace(
                    program,
                    ranks=tuple(
                        tuple(replace(n, size_bytes=new) if n.size_bytes == size else n for n in own)
                        for own in program.ranks
                    ),
                )


def describe(program: Program) -> str:
    """Return a program as text: what is not at its default."""
    lines = [f"network {program.network}", f"system {changed(program.system, SystemModel())}"]
    if program.memory != MemoryModel():
        lines.append(f"memory {changed(program.memory, MemoryModel())}")
    if program.groups:
        lines.append(f"groups {program.groups}")
    if program.repeats > 1:
        lines.append(f"repeats {program.repeats}")
    for rank, own in enumerate(program.ranks):
        lines += [f"rank {rank} node {i}: {short(node)}" for i, node in enumerate(own)]
    return "\n".join([*lines, f"ours:  {ours(program)}", f"model: {theirs(program)}"])


def changed(model: msgspec.Struct, default: msgspec.Struct) -> dict[str, object]:
    """Return the fields that differ from a default."""
    return {n: v for n in model.__struct_fields__ if (v := getattr(model, n)) != getattr(default, n)}


def short(node: object) -> str:
    """Return a node's fields that matter."""
    dull = {"name", "rank_class"}
    values = {n: getattr(node, n) for n in type(node).__slots__ if n not in dull}
    keep = {
        n: v
        for n, v in values.items()
        if v not in (0, (), -1, 2**32 - 1) or n == "collective" or (n == "group" and v >= 0)
    }
    return f"{node.name} {keep}"


def main() -> int:
    """Compare until time is over; return 1 if something differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=20, help="end after that many disagreements")
    options = parser.parse_args()
    end, seed = time.monotonic() + 60 * options.minutes, options.seed
    outcomes: Counter[str] = Counter()
    while time.monotonic() < end and outcomes["differs"] < options.most:
        program = random_program(seed)
        if found := difference(program):
            outcomes["differs"] += 1
            smallest = shrunk(program, lambda p, found=found: difference(p) == found)
            sys.stdout.write(f"--- seed {seed}: {found}\n{describe(smallest)}\n")
            sys.stdout.flush()
        else:
            result = theirs(program)
            outcomes[result.split(":")[0] if isinstance(result, str) else "equal"] += 1
        seed += 1
    sys.stdout.write(f"{seed - options.seed} programs: {dict(outcomes)}\n")
    return int(outcomes["differs"] > 0)


if __name__ == "__main__":
    sys.exit(main())
