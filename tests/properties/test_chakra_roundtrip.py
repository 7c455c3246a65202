"""Whatever graph is written comes back as its expansion, field by field."""

import json
import tempfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.graph import ALL_DIMENSIONS, CollectiveType, Graph, MemoryLocation, Node, NodeType
from llmservingsim.trace.chakra import expand, read_traces, write_comm_groups, write_traces

MLCOMMONS = [kind for kind in NodeType if kind != NodeType.PIM_COMP]
SIZES = st.integers(0, 2**63 - 1)
DURATIONS = st.one_of(st.integers(0, 5000), st.integers(0, 2**63 - 1))


@st.composite
def node_of(draw, rank_class, classes, groups, earlier, kinds):
    """Draw a node of a class; ``earlier`` are the indices it may depend on."""
    kind = draw(st.sampled_from(kinds))
    deps = st.lists(st.sampled_from(earlier), max_size=3).map(tuple) if earlier else st.just(())
    common = {
        "name": draw(st.text(max_size=5)),
        "type": kind,
        "rank_class": rank_class,
        "is_cpu_op": draw(st.booleans()),
        "data_deps": draw(deps),
        "ctrl_deps": draw(deps),
        "duration_ns": draw(DURATIONS),
        "size_bytes": draw(SIZES),
    }
    if kind == NodeType.COMM_COLL:
        allowed = [g for g, ranks in enumerate(groups) if set(classes[rank_class]) <= set(ranks)]
        common |= {
            "collective": draw(st.sampled_from(CollectiveType)),
            "group": draw(st.sampled_from([-1, *allowed])),
            "involved_dims": draw(st.one_of(st.just(ALL_DIMENSIONS), st.integers(0, ALL_DIMENSIONS))),
            "priority": draw(st.integers(-(2**31), 2**31 - 1)),
        }
    elif kind in (NodeType.COMM_SEND, NodeType.COMM_RECV):
        mates = [r for c in classes if len(c) == len(classes[rank_class]) for r in c]
        common |= {"peer": draw(st.sampled_from(mates)), "tag": draw(st.integers(-(2**31), 2**31 - 1))}
    elif kind in (NodeType.MEM_LOAD, NodeType.MEM_STORE, NodeType.PIM_COMP):
        common |= {"location": draw(st.sampled_from(MemoryLocation)), "device": draw(st.integers(0, 2**31 - 1))}
        if kind == NodeType.PIM_COMP:
            common["channel"] = draw(st.integers(0, 2**31 - 1))
    else:
        common["num_ops"] = draw(SIZES)
    return Node(**common)


@st.composite
def graphs(draw, kinds=MLCOMMONS, *, grouped=True):
    """Draw a graph whose classes share out the ranks 0 to at most 5, every class with at least one node."""
    ranks = draw(st.permutations(range(draw(st.integers(1, 6)))))
    cuts = sorted(draw(st.sets(st.integers(1, len(ranks) - 1)))) if len(ranks) > 1 else []
    classes = [tuple(ranks[a:b]) for a, b in zip([0, *cuts], [*cuts, len(ranks)], strict=True)]
    group = st.permutations(ranks).flatmap(lambda p: st.integers(1, len(p)).map(lambda n: p[:n]))
    groups = draw(st.lists(group)) if grouped else []
    owners = [*range(len(classes)), *draw(st.lists(st.integers(0, len(classes) - 1), max_size=8))]
    nodes = []
    for i, owner in enumerate(owners):
        earlier = [j for j in range(i) if owners[j] == owner]
        nodes.append(draw(node_of(owner, classes, groups, earlier, kinds)))
    return Graph.from_nodes(nodes, rank_classes=classes, groups=groups)


def as_on_disk(graph):
    """Return the expansion as it is read: groups of every rank as no group, METADATA nodes as INVALID ones."""
    expanded = expand(graph)
    expanded = replace(expanded, type=np.where(expanded.type == NodeType.METADATA, np.uint8(0), expanded.type))
    everyone = {r for (r,) in expanded.rank_classes}
    whole = [g for g, ranks in enumerate(graph.groups) if set(ranks) == everyone]
    return replace(expanded, group=np.where(np.isin(expanded.group, whole), np.int32(-1), expanded.group))


@settings(deadline=None, max_examples=150)
@given(graphs())
def test_a_graph_comes_back_as_its_expansion(graph):
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "t"
        paths = write_traces(graph, prefix)
        write_comm_groups(graph, Path(folder) / "groups.json")
        groups = {int(g): ranks for g, ranks in json.loads((Path(folder) / "groups.json").read_text()).items()}
        read = read_traces(prefix, groups=groups)
        assert [p.name for p in paths] == [f"t.{rank}.et" for rank in range(len(read.rank_classes))]
    assert_equal(read, as_on_disk(graph))


def assert_equal(read, expected):
    for field in fields(Graph):
        want, got = getattr(expected, field.name), getattr(read, field.name)
        if isinstance(want, np.ndarray):
            assert got.dtype == want.dtype, field.name
            np.testing.assert_array_equal(got, want, err_msg=field.name)
        else:
            assert got == want, field.name


@settings(deadline=None, max_examples=50)
@given(graphs(list(NodeType), grouped=False))
def test_a_graph_comes_back_from_the_dialect_of_llmservingsim_2_but_for_the_kind_of_its_dependencies(graph):
    nodes = [
        replace(n, data_deps=tuple(dict.fromkeys((*n.data_deps, *n.ctrl_deps))), ctrl_deps=()) for n in graph.nodes()
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_traces(graph, Path(folder) / "t", dialect="llmservingsim2")
        read = read_traces(Path(folder) / "t", dialect="llmservingsim2")
    assert_equal(read, as_on_disk(Graph.from_nodes(nodes, graph.rank_classes)))


@settings(deadline=None, max_examples=30)
@given(graphs())
def test_equal_graphs_are_written_as_equal_bytes(graph):
    with tempfile.TemporaryDirectory() as folder:
        first = write_traces(graph, Path(folder) / "a")
        second = write_traces(Graph.from_nodes(graph.nodes(), graph.rank_classes, graph.groups), Path(folder) / "b")
        assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
