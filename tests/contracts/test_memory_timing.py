"""What every memory promises, built in or one's own."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.backend import MemoryAccess, MemoryLevelModel, MemoryModel, NativeBackend, NetworkModel
from llmservingsim.graph import Graph, Node, NodeType
from llmservingsim.trace.chakra import expand

FOREVER = 2**62
RANKS = 4
DEVICES = 2


class Tape:
    """A user's own: winds for a microsecond per device passed, one drive per device."""

    def service_ns(self, access: MemoryAccess) -> int:
        return 1_000 * (1 + access.device) + access.size_bytes // 3

    def server(self, access: MemoryAccess) -> int | None:
        return access.device


class Ramp:
    """A user's own in which nobody waits: small accesses are inefficient."""

    def service_ns(self, access: MemoryAccess) -> int:
        return 100 + max(access.size_bytes, 256) // (2 if access.is_store else 4)


class Access(NamedTuple):
    rank: int
    device: int
    is_store: bool
    size_bytes: int
    after_ns: int
    """Since the access before."""

    def asked(self) -> MemoryAccess:
        return MemoryAccess(self.rank, self.device, 0, self.is_store, self.size_bytes)


class Case(NamedTuple):
    """A level; what an access takes alone; which server serves it and how many accesses that has at once at most."""

    level: MemoryLevelModel
    service_ns: Callable[[Access], int]
    server: Callable[[Access], int] | None = None
    places: int = 1


def plain(access: Access) -> int:
    return 7 + access.size_bytes // 3


def devices(**fields: object) -> MemoryLevelModel:
    return MemoryLevelModel("MEMORY_DEVICES", 7, 3.0, num_devices=DEVICES, **fields)  # type: ignore[arg-type]


