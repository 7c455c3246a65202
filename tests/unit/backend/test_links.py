"""Networks with links: fabrics, a user's own routes, and what links carried."""

from collections.abc import Callable, Sequence
from threading import Thread
from typing import Any

import numpy as np
import pytest

from llmservingsim.backend import FabricModel, LinkModel, NativeBackend, NetworkModel
from llmservingsim.backend.config import LINK_GB, CongestionModel
from llmservingsim.graph import Graph, Node, NodeType

FOREVER_NS = 2**60
GB = 1e9 / LINK_GB  # one byte per nanosecond


def message(source: int, target: int, size_bytes: int, wait_ns: int = 0) -> Graph:
    """One rank computes and then sends to another."""
    nodes = [
        Node("wait", NodeType.COMP, 0, duration_ns=wait_ns),
        Node("send", NodeType.COMM_SEND, 0, size_bytes=size_bytes, peer=target, data_deps=(0,)),
        Node("recv", NodeType.COMM_RECV, 1, size_bytes=size_bytes, peer=source),
    ]
    return Graph.from_nodes(nodes, [(source,), (target,)])


# Rank 0 reaches rank 1 directly or, on faster links, through a switch.
TRIANGLE = [LinkModel(0, 1, GB, 5.0), LinkModel(0, 2, 10 * GB, 5.0), LinkModel(2, 1, 10 * GB, 5.0)]


def triangle(model: CongestionModel, route: Callable[[int, int], Sequence[int]] | None = None) -> NativeBackend:
    fabric = FabricModel(TRIANGLE, switches=1, route=route)
    return NativeBackend(NetworkModel(npus_count=[2], model=model, fabric=fabric))


def finish_ns(backend: NativeBackend, graph: Graph) -> int:
    backend.submit(backend.register(graph))
    backend.advance(FOREVER_NS)
    return backend.now_ns


@pytest.mark.parametrize(
    ("model", "direct", "around"),
    [("unaware", 105, 20), ("flow", 105, 20), ("aware", 105, 30)],
)
def test_a_message_takes_the_shortest_path_or_the_users_route(model: CongestionModel, direct: int, around: int) -> None:
    assert finish_ns(triangle(model), message(0, 1, 100)) == direct
    assert finish_ns(triangle(model, lambda source, target: [1, 2]), message(0, 1, 100)) == around
    assert finish_ns(triangle(model, lambda source, target: np.array([1, 2])), message(0, 1, 100)) == around


def test_a_route_is_asked_for_once_per_pair() -> None:
    asked: list[tuple[int, int]] = []

    def route(source: int, target: int) -> list[int]:
        asked.append((source, target))
        return [0]

    backend = triangle("flow", route)
    for _ in range(3):
        finish_ns(backend, message(0, 1, 100, wait_ns=10))
    assert asked == [(0, 1)]


@pytest.mark.parametrize("wait_ns", [0, 10])
@pytest.mark.parametrize("model", ["unaware", "aware", "flow"])
def test_what_a_users_route_raises_comes_out(model: CongestionModel, wait_ns: int) -> None:
    def route(source: int, target: int) -> list[int]:
        raise LookupError(f"no way from {source} to {target}")

    with pytest.raises(LookupError, match="no way from 0 to 1"):
        finish_ns(triangle(model, route), message(0, 1, 100, wait_ns))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("ab", r"from device 0 to 1 must be a sequence of indices of links, not 'ab'"),
        ([0.5], r"must be a sequence of indices of links, not \[0.5\]"),
        ([], "from rank 0 to rank 1 is empty"),
        ([1], r"from rank 0 to rank 1 ends at switch 0 \(device 2\)"),
        ([3], "has link 3; there are links 0 to 2"),
    ],
)
def test_a_wrong_route_is_refused(answer: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        finish_ns(triangle("flow", lambda source, target: answer), message(0, 1, 100))


def test_simulations_that_ask_for_routes_run_in_threads() -> None:
    ends: list[int] = []

    def run() -> None:
        backend = triangle("flow", lambda source, target: [1, 2])
        for _ in range(50):
            finish_ns(backend, message(0, 1, 100, wait_ns=10))
        ends.append(backend.now_ns)

    threads = [Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [50 * 30] * 4


def test_a_route_cannot_use_the_backend_that_asks() -> None:
    backends: list[NativeBackend] = []

    def route(source: int, target: int) -> list[int]:
        backends[0].advance(FOREVER_NS)
        return [0]

    backends.append(triangle("flow", route))
    with pytest.raises(RuntimeError, match="the backend is in use"):
        finish_ns(backends[0], message(0, 1, 100))
    backends.clear()  # a cycle through the extension, which the garbage collector does not see


def test_link_bandwidth_counts_gigabytes_of_two_to_the_thirty() -> None:
    assert LinkModel(0, 1, 50.0).bandwidth_bytes_per_ns == 53.6870912


def test_links_of_a_fabric_say_what_they_carried() -> None:
    backend = triangle("flow", lambda source, target: [1, 2])
    finish_ns(backend, message(0, 1, 100, wait_ns=7))
    assert backend.link_ends() == [(0, 1), (0, 2), (2, 1)]
    assert backend.link_bytes().tolist() == [0, 100, 100]
    assert backend.link_busy_ns().tolist() == [0, 10, 10]


def test_links_of_a_grid_are_listed_when_they_were_used() -> None:
    backend = NativeBackend(NetworkModel(["Switch"], [4], [10 * GB], [5.0], model="aware"))
    assert backend.link_ends() == []
    finish_ns(backend, message(2, 1, 100))
    assert backend.link_ends() == [(2, 4), (4, 1)]
    assert backend.link_bytes().tolist() == [100, 100]
    assert backend.link_busy_ns().tolist() == [10, 10]


def test_messages_occupy_no_links_without_congestion() -> None:
    backend = NativeBackend(NetworkModel(["Switch"], [4], [10 * GB], [5.0]))
    finish_ns(backend, message(2, 1, 100))
    assert backend.link_bytes().size == backend.link_busy_ns().size == 0


def test_a_network_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="npus_count is empty"):
        NativeBackend(NetworkModel())
    with pytest.raises(ValueError, match="only a fabric with links needs none but npus_count"):
        NativeBackend(NetworkModel(npus_count=[4]))
    with pytest.raises(ValueError, match="the fabric has no link"):
        NativeBackend(NetworkModel(npus_count=[4], fabric=FabricModel([], switches=1)))
