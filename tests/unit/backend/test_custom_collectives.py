"""System files name Chakra traces that spell collectives out."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmservingsim.backend.astra_files import read_programs_by_node, read_system, write_system
from llmservingsim.backend.config import SystemModel
from llmservingsim.backend.steps import Step
from llmservingsim.errors import TraceError
from llmservingsim.graph import Graph, MemoryLocation, Node, NodeType
from llmservingsim.trace.chakra import write_traces

SEND, RECV, COMP = NodeType.COMM_SEND, NodeType.COMM_RECV, NodeType.COMP

# Two places: each sends to the other, waits for what comes and then adds for 5 ns.
EXCHANGE = tuple(
    (
        Step("send", 1 - place, 64, tag=3),
        Step("receive", 1 - place, 64, tag=3),
        Step("delay", duration_ns=5, after=(0, 1)),
    )
    for place in (0, 1)
)


def put(prefix: Path, *nodes: Node, dialect: str = "mlcommons") -> str:
    ranks = 1 + max(n.rank_class for n in nodes)
    write_traces(Graph.from_nodes(nodes, [(r,) for r in range(ranks)]), prefix, dialect=dialect)
    return str(prefix)


def exchange(prefix: Path, dialect: str = "mlcommons") -> str:
    nodes = []
    for place in (0, 1):
        first = len(nodes)
        nodes += [
            Node("s", SEND, place, size_bytes=64, peer=1 - place, tag=3),
            Node("r", RECV, place, size_bytes=64, peer=1 - place, tag=3),
            Node("add", COMP, place, duration_ns=5, data_deps=(first,), ctrl_deps=(first + 1,)),
        ]
    return put(prefix, *nodes, dialect=dialect)


def system(tmp_path: Path, **keys: Any) -> Path:
    path = tmp_path / "s.json"
    path.write_text(json.dumps({key.replace("_", "-"): value for key, value in keys.items()}))
    return path


def test_a_collective_is_spelled_out_by_one_trace_per_place(tmp_path: Path) -> None:
    prefix = exchange(tmp_path / "x")
    path = system(tmp_path, all_reduce_implementation_custom=[prefix], all_to_all_implementation_custom=prefix)
    model = read_system(path)
    assert model.programs == (EXCHANGE,)
    assert model.custom == {"all_reduce": 0, "all_to_all": 0}


def test_llmservingsim_2_has_other_keys_and_none_for_reduce_scatter(tmp_path: Path) -> None:
    prefix = exchange(tmp_path / "x", dialect="llmservingsim2")
    keys = {"all_gather_implementation_chakra": [prefix], "reduce_scatter_implementation_chakra": [prefix]}
    path = system(tmp_path, **keys, all_reduce_implementation_custom=["nowhere"])
    model = read_system(path, dialect="llmservingsim")
    assert (model.programs, model.custom, model.dialect) == ((EXCHANGE,), {"all_gather": 0}, "llmservingsim")
    assert read_system(system(tmp_path, **keys)).custom == {}


def test_nodes_may_have_programs_of_their_own(tmp_path: Path) -> None:
    first, second = exchange(tmp_path / "x"), put(tmp_path / "y", Node("wait", COMP))
    (tmp_path / "nodes.yml").write_text(f"12: {second}\n7: {first}\n")
    path = system(
        tmp_path,
        all_reduce_implementation_custom=[first],
        per_node_custom_implementation=str(tmp_path / "nodes.yml"),
    )
    assert read_system(path).programs == (EXCHANGE, ((Step("delay", duration_ns=1),),))
    assert read_programs_by_node(path) == {12: 1, 7: 0}
    assert read_programs_by_node(system(tmp_path)) == {}


def test_a_system_with_programs_survives_writing_and_reading(tmp_path: Path) -> None:
    model = SystemModel(
        collective_optimization="baseline", programs=(EXCHANGE, EXCHANGE[:1] * 2), custom={"all_gather": 0}
    )
    write_system(tmp_path / "s.json", model, {5: 1})
    assert read_system(tmp_path / "s.json") == model
    assert read_programs_by_node(tmp_path / "s.json") == {5: 1}


@pytest.mark.parametrize("step", [Step("reduce", size_bytes=4), Step("delay")])
def test_a_step_without_a_node_is_not_written(tmp_path: Path, step: Step) -> None:
    model = SystemModel(programs=(((step,),),), custom={"all_gather": 0})
    with pytest.raises(TraceError, match=rf"s\.program0\.0\.et: step 0 is a {step.kind} without a duration"):
        write_system(tmp_path / "s.json", model)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (Node("m", NodeType.MEM_LOAD, location=MemoryLocation.LOCAL), "node 'm' is a MEM_LOAD; expected COMM_SEND"),
        (Node("c", NodeType.COMM_COLL), "node 'c' is a COMM_COLL"),
        (Node("s", SEND, peer=1, size_bytes=1), "exchanges with place 1; expected 0 to 0"),
    ],
)
def test_a_program_of_other_nodes_is_refused(tmp_path: Path, node: Node, message: str) -> None:
    path = system(tmp_path, all_gather_implementation_custom=[put(tmp_path / "x", node)])
    with pytest.raises(TraceError, match=rf"x\.0\.et: .*{message}"):
        read_system(path)


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"none\.0\.et: no such trace"):
        read_system(system(tmp_path, all_gather_implementation_custom=[str(tmp_path / "none")]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: y\n", "x: expected the id of a node as the key"),
        ("3: 4\n", "3: expected a word, not 4"),
        ("- 1\n", "object"),
    ],
)
def test_a_wrong_list_of_nodes_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "nodes.yml").write_text(text)
    with pytest.raises(TraceError, match=rf"nodes\.yml: .*{message}"):
        read_system(system(tmp_path, per_node_custom_implementation=str(tmp_path / "nodes.yml")))
