"""Graphs share links max-min fair: no message could be faster without slowing one that is no faster.

A rate vector is max-min fair if and only if every flow has a bottleneck: a link that is full and on which no flow is
faster (Bertsekas and Gallager, Data Networks, 6.5.2). Expected times are solved by hand with links of whole bytes/ns.
"""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.backend import FabricModel, LinkModel, NativeBackend, NetworkModel
from llmservingsim.backend.config import LINK_GB
from llmservingsim.graph import CollectiveType, Graph, Node, NodeType

FOREVER_NS = 2**60


def link(source: int, target: int, bytes_per_ns: float, latency_ns: float = 0.0) -> LinkModel:
    # Exact: the product has fewer than 53 bits and 2^30 is a power of two.
    return LinkModel(source, target, bytes_per_ns * 1e9 / LINK_GB, latency_ns)


def backend(ranks: int, switches: int, links: list[LinkModel]) -> NativeBackend:
    return NativeBackend(NetworkModel(npus_count=[ranks], model="flow", fabric=FabricModel(links, switches=switches)))


def message(source: int, target: int, size_bytes: int) -> Graph:
    """One rank sends to another."""
    nodes = [
        Node("send", NodeType.COMM_SEND, 0, size_bytes=size_bytes, peer=target),
        Node("recv", NodeType.COMM_RECV, 1, size_bytes=size_bytes, peer=source),
    ]
    return Graph.from_nodes(nodes, [(source,), (target,)])


def start(simulation: NativeBackend, source: int, target: int, size_bytes: int) -> int:
    return simulation.submit(simulation.register(message(source, target, size_bytes)))


def finishes(simulation: NativeBackend, tickets: list[int]) -> list[int]:
    end: dict[int, int] = {}
    while len(end) < len(tickets):
        completed = simulation.advance(FOREVER_NS)
        end |= dict.fromkeys(completed, simulation.now_ns)
    return [end[ticket] for ticket in tickets]


def test_two_submissions_halve_a_link() -> None:
    simulation = backend(2, 0, [link(0, 1, 10, latency_ns=3)])
    tickets = [start(simulation, 0, 1, 1000), start(simulation, 0, 1, 1000)]
    assert finishes(simulation, tickets) == [203, 203]


def test_a_submission_that_comes_later_shares_from_then_on() -> None:
    simulation = backend(2, 0, [link(0, 1, 10)])
    first = start(simulation, 0, 1, 2000)
    assert simulation.advance(100) == []
    second = start(simulation, 0, 1, 1500)
    # The first has 1000 bytes left, at 5: until 300. The second then has 500 left, at 10.
    assert finishes(simulation, [first, second]) == [300, 350]


def test_a_long_message_and_short_ones_on_three_links_share_as_solved_by_hand() -> None:
    simulation = backend(4, 0, [link(0, 1, 10), link(1, 2, 10), link(2, 3, 4)])
    tickets = [start(simulation, *flow) for flow in [(0, 3, 2000), (0, 1, 2400), (1, 2, 8000), (2, 3, 1200)]]
    # Until 600 the third link gives 2 each to the long message and the last; the others have 8, one of them until 300.
    # Then the long one has 800 bytes left, at 4: until 800. The third has 2000 left then, at 10.
    assert finishes(simulation, tickets) == [800, 300, 1000, 600]


@dataclass(frozen=True)
class Scenario:
    """Senders and receivers hang on a row of switches; message ``i`` goes from rank ``2 i`` to rank ``2 i + 1``."""

    row: list[float]  # bytes/ns between neighbouring switches, both ways
    private: list[float]  # bytes/ns of the senders' own links
    ends: list[tuple[int, int]]  # the switches of each sender and receiver

    def links(self) -> list[LinkModel]:
        ranks = 2 * len(self.ends)
        rank_links = []
        for i, (a, b) in enumerate(self.ends):
            rank_links += [link(2 * i, ranks + a, self.private[i]), link(ranks + b, 2 * i + 1, 1000)]
        right = [link(ranks + k, ranks + k + 1, rate) for k, rate in enumerate(self.row)]
        left = [link(ranks + k + 1, ranks + k, rate) for k, rate in enumerate(self.row)]
        return rank_links + right + left

    def route(self, i: int) -> list[int]:
        a, b = self.ends[i]
        n, row = 2 * len(self.ends), len(self.row)
        between = range(n + a, n + b) if a <= b else range(n + row + b, n + row + a)
        return [2 * i, *between, 2 * i + 1]

    def backend(self) -> NativeBackend:
        return backend(2 * len(self.ends), len(self.row) + 1, self.links())


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    row = draw(st.lists(st.integers(1, 50), min_size=1, max_size=5))
    switch = st.integers(0, len(row))
    ends = draw(st.lists(st.tuples(switch, switch), min_size=1, max_size=12))
    private = draw(st.lists(st.integers(1, 60), min_size=len(ends), max_size=len(ends)))
    return Scenario([float(r) for r in row], [float(p) for p in private], ends)