CASES = {
    "per npu": Case(MemoryLevelModel("PER_NPU_MEMORY_EXPANSION", 7, 3.0), plain),
    "per node": Case(MemoryLevelModel("PER_NODE_MEMORY_EXPANSION", 7, 3.0, 2), plain, lambda a: a.rank // 2),
    "pool": Case(MemoryLevelModel("MEMORY_POOL", 7, 3.0), plain, lambda _: 0),
    "pool by device": Case(
        MemoryLevelModel("MEMORY_POOL", 7, 3.0, num_devices=DEVICES, queues_per_device=True), plain, lambda a: a.device
    ),
    "devices": Case(devices(), plain, lambda a: a.device),
    "channels": Case(devices(channels=3), lambda a: 7 + a.size_bytes, lambda a: a.device, places=3),
    "write bandwidth": Case(
        devices(write_bandwidth_gbps=1.0),
        lambda a: 7 + a.size_bytes // (1 if a.is_store else 3),
        lambda a: a.device,
    ),
    "shared": Case(devices(discipline="shared"), plain),
    "at endpoints": Case(devices(endpoints=[0, 3]), plain),
    "own": Case(MemoryLevelModel(Tape()), lambda a: Tape().service_ns(a.asked()), lambda a: a.device),
    "own, nobody waits": Case(MemoryLevelModel(f"{__name__}:Ramp"), lambda a: Ramp().service_ns(a.asked())),
}


every_memory = pytest.mark.parametrize("case", CASES.values(), ids=CASES)

accesses = st.lists(
    st.builds(
        Access,
        st.integers(0, RANKS - 1),
        st.integers(0, DEVICES - 1),
        st.booleans(),
        st.integers(0, 5_000),
        st.sampled_from([0, 0, 1, 500]),
    ),
    min_size=1,
    max_size=12,
)


def backend(level: MemoryLevelModel) -> NativeBackend:
    return NativeBackend(NetworkModel(["Switch"], [RANKS], [50.0], [20.0]), memory=MemoryModel(remote=level))


def node(access: Access) -> Node:
    kind = NodeType.MEM_STORE if access.is_store else NodeType.MEM_LOAD
    return Node("access", kind, size_bytes=access.size_bytes, device=access.device)


def run(native: NativeBackend, asked: Sequence[Access]) -> list[tuple[int, int]]:
    """Return when each access began and ended."""
    begin_ns: dict[int, int] = {}
    end_ns: dict[int, int] = {}

    def advance(until_ns: int) -> None:
        while native.now_ns < until_ns:
            for ticket in native.advance(until_ns):
                assert ticket not in end_ns
                end_ns[ticket] = native.now_ns

    for access in asked:
        advance(native.now_ns + access.after_ns)
        ticket = native.submit(native.register(Graph.from_nodes([node(access)], [(access.rank,)])))
        begin_ns[ticket] = native.now_ns
    advance(FOREVER)
    return [(begin, end_ns[ticket]) for ticket, begin in begin_ns.items()]


@every_memory
@given(asked=accesses)
@settings(max_examples=40, deadline=None)
def test_an_access_ends_once_and_takes_at_least_its_service_time(case: Case, asked: list[Access]) -> None:
    for access, (begin_ns, end_ns) in zip(asked, run(backend(case.level), asked), strict=True):
        assert end_ns - begin_ns >= case.service_ns(access)


@pytest.mark.parametrize("case", [c for c in CASES.values() if not c.level.endpoints])
@given(asked=accesses)
@settings(max_examples=20, deadline=None)
def test_an_access_alone_takes_its_service_time(case: Case, asked: list[Access]) -> None:
    apart = [a._replace(after_ns=100_000) for a in asked]
    for access, (begin_ns, end_ns) in zip(apart, run(backend(case.level), apart), strict=True):
        assert end_ns - begin_ns == case.service_ns(access)


@pytest.mark.parametrize("case", [c for c in CASES.values() if c.server])
@given(asked=accesses)
@settings(max_examples=40, deadline=None)
def test_a_server_serves_no_more_at_once_than_it_can(case: Case, asked: list[Access]) -> None:
    assert case.server is not None
    served: dict[int, list[tuple[int, int]]] = {}
    for access, (_, end_ns) in zip(asked, run(backend(case.level), asked), strict=True):
        served.setdefault(case.server(access), []).append((end_ns - case.service_ns(access), end_ns))
    for spans in served.values():
        for start, _ in spans:
            assert sum(s <= start < e for s, e in spans) <= case.places


@every_memory
@given(asked=accesses)
@settings(max_examples=20, deadline=None)
def test_what_was_moved_is_counted(case: Case, asked: list[Access]) -> None:
    native = backend(case.level)
    run(native, asked)
    use = native.memory_use()["remote"]
    assert use.accesses == len(asked)
    assert use.bytes_loaded == sum(a.size_bytes for a in asked if not a.is_store)
    assert use.bytes_stored == sum(a.size_bytes for a in asked if a.is_store)
    assert use.busy_ns > 0
    assert use.longest_queue <= len(asked)


@every_memory
@given(asked=accesses)
@settings(max_examples=20, deadline=None)
def test_a_class_of_ranks_is_served_like_its_members(case: Case, asked: list[Access]) -> None:
    """Two classes of two ranks; where accesses wait, a class is run rank by rank."""
    nodes = [Node("work", NodeType.COMP, rank_class=c, duration_ns=50 + c) for c in (0, 1)]
    nodes += [
        Node("a", node(a).type, a.rank % 2, size_bytes=a.size_bytes, device=a.device, data_deps=(a.rank % 2,))
        for a in asked
    ]
    graph = Graph.from_nodes(nodes, [(0, 1), (2, 3)])
    results = []
    for form in (graph, expand(graph)):
        native = backend(case.level)
        ticket = native.submit(native.register(form))
        native.advance(FOREVER)
        use = native.memory_use()["remote"]
        results.append((native.rank_finish_ns(ticket).tolist(), use.accesses, use.bytes_loaded, use.busy_ns))
    assert results[0] == results[1]
