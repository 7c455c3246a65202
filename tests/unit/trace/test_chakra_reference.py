"""Traces made by other tools are read."""

import json
from pathlib import Path

import pytest

from llmservingsim.graph import NodeType
from llmservingsim.trace.chakra import read_traces

CONFIGS = Path(__file__).parents[4] / "shared/data/astra/astra_reference_configs"
pytestmark = pytest.mark.skipif(not CONFIGS.is_dir(), reason=f"{CONFIGS} is absent")

GROUPS = {1: [0, 1, 2, 3, 4, 5, 6, 7], 2: [0, 1, 2, 3, 4, 5, 6, 7]}


def prefixes(folder):
    return sorted({path.with_name(path.name.removesuffix(".0.et")) for path in (CONFIGS / folder).rglob("*.0.et")})


@pytest.mark.parametrize(("folder", "dialect", "least"), [
    ("workload", "mlcommons", 100),
    ("workload_casys", "llmservingsim2", 20),
])  # fmt: skip
def test_every_trace_is_read(folder, dialect, least):
    found = prefixes(folder)
    assert len(found) > least
    for prefix in found:
        graph = read_traces(prefix, groups=GROUPS, dialect=dialect)
        assert len(graph.rank_classes) == len(list(prefix.parent.glob(f"{prefix.name}.*.et")))
        assert dialect == "llmservingsim2" or len(graph) >= len(graph.rank_classes)


def test_computing_in_memory_is_read_with_its_channels():
    graph = read_traces(CONFIGS / "workload_casys/pim8_on_4ch_n1/et", dialect="llmservingsim2")
    pim = graph.type == NodeType.PIM_COMP
    assert sorted(graph.channel[pim].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_group_files_name_the_groups_of_the_traces():
    text = (CONFIGS / "comm_group" / "even_odd_8.json").read_text()
    groups = {int(group): ranks for group, ranks in json.loads(text).items()}
    graph = read_traces(CONFIGS / "workload/all_reduce_1M_n8_pgB/et", groups=groups)
    assert graph.groups == ((0, 2, 4, 6), (1, 3, 5, 7))
    assert graph.group.tolist() == [rank % 2 for rank in graph.rank_class.tolist()]
