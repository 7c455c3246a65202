"""Memories of the native backend: devices, their place in the network, and memories of one's own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmservingsim.backend import (
    MemoryAccess,
    MemoryLevelModel,
    MemoryLinkModel,
    MemoryModel,
    MemoryRateModel,
    NativeBackend,
    NetworkModel,
)
from llmservingsim.backend.astra_files import read_memory, write_memory
from llmservingsim.errors import PluginError, TraceError
from llmservingsim.graph import Graph, MemoryLocation, Node, NodeType

FOREVER = 2**62
NETWORK = NetworkModel(["Switch"], [4], [1e9 / 2**30], [20.0])
"""A byte per nanosecond and two links of 20 ns between any two ranks."""


def backend(level: MemoryLevelModel) -> NativeBackend:
    return NativeBackend(NETWORK, memory=MemoryModel(cxl=level))


def devices(**fields: Any) -> MemoryLevelModel:
    """10 bytes per nanosecond and 5 ns."""
    return MemoryLevelModel("MEMORY_DEVICES", 5, 10.0, **fields)


def load(**fields: Any) -> Node:
    return Node("load", **{"type": NodeType.MEM_LOAD, "size_bytes": 100, "location": MemoryLocation.CXL, **fields})


def finish(native: NativeBackend, nodes: Sequence[Node], classes: Sequence[Sequence[int]] = ((0,),)) -> list[int]:
    ticket = native.submit(native.register(Graph.from_nodes(nodes, classes)))
    native.advance(FOREVER)
    return native.rank_finish_ns(ticket).tolist()


def test_accesses_queue_at_the_device_that_the_node_names() -> None:
    nodes = [load(rank_class=c, device=c % 2) for c in range(4)]
    assert finish(backend(devices(num_devices=2)), nodes, [(0,), (1,), (2,), (3,)]) == [15, 15, 30, 30]


def test_a_shared_device_gives_each_access_its_part() -> None:
    level = devices(discipline="shared")
    assert finish(backend(level), [load()], [(0, 1, 2, 3)]) == [45] * 4


def test_an_access_of_device_minus_1_is_striped() -> None:
    assert finish(backend(devices(num_devices=4)), [load(device=-1, size_bytes=400)]) == [15]


def test_stores_take_the_write_bandwidth() -> None:
    native = backend(devices(write_bandwidth_gbps=2.0))
    assert finish(native, [load(type=NodeType.MEM_STORE)]) == [55]
    use = native.memory_use()["cxl"]
    assert (use.bytes_loaded, use.bytes_stored, use.busy_ns) == (0, 100, 55)


def test_an_access_of_a_device_in_the_network_ends_with_its_message() -> None:
    """Of 20 + 20 + 100 ns; the device itself takes 15, which is all for the rank where it is."""
    level = devices(num_devices=2, endpoints=[3, 0])
    assert finish(backend(level), [load(device=0)]) == [140]
    assert finish(backend(level), [load(device=1)]) == [15]


def test_a_buffer_is_filled_behind_the_end_of_a_graph_and_awaited_by_the_next() -> None:
    """Loads of 15 ns, from 10 on; each rank fills one buffer after the other, and both take turns at the device."""
    native = backend(devices())
    ahead = [replace(load(tag=tag), data_deps=(0,)) for tag in (1, 2)]
    first = native.register(Graph.from_nodes([Node("comp", NodeType.COMP, duration_ns=10), *ahead], [(0, 1)]))
    awaiting = [load(tag=-tag, size_bytes=0) for tag in (1, 2, 3)]
    then = [native.register(Graph.from_nodes([node], [(0,)])) for node in awaiting]
    ticket = native.submit(first)
    assert native.advance(FOREVER) == [ticket]
    assert native.now_ns == 10
    ends = {native.submit(graph): tag for graph, tag in zip(then, (1, 2, 3), strict=True)}
    found = {}
    while len(found) < 3:
        for done in native.advance(FOREVER):
            found[ends[done]] = native.now_ns
    # Nobody asked to fill buffer 3.
    assert found == {1: 10 + 15, 2: 10 + 3 * 15, 3: 10}
    assert native.memory_use()["cxl"].bytes_loaded == 400


def test_a_buffer_that_is_filled_twice_is_awaited_as_it_is_asked_last() -> None:
    native = backend(devices())
    assert finish(native, [load(tag=1), load(tag=1), load(tag=-1, size_bytes=0, data_deps=(0, 1))]) == [30]


def test_links_of_a_level_are_written_and_read(tmp_path: Path) -> None:
    level = MemoryLevelModel(
        "MEMORY_DEVICES",
        discipline="flow",
        num_devices=2,
        rates=[MemoryRateModel(7, 10.0, 5.5), MemoryRateModel(0, 20.0, 0.0)],
        interleaves=[[0, 1]],
        links=[MemoryLinkModel(31.5, 25), MemoryLinkModel(63.0)],
        rank_links=[[0], [0], [1], []],
        device_links=[[1], []],
    )
    path = tmp_path / "memory.json"
    write_memory(path, MemoryModel(cxl=level), 4, "llmservingsim")
    assert read_memory(path, "llmservingsim") == MemoryModel(cxl=level)
    path.write_text(path.read_text().replace('"link-latency": [', '"link-latency": [1,'))
    with pytest.raises(TraceError, match=r"link-latency: expected a number per link, as in link-bw"):
        read_memory(path, "llmservingsim")


def test_an_access_flows_over_the_links_of_its_rank_and_its_device() -> None:
    """Ranks 0 and 1 share a port of 4, rank 2 has one of 8 before the device of 10: 2, 2 and 6 bytes/ns; then all 8."""
    level = devices(
        discipline="flow",
        links=[MemoryLinkModel(4.0), MemoryLinkModel(8.0)],
        rank_links=[[0], [0], [1], []],
        device_links=[[]],
    )
    sizes = (200, 200, 680)
    nodes = [load(rank_class=c, size_bytes=size) for c, size in enumerate(sizes)]
    native = backend(level)
    assert finish(native, nodes, [(0,), (1,), (2,)]) == [105, 105, 100 + 10 + 5]
    assert native.memory_link_use()["cxl"] == [(400, 100), (0, 0), (680, 110), (0, 0), (1080, 110)]


def test_computing_in_memory_occupies_its_channel_and_no_slot() -> None:
    """7 + 15 ns each: two in one channel, one in another, beside a COMP node and a load."""
    nodes = [load(type=NodeType.PIM_COMP, duration_ns=7, channel=c) for c in (0, 0, 1)]
    nodes += [Node("comp", NodeType.COMP, duration_ns=30), load()]
    native = backend(devices(pim_channels=2))
    assert finish(native, nodes) == [44]
    assert native.memory_use()["cxl"].busy_ns == 3 * 22 + 15
    assert finish(backend(devices(pim_channels=2)), nodes[:1], [(0, 1)]) == [22, 44]


def test_only_configured_memories_have_a_use() -> None:
    assert list(backend(devices(capacity_bytes=100, num_devices=3)).memory_use()) == ["cxl"]
    assert backend(devices(capacity_bytes=100, num_devices=3)).memory_use()["cxl"].capacity_bytes == 300


@pytest.mark.parametrize("is_chain", [True, False], ids=["timed in advance", "run"])
def test_accesses_that_never_wait_are_counted_for_every_rank_and_step(is_chain: bool) -> None:
    """Two steps of 100 and 50 bytes on two ranks that stand for each other; a third step is cut."""
    native = backend(MemoryLevelModel("PER_NPU_MEMORY_EXPANSION", 5, 10.0))
    nodes = [load(), Node("comp", NodeType.COMP, data_deps=(0,) if is_chain else ())]
    graph = native.register(Graph.from_nodes(nodes, [(0, 1)]))
    ticket = native.submit(graph, sizes_bytes=np.array([[100, 0], [50, 0], [7, 0]]))
    native.advance(20)
    assert native.cut(ticket) == 2
    native.advance(FOREVER)
    use = native.memory_use()["cxl"]
    assert (use.accesses, use.bytes_loaded, use.busy_ns) == (4, 300, 2 * (15 + 10))


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (load(device=2), "node 0 'load': the cxl memory has no device 2; it has 2, counted from 0"),
        (load(type=NodeType.PIM_COMP), "the cxl memory has no PIM channel 0; it has 0 per device (pim_channels)"),
        (load(location=MemoryLocation.STORAGE), "the storage memory is NO_MEMORY_EXPANSION"),
    ],
)
def test_a_node_that_asks_for_what_is_not_there_is_refused(node: Node, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        backend(devices(num_devices=2)).register(Graph.from_nodes([node]))


def test_an_access_larger_than_its_device_is_refused_when_it_is_submitted() -> None:
    native = backend(devices(capacity_bytes=99))
    graph = native.register(Graph.from_nodes([load()]))
    with pytest.raises(ValueError, match="an access of 100 bytes does not fit the cxl memory, of 99 bytes per device"):
        native.submit(graph)
    native.submit(graph, sizes_bytes=np.array([99]))


@pytest.mark.parametrize(
    ("level", "message"),
    [
        (devices(discipline="lifo"), "memory: cxl discipline 'lifo' is not one of fifo, flow, shared"),
        (devices(discipline="shared", channels=2), "memory: cxl channels is for discipline fifo"),
        (devices(endpoints=[4]), "memory: cxl endpoint 4 is not below 4"),
        (devices(endpoints=[0, 1]), "memory: cxl endpoints must name one device of the network per memory device (1)"),
        (devices(channels=0), "memory: cxl channels must be between 1 and 4096, not 0"),
        (devices(options={"a": 1}), "memory: cxl options are for a memory of your own, not for MEMORY_DEVICES"),
        (
            MemoryLevelModel("MEMORY_POOL", channels=2),
            "memory: cxl channels is for MEMORY_DEVICES, not for MEMORY_POOL",
        ),
    ],
)
def test_a_level_that_means_nothing_is_refused(level: MemoryLevelModel, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        backend(level)


def test_an_unknown_type_is_refused_with_the_nearest() -> None:
    with pytest.raises(PluginError, match=r"memory: cxl: memory: 'MEMORY_POOLS' is unknown .*'MEMORY_POOL'"):
        backend(MemoryLevelModel("MEMORY_POOLS"))


def test_astra_sims_file_takes_only_its_own_types(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="ASTRA-sim has no memory-type 'MEMORY_DEVICES'; it has MEMORY_POOL, "):
        write_memory(tmp_path / "m.json", MemoryModel(remote=devices()), npus=4)


@dataclass
class Flash:
    """Pages of some bytes; one queue per device."""

    page_ns: int
    page_bytes: int = 10

    def __post_init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def service_ns(self, access: MemoryAccess) -> int:
        self.asked.append(("service_ns", repr(access)))
        return self.page_ns * -(-access.size_bytes // self.page_bytes)

    def server(self, access: MemoryAccess) -> int | None:
        self.asked.append(("server", repr(access)))
        return access.device


def test_a_memory_of_ones_own_is_built_from_its_options() -> None:
    level = MemoryLevelModel(f"{__name__}:Flash", options={"page_ns": 3})
    assert finish(backend(level), [load(size_bytes=101)], [(0, 1)]) == [33, 66]


def test_a_memory_of_ones_own_is_asked_once_per_class_of_accesses() -> None:
    flash = Flash(3)
    native = backend(MemoryLevelModel(flash))
    graph = native.register(Graph.from_nodes([load(), load(), load(size_bytes=5)], [(0, 1)]))
    for _ in range(3):
        native.submit(graph)
    native.advance(FOREVER)
    name = "MemoryAccess(rank={}, device=0, channel=0, is_store=False, size_bytes={})"
    assert sorted(flash.asked) == sorted(
        [
            ("server", name.format(0, 100)),
            ("server", name.format(1, 100)),
            ("service_ns", name.format(0, 100)),
            ("service_ns", name.format(0, 5)),
        ]
    )


class Faulty:
    """Answers what it was built with, or raises it."""

    def __init__(self, answer: Any, server: Any = None) -> None:
        self.answer, self.queue = answer, server

    def service_ns(self, access: MemoryAccess) -> Any:
        return self._tell(self.answer)

    def server(self, access: MemoryAccess) -> Any:
        return self._tell(self.queue)

    def _tell(self, answer: Any) -> Any:
        if isinstance(answer, type):
            raise answer("no such page")
        return answer


@pytest.mark.parametrize("answer", [-1, 1.5, None, "2", True, 2**63])
def test_an_impossible_answer_is_refused_naming_the_class(answer: Any) -> None:
    own = rf"{__name__}:Faulty: {{}}\(MemoryAccess\(rank=0, .*\)\) must return a whole number .*, not "
    native = backend(MemoryLevelModel(Faulty(answer)))
    graph = native.register(Graph.from_nodes([load()]))
    with pytest.raises(ValueError, match=own.format("service_ns") + re.escape(repr(answer))):
        native.submit(graph)
    if answer is not None:
        with pytest.raises(ValueError, match=own.format("server")):
            backend(MemoryLevelModel(Faulty(1, answer))).register(Graph.from_nodes([load()]))


def test_a_whole_number_of_numpy_is_an_answer() -> None:
    assert finish(backend(MemoryLevelModel(Faulty(np.int64(12), np.int32(1)))), [load()], [(0, 1)]) == [12, 24]


def test_an_exception_of_ones_own_memory_comes_out_as_itself() -> None:
    native = backend(MemoryLevelModel(Faulty(KeyError)))
    graph = native.register(Graph.from_nodes([load()]))
    with pytest.raises(KeyError, match="no such page"):
        native.submit(graph)
    with pytest.raises(KeyError, match="no such page"):
        backend(MemoryLevelModel(Faulty(1, KeyError))).register(Graph.from_nodes([load()]))


def test_an_exception_while_time_moves_comes_out_as_itself() -> None:
    """The queue of rank 1 is asked for when its load begins: another rank of the class stood for it before."""

    class Picky(Flash):
        def server(self, access: MemoryAccess) -> int | None:
            if access.rank == 1:
                raise KeyError("rank 1")
            return 0

    native = backend(MemoryLevelModel(Picky(3)))
    nodes = [Node("comp", NodeType.COMP, duration_ns=5), load(data_deps=(0,))]
    native.submit(native.register(Graph.from_nodes(nodes, [(0, 1)])))
    with pytest.raises(KeyError, match="rank 1"):
        native.advance(FOREVER)


@pytest.mark.parametrize(
    ("level", "error", "message"),
    [
        (MemoryLevelModel(Flash(3), latency_ns=5), ValueError, "takes options and no other field of a level"),
        (
            MemoryLevelModel(Flash(3), options={"page_ns": 1}),
            PluginError,
            "Flash' cannot be built from options page_ns",
        ),
        (MemoryLevelModel(f"{__name__}:Flash"), PluginError, "Flash' cannot be built from 0 arguments"),
        (MemoryLevelModel(f"{__name__}:Path"), PluginError, "Path' has no method 'service_ns'"),
        (MemoryLevelModel(3), PluginError, "'builtins:int' has no method 'service_ns'"),  # type: ignore[arg-type]
    ],
)
def test_a_memory_of_ones_own_that_does_not_fit_is_refused(
    level: MemoryLevelModel, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        backend(level)
