"""Inputs of ``llmservingsim astra``: small valid ones, and the ways in which they are spoilt.

A case is told by a `Recipe`, a few small numbers, so that whoever finds one that fails can leave spoilings out one by
one. Sizes stay so small that a valid case simulates in milliseconds.
"""

import contextlib
import io
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from astra_spoiling import payload, spoil

from llmservingsim.backend.astra_files import CHAKRA_DIALECTS, write_groups
from llmservingsim.backend.astra_files.programs import write_program
from llmservingsim.backend.config import Dialect
from llmservingsim.backend.steps import Step
from llmservingsim.cli.astra import astra
from llmservingsim.cli.astra_inputs import Congestion, DialectName, Truth
from llmservingsim.errors import DeadlockError, UserError
from llmservingsim.graph import CollectiveType, Graph, MemoryLocation, Node, NodeType
from llmservingsim.trace.chakra import et_def_pb2 as et
from llmservingsim.trace.chakra import write_traces
from llmservingsim.trace.chakra.records import frame, split

SHAPES = ((1,), (2,), (8,), (3,), (4,), (2, 2), (4, 2), (1, 3), (2, 2, 2))
TOPOLOGIES = ("Ring", "FullyConnected", "Switch")
ALGORITHMS = ("ring", "direct", "halvingDoubling", "doubleBinaryTree", "oneRing", "direct2", "oneDirect")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")


class Recipe(NamedTuple):
    """What makes a case: the seed of a valid one, and a seed for each thing that is spoilt in it."""

    base: int
    spoilings: tuple[int, ...] = ()


@dataclass
class Case:
    """What the command is given.

    Attributes:
        files: Name -> bytes.
        options: Arguments of the command beside the files.
    """

    files: dict[str, bytes]
    options: dict[str, Any]


def make_case(recipe: Recipe) -> Case:
    """Return the case of a recipe; the same recipe makes the same bytes."""
    valid = _valid(recipe.base)
    case = Case(dict(valid.files), dict(valid.options))
    for seed in recipe.spoilings:
        spoil(case.files, random.Random(seed))
    return case


def run_case(case: Case, folder: Path) -> str:
    """Run the command in an empty folder; return ``ok``, or the message with which it refused.

    Raises:
        Exception: Whatever else the command raised, or AssertionError for a message that is not one clear line.
    """
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    names = {"system": "system.json", "network": "network.yml", "memory": "memory.json"}
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            astra([Path("trace")], **{key: Path(name) for key, name in names.items()}, **case.options)
        except DeadlockError as error:  # a cycle or half of a message, in files of a valid form: a list of who waits
            return _checked(str(error), 4000, printed.getvalue())
        except UserError as error:
            return _checked(str(error), 2000, printed.getvalue(), is_line=True)
    assert printed.getvalue(), "neither refused nor printed"
    return "ok"


def _checked(message: str, most: int, printed: str, *, is_line: bool = False) -> str:
    """Return a message that a person can read."""
    assert message.isprintable() or not is_line, f"a message of several lines: {message[:1000]!r}"
    assert 10 < len(message) < most, f"a message of {len(message)} characters: {message[:1000]}"
    assert not printed, "refused after results were printed"
    return message


