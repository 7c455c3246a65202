"""Runs over arbitrary links."""

from typing import Any

import pytest

from llmservingsim import simulate
from llmservingsim.backend import NativeBackend, NetworkModel, SystemModel
from llmservingsim.backend.config import CongestionModel
from llmservingsim.backend.topologies import Host, PcieNode, SwitchNode, build_network
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType
from llmservingsim.workload import ArrivalSpec, FixedLength, GeneratorSpec

GIB = 2**30
NODE = SwitchNode(npus=4, bandwidth="50GiB/s", latency="500ns")


def all_reduce_ns(network: NetworkModel, size: int = 2**20) -> int:
    ranks = tuple(range(network.npus))
    node = Node("all_reduce", NodeType.COMM_COLL, collective=CollectiveType.ALL_REDUCE, group=0, size_bytes=size)
    backend = NativeBackend(network, SystemModel())
    backend.submit(backend.register(Graph.from_nodes([node], rank_classes=(ranks,), groups=(ranks,))))
    backend.advance(2**62)
    return backend.now_ns


@pytest.mark.parametrize("model", ["unaware", "aware"])
def test_a_node_with_a_switch_takes_what_a_switch_of_the_grid_takes(model: CongestionModel) -> None:
    grid = NetworkModel(["Switch"], [4], [50.0], [500.0], model)
    assert all_reduce_ns(build_network(NODE, model)) == all_reduce_ns(grid)


@pytest.mark.parametrize("model", ["aware", "flow"])
def test_a_shared_uplink_is_paid_for(model: CongestionModel) -> None:
    """Two accelerators per socket: in the ring 0-1-2-3 one message each way crosses between the sockets, and two do in
    the ring 0-2-1-3, so that narrow sockets cost at least as much as wide ones."""

    def node(width: str) -> PcieNode:
        host = Host(
            sockets=2,
            switches_per_socket=0,
            bandwidth="32GB/s",
            latency="250ns",
            inter_socket_bandwidth=width,
            inter_socket_latency="150ns",
            memory_bandwidth="200GB/s",
            memory_latency="100ns",
        )
        return PcieNode(npus=4, host=host)

    narrow, wide = (all_reduce_ns(build_network(node(w), model)) for w in ("8GB/s", "800GB/s"))
    assert narrow > wide


def serve(**network: Any) -> dict[str, Any]:
    data = {
        "nodes": [{"instances": [{"model": "meta-llama/Llama-3.1-8B", "hardware": "H100", "tensor_parallel_size": 4}]}],
        "network": network,
    }
    load = GeneratorSpec(20, FixedLength(200), FixedLength(10), ArrivalSpec("poisson", {"request_rate": 20}))
    return simulate(data, load).summary


@pytest.mark.parametrize("model", ["unaware", "aware", "flow"])
def test_a_run_over_pcie_is_slower_than_one_over_nvlink(model: str) -> None:
    nvlink, pcie = (serve(topology=name, model=model) for name in ("DGX-H100", "PCIe4-workstation-4"))
    assert nvlink["requests"]["finished"] == pcie["requests"]["finished"] == 20
    assert nvlink["latency_ms"]["tpot"]["mean"] < pcie["latency_ms"]["tpot"]["mean"]


@pytest.mark.parametrize("model", ["unaware", "aware", "flow"])
def test_an_instance_per_server_of_a_cluster_is_served(model: str) -> None:
    instance = {"model": "meta-llama/Llama-3.1-8B", "hardware": "H100", "tensor_parallel_size": 8}
    data = {
        "nodes": [{"instances": [instance]}, {"instances": [instance]}],
        "network": {"topology": "DGX-H100-SuperPOD", "options": {"nodes": 2}, "model": model},
    }
    load = GeneratorSpec(10, FixedLength(200), FixedLength(5), ArrivalSpec("poisson", {"request_rate": 20}))
    assert simulate(data, load).summary["requests"]["finished"] == 10
