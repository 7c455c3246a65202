"""Traces made by other tools are read."""

import json
from pathlib import Path

import pytest

from llmservingsim.errors import TraceError
from llmservingsim.graph import NodeType
from llmservingsim.trace.chakra import read_traces

CONFIGS = Path(__file__).parents[4] / "shared/data/astra/astra_reference_configs"
pytestmark = pytest.mark.skipif(not CONFIGS.is_dir(), reason=f"{CONFIGS} is absent")

GROUPS = {1: [0, 1, 2, 3, 4, 5, 6, 7], 2: [0, 1, 2, 3, 4, 5, 6, 7]}


def prefixes(folder):
    return sorted({path.with_name(path.name.removesuffix(".0.et")) for path in (CONFIGS / folder).rglob("*.0.et")})


def outcomes(folder, dialect):
    """Read every trace; return the graphs and, for those refused, the reasons."""
    graphs, reasons = {}, {}
    for prefix in prefixes(folder):
        try:
            graphs[prefix] = read_traces(prefix, groups=GROUPS, dialect=dialect)
        except TraceError as error:
            reasons[prefix] = str(error)
    return graphs, reasons


def test_every_trace_is_read_unless_it_leaves_out_dimensions():
    graphs, reasons = outcomes("workload", "mlcommons")
    assert len(graphs) > 100
    for prefix, graph in graphs.items():
        assert len(graph.rank_classes) == len(list(prefix.parent.glob(f"{prefix.name}.*.et")))
        assert len(graph) >= len(graph.rank_classes)
    for reason in reasons.values():
        assert "'involved_dim' is [" in reason
        assert "False" in reason


def test_every_trace_of_the_llmservingsim_2_dialect_is_read_unless_a_graph_cannot_hold_it():
    graphs, reasons = outcomes("workload_casys", "llmservingsim2")
    assert len(graphs) > 20
    assert any((g.type == NodeType.COMM_COLL).any() for g in graphs.values())
    known = ("'involved_dim' is [", "is a PIM_COMP", "is on memory device")
    assert [r for r in reasons.values() if not any(k in r for k in known)] == []


def test_group_files_name_the_groups_of_the_traces():
    text = (CONFIGS / "comm_group" / "even_odd_8.json").read_text()
    groups = {int(group): ranks for group, ranks in json.loads(text).items()}
    graph = read_traces(CONFIGS / "workload/all_reduce_1M_n8_pgB/et", groups=groups)
    assert graph.groups == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert graph.group.tolist() == [rank % 2 for rank in graph.rank_class.tolist()]
