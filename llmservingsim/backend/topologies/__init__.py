"""Networks as users have them: nodes, clusters and graphs of links, turned into what the backend times."""

from llmservingsim.backend.topologies.build import build_network, device_ids
from llmservingsim.backend.topologies.cluster import Cluster
from llmservingsim.backend.topologies.description import TOPOLOGY_KINDS, TopologyKind, parse_topology, read_topology
from llmservingsim.backend.topologies.fabrics import DragonflyFabric, FatTreeFabric, RailFabric
from llmservingsim.backend.topologies.graph import Cable, Graph
from llmservingsim.backend.topologies.islands import Islands
from llmservingsim.backend.topologies.nodes import Host, MeshNode, PcieNode, SwitchNode
from llmservingsim.backend.topologies.parts import Memory
from llmservingsim.backend.topologies.topology import Device, Link, Topology
from llmservingsim.backend.topologies.torus import Torus

__all__ = [
    "TOPOLOGY_KINDS",
    "Cable",
    "Cluster",
    "Device",
    "DragonflyFabric",
    "FatTreeFabric",
    "Graph",
    "Host",
    "Islands",
    "Link",
    "Memory",
    "MeshNode",
    "PcieNode",
    "RailFabric",
    "SwitchNode",
    "Topology",
    "TopologyKind",
    "Torus",
    "build_network",
    "device_ids",
    "parse_topology",
    "read_topology",
]