@lru_cache(maxsize=256)
def _valid(seed: int) -> Case:
    rng = random.Random(seed)
    shape = rng.choice(SHAPES)
    dialect: Dialect = rng.choice(("astra-sim", "llmservingsim"))
    congestion = rng.choices(list(Congestion), (10, 10, 1))[0]
    if congestion is Congestion.AWARE:
        shape = rng.choice([s for s in SHAPES if len(s) == 1])
    ranks = _product(shape)
    options = {
        "congestion": congestion,
        "dialect": DialectName(dialect),
        "num_queues_per_dim": rng.choice((1, 1, 3)),
        "injection_scale": rng.choice((*[1.0] * 60, 2.5, 0.0, 1e300, float("inf"), float("nan"))),
        "rendezvous": rng.choice(list(Truth)),
        "statistics": rng.random() < 0.3,
        "timeline": Path("timeline.json") if rng.random() < 0.2 else None,
        "whole_microseconds": rng.random() < 0.2,
        "as_json": rng.random() < 0.3,
    }
    groups = {1: tuple(range(0, ranks, 2)), 2: tuple(range(1, ranks, 2))} if ranks > 3 and rng.random() < 0.5 else {}
    if groups:
        options["groups"] = "groups.json"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        collectives = _write_traces(rng, folder, ranks, list(groups.values()), dialect)
        write_groups(folder / "groups.json", groups)
        contents = {"system.json": _system(rng, shape), "network.yml": _network(rng, shape)}
        if rng.random() < 0.4 and ranks > 1:
            contents["system.json"] |= _custom(rng, folder, ranks, dialect, collectives)
        contents["memory.json"] = _memory(rng, dialect)
        for file, content in contents.items():
            (folder / file).write_text(json.dumps(content))
        if "track-local-mem" in contents["system.json"]:
            for rank in range(ranks):
                _add_tensors(folder / f"trace.{rank}.et")
        return Case({path.name: path.read_bytes() for path in sorted(folder.iterdir())}, options)


def _add_tensors(path: Path) -> None:
    """Give every node of a trace tensors that it reads and writes."""
    records = [payload(record) for record in split(path.read_bytes(), path)]
    for i, record in enumerate(records[1:], 1):
        node = et.Node.FromString(record)
        for name in ("inputs", "outputs"):
            node.attr.add(name=name).string_list.values.extend([f"t{i}", "100"])
        records[i] = node.SerializeToString(deterministic=True)
    path.write_bytes(b"".join(map(frame, records)))


def _product(shape: Sequence[int]) -> int:
    return shape[0] * _product(shape[1:]) if shape else 1


def _write_traces(
    rng: random.Random, folder: Path, ranks: int, groups: Sequence[tuple[int, ...]], dialect: Dialect
) -> list[int]:
    """Write a few rounds that all ranks take part in, of every type of node; return the ids of collectives."""
    kinds = rng.choices(("comp", "collective", "message", "memory", "invalid"), k=rng.randint(1, 4))
    size, duration = rng.choice((1, 1000, 2**20)), rng.choice((0, 1, 1500, 10**6))
    collective = rng.choice([CollectiveType(c) for c in (0, 2, 5, 6, 7)])
    nodes: list[Node] = []
    for rank in range(ranks):
        group = next((g for g, members in enumerate(groups) if rank in members), -1)
        for i, kind in enumerate(kinds):
            deps = (len(nodes) - 1,) if i and rng.random() < 0.7 else ()
            if kind == "collective":
                node = Node(
                    "c", NodeType.COMM_COLL, rank, size_bytes=size, collective=collective, group=group, data_deps=deps
                )
                nodes.append(node)
            elif kind == "message" and ranks > 1:
                there, back = (rank + 1) % ranks, (rank - 1) % ranks
                nodes.append(Node("s", NodeType.COMM_SEND, rank, size_bytes=size, peer=there, tag=i, data_deps=deps))
                nodes.append(Node("r", NodeType.COMM_RECV, rank, size_bytes=size, peer=back, tag=i, data_deps=deps))
            elif kind == "memory":
                remote = MemoryLocation.REMOTE
                nodes.append(Node("m", NodeType.MEM_LOAD, rank, size_bytes=size, location=remote, ctrl_deps=deps))
            elif kind == "invalid":
                nodes.append(Node("i", NodeType.INVALID, rank, ctrl_deps=deps))
            else:
                nodes.append(
                    Node("n", NodeType.COMP, rank, duration_ns=duration, num_ops=size, size_bytes=size, data_deps=deps)
                )
    graph = Graph.from_nodes(nodes, [(rank,) for rank in range(ranks)], list(groups))
    write_traces(graph, folder / "trace", dialect=CHAKRA_DIALECTS[dialect])
    return [i + 1 for i, node in enumerate(nodes) if node.rank_class == 0 and node.type == NodeType.COMM_COLL]


