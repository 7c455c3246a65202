"""Topology files: what they say, what options replace, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmservingsim.backend.topologies import Cluster, Graph, Torus, build_network, parse_topology, read_topology
from llmservingsim.errors import ConfigError

NETWORKS = sorted((Path(__file__).parents[4] / "inputs" / "networks").iterdir())

GRAPH: dict[str, Any] = {
    "kind": "graph",
    "npus": ["gpu0", "gpu1"],
    "memories": ["cxl0"],
    "switches": ["root"],
    "cables": [
        {"between": ["gpu0", "root"], "bandwidth": "25GB/s", "latency": "2us"},
        {"between": ["gpu1", "root"], "bandwidth": "25GB/s", "latency": "2us", "count": 2},
        {"between": ["cxl0", "root"], "bandwidth": "200Gbit/s"},
    ],
}


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.name)
def test_every_example_builds(path: Path) -> None:
    network = build_network(read_topology(path))
    assert network.npus > 1


def test_a_graph_has_its_devices_by_name_and_its_units() -> None:
    """200 Gbit/s are 25 GB/s; a cable that is there twice is four links."""
    graph = parse_topology(GRAPH, "graph.yaml")
    network = build_network(graph)
    assert isinstance(graph, Graph)
    assert network.fabric is not None
    assert (network.npus_count, network.fabric.endpoints, network.fabric.switches) == ([2], 1, 1)
    assert {x.bandwidth_gbps for x in network.fabric.links} == {25e9 / 2**30}
    assert [x.latency_ns for x in network.fabric.links] == [2000] * 6 + [0] * 2


def test_a_shape_and_an_efficiency_are_taken() -> None:
    data = GRAPH | {"npus": ["gpu0", "gpu1"], "shape": [1, 2], "efficiency": 0.5}
    network = build_network(parse_topology(data, "graph.yaml"))
    assert network.fabric is not None
    assert network.npus_count == [1, 2]
    assert network.fabric.links[0].bandwidth_gbps == 12.5e9 / 2**30


def test_options_replace_leaves_and_whole_sections_of_another_kind() -> None:
    data = {
        "kind": "cluster",
        "nodes": 2,
        "node": "DGX-H100",
        "fabric": {"kind": "rail", "bandwidth": "50GB/s", "latency": "1us", "pxn": False},
    }
    nested = parse_topology(data, "x", {"nodes": 3, "fabric": {"bandwidth": "25GB/s"}, "node": {"nics": 4}})
    assert isinstance(nested, Cluster)
    assert (nested.nodes, nested.node.npus, nested.node.nics) == (3, 8, 4)
    assert nested.fabric.bandwidth == "25GB/s"
    assert nested.fabric.pxn is False  # type: ignore[union-attr]
    tree = {"kind": "fat_tree", "bandwidth": "50GB/s", "latency": "1us"}
    other = parse_topology(data, "x", {"fabric": tree})
    assert isinstance(other, Cluster)
    assert type(other.fabric).__name__ == "FatTreeFabric"


def test_a_file_is_read_in_any_of_the_three_formats(write_config: Callable[..., Path]) -> None:
    data = {"kind": "torus", "npus_count": [4, 4], "bandwidth": "50GB/s", "latency": "1us"}
    yaml = 'kind: torus\nnpus_count: [4, 4]\nbandwidth: "50GB/s"\nlatency: 1us\n'
    toml = 'kind = "torus"\nnpus_count = [4, 4]\nbandwidth = "50GB/s"\nlatency = "1us"\n'
    files = [write_config(data, "t.json"), write_config(yaml, "t.yaml"), write_config(toml, "t.toml")]
    assert {read_topology(path) for path in files} == {
        Torus(npus_count=(4, 4), bandwidth="50GB/s", latency="1us"),
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "grph"}, r"t: kind: Invalid value 'grph' \(did you mean 'graph'\?\); expected one of cluster, graph"),
        ({"npu": 3}, r"t: unknown key 'npu' in a section \(did you mean 'npus'\?\)"),
        ({"npus": []}, "t: npus: expected array of length >= 1"),
        ({"shape": [3]}, r"t: shape: \[3\] has 3 places for 2 npus"),
        ({"npus_per_node": 3}, "t: npus_per_node: expected a number that divides the 2 npus, got 3"),
        ({"switches": ["root", "gpu0"]}, "t: npus, memories and switches: 'gpu0' stands there twice"),
        ({"switches": ["rot"]}, r"t: cables\[0\].between: there is no device 'root' \(did you mean 'rot'\?\)"),
        (
            {"cables": [{"between": ["gpu0", "gpu1"], "bandwidth": "25GBps"}]},
            r"t: cables\[0\]: bandwidth: 'GBps' is no unit of bandwidth \(did you mean 'GB/s'\?\)",
        ),
    ],
)
def test_a_wrong_description_is_refused_with_the_place_and_the_way_out(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_topology(GRAPH | change, "t")


def test_an_unknown_node_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"network 'DGX-H10' is not in the catalogue \(did you mean 'DGX-H100'\?\)"):
        parse_topology({"kind": "cluster", "node": "DGX-H10"}, "t")


def test_a_cluster_of_what_is_no_node_is_refused() -> None:
    wire = {"kind": "rail", "bandwidth": "50GB/s", "latency": "1us"}
    with pytest.raises(ConfigError, match=r"t: node.kind: Invalid value 'torus'.*expected one of mesh, pcie, switch"):
        parse_topology({"kind": "cluster", "nodes": 2, "node": "TPU-v4-4x4x4", "fabric": wire}, "t")


def test_what_holds_no_keys_is_refused() -> None:
    with pytest.raises(ConfigError, match="t: expected keys and their values, 'kind' among them, got 3"):
        parse_topology(3, "t")
