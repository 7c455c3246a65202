"""Topologies as a file or the catalogue describes them: ``kind`` says what the other keys mean."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from llmservingsim.backend.topologies.cluster import Cluster
from llmservingsim.backend.topologies.fabrics import DragonflyFabric, FatTreeFabric, RailFabric
from llmservingsim.backend.topologies.graph import Cable, Graph
from llmservingsim.backend.topologies.islands import Islands
from llmservingsim.backend.topologies.nodes import Host, MeshNode, PcieNode, SwitchNode
from llmservingsim.backend.topologies.parts import Memory
from llmservingsim.backend.topologies.torus import Torus
from llmservingsim.config.catalog import find_network
from llmservingsim.config.load import read_data
from llmservingsim.errors import ConfigError
from llmservingsim.strict import convert

TopologyKind = Cluster | MeshNode | SwitchNode | PcieNode | Torus | Islands | Graph

TOPOLOGY_KINDS = (
    Cluster,
    SwitchNode,
    MeshNode,
    PcieNode,
    Host,
    Memory,
    RailFabric,
    FatTreeFabric,
    DragonflyFabric,
    Torus,
    Islands,
    Graph,
    Cable,
)
"""Every section of a topology file, in reading order."""


def read_topology(path: Path, options: Mapping[str, Any] | None = None) -> TopologyKind:
    """Read a topology file: YAML, TOML or JSON.

    Args:
        path: The file.
        options: Keys that replace those of the file, nested as these are. A cluster's ``node`` may be the name of a
            catalogued one in the file, but not here.

    Raises:
        ConfigError: If the file cannot be read or says something wrong.
    """
    return parse_topology(read_data(path), str(path), options)


def parse_topology(data: object, where: str, options: Mapping[str, Any] | None = None) -> TopologyKind:
    """Do what `read_topology` does for data that is already read; ``where`` begins its messages."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where}: expected keys and their values, 'kind' among them, got {data!r:.40}")
    merged = _merge(_with_named_node(data), options or {})
    return cast("TopologyKind", convert(merged, cast("type[Any]", TopologyKind), where, ConfigError))


def _with_named_node(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replace the name of a catalogued node in a cluster, as ``node: DGX-H100``, by what the catalogue says."""
    node = data.get("node")
    return {**data, "node": find_network(node).topology} if isinstance(node, str) else data


def _merge(data: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace leaves; a section of another kind replaces the whole section."""
    merged = dict(data)
    for key, value in options.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping) and value.get("kind") in (None, inner.get("kind")):
            merged[key] = _merge(inner, value)
        else:
            merged[key] = value
    return merged
