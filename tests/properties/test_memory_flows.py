"""Accesses of devices behind ports and switches: random fabrics, random accesses.

Rates are max-min fair if and only if every access has a bottleneck: a link or device that is full and on which no
access is faster (Radunovic and Le Boudec, 2007, for accesses that take different parts of links). What an access takes
of a link is worked out here once more, from the definition.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.backend import (
    MemoryLevelModel,
    MemoryLinkModel,
    MemoryModel,
    MemoryRateModel,
    NativeBackend,
    NetworkModel,
)
from llmservingsim.graph import Graph, MemoryLocation, Node, NodeType

FOREVER_NS = 2**60


@dataclass(frozen=True)
class Access:
    """Device 0 and above, or a set of devices as ``-2 - k``; -1 is all."""

    device: int
    is_store: bool
    size_bytes: int
    start_ns: int


@dataclass(frozen=True)
class Scenario:
    """Access ``i`` is that of rank ``i``, which has a port of its own, link ``i``, and perhaps shares another one."""

    ports: list[int]
    shared: list[int]  # bandwidths of links before several ranks
    of_rank: list[int]  # which of these, -1: none
    uplinks: list[int]
    behind: list[int]  # the switch of each device, -1: none; even ones are behind the one before
    rates: list[tuple[int, int]]  # of each device: read, write
    sets: list[list[int]]
    accesses: list[Access]

    def level(self) -> MemoryLevelModel:
        links = [*self.ports, *self.shared, *self.uplinks]
        return MemoryLevelModel(
            "MEMORY_DEVICES",
            discipline="flow",
            num_devices=len(self.rates),
            rates=[MemoryRateModel(0, float(read), float(write)) for read, write in self.rates],
            interleaves=self.sets,
            links=[MemoryLinkModel(float(bandwidth)) for bandwidth in links],
            rank_links=[[i, *self.shared_links(i)] for i in range(len(self.ports))],
            device_links=[self.chain(device) for device in range(len(self.rates))],
        )

    def shared_links(self, rank: int) -> list[int]:
        return [len(self.ports) + self.of_rank[rank]] if self.of_rank[rank] >= 0 else []

    def chain(self, device: int) -> list[int]:
        first, switch = len(self.ports) + len(self.shared), self.behind[device]
        if switch < 0:
            return []
        return [first + switch - 1, first + switch] if switch % 2 else [first + switch]

    def devices(self, number: int) -> Sequence[int]:
        if number >= 0:
            return [number]
        return range(len(self.rates)) if number == -1 else self.sets[-2 - number]

    def parts(self, i: int) -> dict[tuple[str, int, bool], float]:
        """What access ``i`` takes of links (by direction) and devices, per byte; and its bytes there, alike."""
        access = self.accesses[i]
        devices = self.devices(access.device)
        found = {("link", link, access.is_store): 1.0 for link in (i, *self.shared_links(i))}
        for device in devices:
            for link in self.chain(device):
                key = ("link", link, access.is_store)
                found[key] = found.get(key, 0.0) + 1 / len(devices)
            read, write = self.rates[device]
            found["device", device, False] = (read / write if access.is_store else 1.0) / len(devices)
        return found

    def capacity(self, key: tuple[str, int, bool]) -> float:
        kind, number, _ = key
        return float(self.rates[number][0] if kind == "device" else [*self.ports, *self.shared, *self.uplinks][number])


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    bandwidth = st.integers(1, 50)
    devices = draw(st.integers(1, 6))
    sets = draw(
        st.lists(st.lists(st.integers(0, devices - 1), min_size=1, max_size=4, unique=True).map(sorted), max_size=2)
    )
    access = st.builds(
        Access,
        st.integers(-1 - len(sets), devices - 1),
        st.booleans(),
        st.integers(0, 10**5),
        st.integers(0, 2000),
    )
    accesses = draw(st.lists(access, min_size=1, max_size=10))
    shared = draw(st.lists(bandwidth, max_size=2))
    uplinks = draw(st.lists(bandwidth, max_size=3))
    many = len(accesses)
    return Scenario(
        draw(st.lists(bandwidth, min_size=many, max_size=many)),
        shared,
        draw(st.lists(st.integers(-1, len(shared) - 1), min_size=many, max_size=many)),
        uplinks,
        draw(st.lists(st.integers(-1, len(uplinks) - 1), min_size=devices, max_size=devices)),
        draw(st.lists(st.tuples(bandwidth, bandwidth), min_size=devices, max_size=devices)),
        sets,
        accesses,
    )


def backend(scenario: Scenario) -> NativeBackend:
    network = NetworkModel(["FullyConnected"], [len(scenario.ports)], [1.0], [0.0])
    return NativeBackend(network, memory=MemoryModel(cxl=scenario.level()))


def start(simulation: NativeBackend, rank: int, access: Access, size_bytes: int) -> int:
    kind = NodeType.MEM_STORE if access.is_store else NodeType.MEM_LOAD
    node = Node("access", kind, 0, size_bytes=size_bytes, location=MemoryLocation.CXL, device=access.device)
    return simulation.submit(simulation.register(Graph.from_nodes([node], [(rank,)])))


@given(scenarios())
@settings(max_examples=200, deadline=None)
def test_no_link_is_above_its_bandwidth_and_every_access_has_a_bottleneck(scenario: Scenario) -> None:
    simulation = backend(scenario)
    elapsed_ns, accesses = 10**6, range(len(scenario.accesses))
    for i in accesses:
        start(simulation, i, scenario.accesses[i], 10**12)
    assert simulation.advance(elapsed_ns) == []
    use = simulation.memory_link_use()["cxl"]
    rates = [use[2 * i + scenario.accesses[i].is_store][0] / elapsed_ns for i in accesses]
    parts = [scenario.parts(i) for i in accesses]
    tolerance = 1e-4
    for i in accesses:
        assert rates[i] > 0
        bottlenecks = []
        for key in parts[i]:
            taken = sum(rates[j] * parts[j].get(key, 0.0) for j in accesses)
            assert taken <= scenario.capacity(key) + tolerance
            is_fastest = all(rates[j] <= rates[i] + tolerance for j in accesses if key in parts[j])
            bottlenecks.append(taken >= scenario.capacity(key) - tolerance and is_fastest)
        assert any(bottlenecks)


def run(scenario: Scenario, order: Sequence[int]) -> tuple[dict[int, int], list[tuple[int, int]]]:
    """Start the accesses when they come, those of one instant in an order; return when each ended, and the links."""
    simulation = backend(scenario)
    ends: dict[int, int] = {}
    of_ticket: dict[int, int] = {}

    def note(completed: Sequence[int]) -> None:
        ends.update({of_ticket[ticket]: simulation.now_ns for ticket in completed})

    for i in sorted(order, key=lambda i: scenario.accesses[i].start_ns):
        while simulation.now_ns < scenario.accesses[i].start_ns:
            note(simulation.advance(scenario.accesses[i].start_ns))
        of_ticket[start(simulation, i, scenario.accesses[i], scenario.accesses[i].size_bytes)] = i
    while len(ends) < len(order):
        note(simulation.advance(FOREVER_NS))
    return ends, simulation.memory_link_use()["cxl"]


@given(scenarios())
@settings(max_examples=150, deadline=None)
def test_bytes_are_conserved_and_the_order_of_submission_changes_nothing(scenario: Scenario) -> None:
    order = list(range(len(scenario.accesses)))
    ends, links = run(scenario, order)
    assert (ends, links) == run(scenario, order[::-1])
    expected: dict[int, float] = {}
    first_device = 2 * (len(scenario.ports) + len(scenario.shared) + len(scenario.uplinks))
    for i, access in enumerate(scenario.accesses):
        devices = scenario.devices(access.device)
        for kind, number, is_store in scenario.parts(i):
            if kind == "link":
                part = scenario.parts(i)[kind, number, is_store]
                expected[2 * number + is_store] = expected.get(2 * number + is_store, 0) + part * access.size_bytes
            else:
                place = first_device + number
                expected[place] = expected.get(place, 0) + access.size_bytes / len(devices)
    for number, (num_bytes, busy_ns) in enumerate(links):
        assert abs(num_bytes - expected.get(number, 0)) <= len(order) / 2  # each counts its part to the nearest byte
        if number < first_device:
            # Whoever leaves is less than 1 ns early.
            bandwidth = scenario.capacity(("link", number // 2, False))
            assert num_bytes <= bandwidth * (busy_ns + len(order)) + len(order) / 2


@given(scenarios())
@settings(max_examples=100, deadline=None)
def test_an_access_alone_takes_its_bytes_at_its_narrowest_link(scenario: Scenario) -> None:
    access = scenario.accesses[0]
    simulation = backend(scenario)
    ticket = start(simulation, 0, access, access.size_bytes)
    assert simulation.advance(FOREVER_NS) == [ticket]
    rate = min(scenario.capacity(key) / part for key, part in scenario.parts(0).items())
    assert abs(simulation.now_ns - access.size_bytes / rate) <= 1