@given(scenarios())
@settings(max_examples=200, deadline=None)
def test_every_flow_has_a_bottleneck(scenario: Scenario) -> None:
    simulation = scenario.backend()
    elapsed_ns = 10**6
    flows = range(len(scenario.ends))
    for i in flows:
        start(simulation, 2 * i, 2 * i + 1, 10**12)
    assert simulation.advance(elapsed_ns) == []
    carried = simulation.link_bytes() / elapsed_ns
    rate = [carried[2 * i] for i in flows]
    bandwidth = [model.bandwidth_bytes_per_ns for model in scenario.links()]
    tolerance = 1e-5  # bytes per ns: counts are cut to whole bytes, of up to 13 flows in 10^6 ns
    assert all(carried <= [b + tolerance for b in bandwidth])
    for i in flows:
        assert any(
            carried[k] >= bandwidth[k] - tolerance
            and all(rate[j] <= rate[i] + tolerance for j in flows if k in scenario.route(j))
            for k in scenario.route(i)
        )


@given(scenarios(), st.data())
@settings(max_examples=100, deadline=None)
def test_all_bytes_arrive_and_no_link_carries_more_than_it_can(scenario: Scenario, data: st.DataObject) -> None:
    simulation = scenario.backend()
    sizes = [data.draw(st.integers(1, 10**5)) for _ in scenario.ends]
    starts = sorted(data.draw(st.integers(0, 1000)) for _ in scenario.ends)
    done: set[int] = set()
    tickets = set()
    for i, (at, size) in enumerate(zip(starts, sizes, strict=True)):
        while simulation.now_ns < at:
            done.update(simulation.advance(at))
        tickets.add(start(simulation, 2 * i, 2 * i + 1, size))
    while done != tickets:
        done.update(simulation.advance(FOREVER_NS))
    for k, model in enumerate(scenario.links()):
        crossing = [size for i, size in enumerate(sizes) if k in scenario.route(i)]
        assert simulation.link_bytes()[k] == sum(crossing)
        # A flow leaves less than 1 ns early.
        assert sum(crossing) <= model.bandwidth_bytes_per_ns * (simulation.link_busy_ns()[k] + len(crossing))


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 10**4)), min_size=1, max_size=20))
def test_a_link_never_idles_while_somebody_waits_for_it(messages: list[tuple[int, int]]) -> None:
    rate = 7
    simulation = backend(2, 0, [link(0, 1, rate)])
    done: list[int] = []
    busy_until = 0.0
    for at, size in sorted(messages):
        while simulation.now_ns < at:
            done += simulation.advance(at)
        start(simulation, 0, 1, size)
        busy_until = max(busy_until, at) + size / rate
    while len(done) < len(messages):
        done += simulation.advance(FOREVER_NS)
    # Whatever the shares, work is conserved: only the nanoseconds cut off at each end are missing.
    assert simulation.now_ns == pytest.approx(busy_until, abs=len(messages))


@given(
    late_ns=st.lists(st.integers(0, 200_000), min_size=2, max_size=8),
    kind=st.sampled_from([CollectiveType.ALL_REDUCE, CollectiveType.ALL_GATHER, CollectiveType.REDUCE_SCATTER]),
    size_bytes=st.integers(1, 2**20),
)
@settings(deadline=None)
def test_where_every_link_has_one_connection_flows_queue_like_whole_messages(
    late_ns: list[int], kind: CollectiveType, size_bytes: int
) -> None:
    """A ring over a ring, ranks entering at any time: what has piled up at a late rank goes out one after another.

    Every message crosses one link, where storing it whole before it goes on makes no difference.
    """
    ranks = len(late_ns)
    nodes = []
    for rank, late in enumerate(late_ns):
        nodes.append(Node("work", NodeType.COMP, rank, duration_ns=late))
        nodes.append(
            Node("ring", NodeType.COMM_COLL, rank, size_bytes=size_bytes, collective=kind, data_deps=(2 * rank,))
        )
    graph = Graph.from_nodes(nodes, [(r,) for r in range(ranks)])
    ends = {}
    for model in ("aware", "flow"):
        network = NetworkModel(["FullyConnected"], [ranks], [50.0], [500.0], model=model)  # type: ignore[arg-type]
        simulation = NativeBackend(network)
        ticket = simulation.submit(simulation.register(graph))
        simulation.advance(FOREVER_NS)
        ends[model] = simulation.rank_finish_ns(ticket).tolist()
    assert ends["flow"] == ends["aware"]
