"""A shared memory device is processor sharing, exact to the nanosecond: a plain twin in fractions says so."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.backend import MemoryLevelModel, MemoryModel, NativeBackend, NetworkModel
from llmservingsim.graph import Graph, Node, NodeType

BANDWIDTH = 3.0
"""Bytes per nanosecond: with at most 7 accesses no exact end lies within 10^-6 ns below a whole nanosecond."""


class Sharing:
    """Everybody present has an equal share, in exact arithmetic."""

    def __init__(self) -> None:
        self.now = Fraction(0)
        self.left: dict[int, Fraction] = {}
        self.ends: dict[int, int] = {}

    def move_to(self, time: int | None) -> None:
        """Serve until ``time``; None: until nobody is left."""
        while self.left:
            first = min(self.left.values())
            step = first * len(self.left)
            if time is not None and self.now + step > time:
                step = time - self.now
                self.left = {i: left - step / len(self.left) for i, left in self.left.items()}
                break
            self.now += step
            for i in [i for i, left in self.left.items() if left == first]:
                self.ends.setdefault(i, int(self.now))
            self.left = {i: left - first for i, left in self.left.items() if left > first}
        if time is not None:
            self.now = Fraction(time)

    def join(self, access: int, service: Fraction) -> None:
        """Tell those who end in this nanosecond; if that is everybody, the newcomer finds an idle device."""
        alone = Sharing()
        alone.now, alone.left = self.now, dict(self.left)
        alone.move_to(None)
        for i, end in alone.ends.items():
            if end == int(self.now):
                self.ends.setdefault(i, end)
        if all(i in self.ends for i in self.left):
            self.left = {}
        self.left[access] = service


@given(
    latency_ns=st.sampled_from([0, 1, 40]),
    accesses=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 400)), min_size=1, max_size=7),
)
@settings(max_examples=300, deadline=None)
def test_a_shared_device_ends_every_access_where_exact_sharing_does(
    latency_ns: int, accesses: list[tuple[int, int]]
) -> None:
    """Each access comes some time after the one before and moves some bytes."""
    level = MemoryLevelModel("MEMORY_DEVICES", latency_ns, BANDWIDTH, discipline="shared")
    native = NativeBackend(NetworkModel(["Ring"], [2], [1.0], [0.0]), memory=MemoryModel(remote=level))
    twin = Sharing()
    ends: dict[int, int] = {}

    def advance(until_ns: int) -> None:
        while native.now_ns < until_ns:
            ends.update((ticket, native.now_ns) for ticket in native.advance(until_ns))

    for i, (gap_ns, size) in enumerate(accesses):
        advance(native.now_ns + gap_ns)
        native.submit(native.register(Graph.from_nodes([Node("m", NodeType.MEM_LOAD, size_bytes=size)])))
        twin.move_to(native.now_ns + latency_ns)
        twin.join(i, Fraction(size) / Fraction(BANDWIDTH))
    advance(10**9)
    twin.move_to(None)
    assert ends == twin.ends