def _system(rng: random.Random, shape: Sequence[int]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "scheduling-policy": rng.choice(("LIFO", "FIFO", "EXPLICIT")),
        "collective-optimization": rng.choice(("baseline", "localBWAware")),
        "endpoint-delay": rng.choice((0, 10, 10.5)),
        "preferred-dataset-splits": rng.choice((1, 4, 16)),
        "active-chunks-per-dimension": rng.choice((1, 2)),
        "local-mem-bw": rng.choice((0, 50, 1600)),
    }
    for name in COLLECTIVES:
        content[f"{name}-implementation"] = [rng.choice(ALGORITHMS) for _ in shape]
    if rng.random() < 0.2:
        content |= {"roofline-enabled": 1, "peak-perf": 900, "local-mem-bw": 1600}
    if rng.random() < 0.2:
        content |= {"model-shared-bus": 1, "L": 1, "o": 2, "g": 3, "G": 0.5, "local-reduction-delay": 1}
    if rng.random() < 0.15:
        content["replay-only"] = 1
    if rng.random() < 0.15:
        content |= {"track-local-mem": 1, "local-mem-trace-filename": "tensors"}
    return content


def _custom(
    rng: random.Random, folder: Path, places: int, dialect: Dialect, collectives: Sequence[int]
) -> dict[str, Any]:
    """Write a collective spelled out, and return the keys that name it."""
    steps = [
        (Step("send", (p + 1) % places, 100), Step("receive", (p - 1) % places, 100), Step("delay", duration_ns=5))
        for p in range(places)
    ]
    write_program(folder / "program", tuple(steps), dialect)
    suffix = "-custom" if dialect == "astra-sim" else "-chakra"
    content: dict[str, Any] = {f"{rng.choice(COLLECTIVES)}-implementation{suffix}": ["program"]}
    if collectives:
        (folder / "programs.yml").write_text(json.dumps({collectives[0]: "program"}))
        content["per-node-custom-implementation"] = "programs.yml"
    return content


def _network(rng: random.Random, shape: Sequence[int]) -> dict[str, Any]:
    return {
        "topology": [rng.choice(TOPOLOGIES) for _ in shape],
        "npus_count": list(shape),
        "bandwidth": [rng.choice((1.0, 50.0, 900.0)) for _ in shape],
        "latency": [rng.choice((0.0, 0.5, 500.0)) for _ in shape],
    }


def _memory(rng: random.Random, dialect: Dialect) -> dict[str, Any]:
    kinds = ("NO_MEMORY_EXPANSION", "PER_NPU_MEMORY_EXPANSION", "PER_NODE_MEMORY_EXPANSION", "MEMORY_POOL")
    if dialect == "astra-sim":
        content = {"memory-type": rng.choice(kinds), "remote-mem-latency": 100, "remote-mem-bw": 50}
        return content | {"num-nodes": 2, "num-npus-per-node": 2}
    level = {"memory-type": rng.choice(kinds), "mem-latency": 100, "mem-bw": 50, "num-devices": 2, "pim-channels": 1}
    return rng.choice((level, {"local_mem": level, "remote_mem": level, "cxl_mem": level}))


def command_line(case: Case) -> str:
    """Return the command that runs the case's files, for a report."""
    words = ["llmservingsim astra --workload-configuration trace --system-configuration system.json"]
    words.append("--network-configuration network.yml --remote-memory-configuration memory.json")
    flags: Mapping[str, str] = {
        "groups": "comm-group-configuration",
        "as_json": "json",
        "rendezvous": "rendezvous-protocol",
    }
    for key, value in case.options.items():
        name = flags.get(key, key.replace("_", "-"))
        if value is True:
            words.append(f"--{name}")
        elif value not in (False, None):
            words.append(f"--{name} {value}")
    return " ".join(words)
