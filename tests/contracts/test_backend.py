"""What every backend promises, whatever times its graphs."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from astra_in_process import InThisProcess

from llmservingsim.astra_sim import AstraSimBackend
from llmservingsim.backend import Backend, MemoryModel, NativeBackend, NetworkModel, SystemModel
from llmservingsim.errors import DeadlockError
from llmservingsim.graph import Graph, Node, NodeType

FOREVER = 2**62
NETWORK = NetworkModel(["FullyConnected"], [4], [50.0], [500.0])


class InMicroseconds:
    """A backend that counts microseconds, over one that is told whole microseconds only."""

    def __init__(self, inner: AstraSimBackend) -> None:
        self._inner = inner

    @property
    def now_ns(self) -> int:
        return self._inner.now_ns // 1000

    def register(self, graph: Graph) -> int:
        return self._inner.register(replace(graph, duration_ns=graph.duration_ns * 1000))

    def submit(self, graph: int, durations_ns: Any = None, sizes_bytes: Any = None, after: int = -1) -> int:
        return self._inner.submit(graph, None if durations_ns is None else durations_ns * 1000, sizes_bytes, after)

    def advance(self, until_ns: int) -> list[int]:
        return self._inner.advance(until_ns * 1000)

    def step_ends_ns(self, ticket: int) -> Any:
        return self._inner.step_ends_ns(ticket) // 1000

    def cut(self, ticket: int) -> int:
        return self._inner.cut(ticket)


def native() -> Backend:
    return NativeBackend(NETWORK)


def astra_sim() -> Backend:
    return InMicroseconds(AstraSimBackend(NETWORK, SystemModel(), MemoryModel(), InThisProcess()))


@pytest.fixture(params=[native, astra_sim], ids=lambda make: make.__name__)
def backend(request: pytest.FixtureRequest) -> Backend:
    make: Callable[[], Backend] = request.param
    return make()


def skip_if_astra_sim(backend: Backend, why: str) -> None:
    if isinstance(backend, InMicroseconds):
        pytest.skip(why)


def chain(*durations: int) -> Graph:
    """COMP nodes one after another: the backend may know their end in advance."""
    nodes = [
        Node(f"n{i}", NodeType.COMP, duration_ns=d, data_deps=(i - 1,) if i else ()) for i, d in enumerate(durations)
    ]
    return Graph.from_nodes(nodes)


def heap(*durations: int) -> Graph:
    """The same work without the dependencies: the backend has to run it."""
    return Graph.from_nodes([Node(f"n{i}", NodeType.COMP, duration_ns=d) for i, d in enumerate(durations)])


@pytest.fixture(params=[chain, heap], ids=lambda shape: shape.__name__)
def shape(request: pytest.FixtureRequest) -> Callable[..., Graph]:
    result: Callable[..., Graph] = request.param
    return result


def rows(*values: int, nodes: int = 2) -> np.ndarray:
    """Durations of steps of ``2 * value`` ns for graphs of two nodes."""
    return np.repeat(np.array(values, dtype=np.int64)[:, None], nodes, axis=1)


def test_a_submission_completes_after_its_work(backend: Backend, shape: Callable[..., Graph]) -> None:
    ticket = backend.submit(backend.register(shape(5, 6)))
    assert backend.advance(FOREVER) == [ticket]
    assert backend.now_ns == 11
    assert backend.step_ends_ns(ticket).tolist() == [11]


def test_submissions_refill_durations(backend: Backend, shape: Callable[..., Graph]) -> None:
    graph = backend.register(shape(5, 6))
    backend.submit(graph, np.array([1, 2], dtype=np.int64))
    backend.advance(FOREVER)
    backend.submit(graph)
    backend.advance(FOREVER)
    assert backend.now_ns == 3 + 11


def test_what_is_submitted_is_copied(backend: Backend, shape: Callable[..., Graph]) -> None:
    durations = np.array([1, 2], dtype=np.int64)
    backend.submit(backend.register(shape(5, 6)), durations)
    durations[:] = 1000
    backend.advance(FOREVER)
    assert backend.now_ns == 3


def test_all_ties_are_returned_together_in_order_of_submission(backend: Backend) -> None:
    graphs = [backend.register(heap(7)), backend.register(chain(3, 4)), backend.register(heap(8))]
    tickets = [backend.submit(g) for g in graphs]
    assert backend.advance(FOREVER) == tickets[:2]
    assert backend.advance(FOREVER) == tickets[2:]


def test_advance_stops_at_until(backend: Backend, shape: Callable[..., Graph]) -> None:
    ticket = backend.submit(backend.register(shape(5, 6)))
    assert backend.advance(10) == []
    assert backend.now_ns == 10
    assert backend.advance(11) == [ticket]


def test_with_nothing_in_flight_the_clock_just_moves(backend: Backend) -> None:
    assert backend.advance(123) == []
    assert backend.now_ns == 123


def test_the_clock_never_falls(backend: Backend) -> None:
    backend.advance(123)
    with pytest.raises(ValueError, match="before now"):
        backend.advance(122)


def test_a_zero_duration_completes_at_the_same_instant(backend: Backend, shape: Callable[..., Graph]) -> None:
    skip_if_astra_sim(backend, "ASTRA-sim charges 1 ns for a duration of 0")
    backend.advance(5)
    ticket = backend.submit(backend.register(shape(0, 0)))
    assert backend.advance(5) == [ticket]


def test_steps_run_one_after_another(backend: Backend, shape: Callable[..., Graph]) -> None:
    ticket = backend.submit(backend.register(shape(0, 0)), rows(1, 2, 3))
    assert backend.advance(4) == []
    assert backend.step_ends_ns(ticket).tolist() == [2]
    assert backend.advance(FOREVER) == [ticket]
    assert backend.step_ends_ns(ticket).tolist() == [2, 6, 12]


def test_a_ticket_waits_for_the_one_it_follows(backend: Backend, shape: Callable[..., Graph]) -> None:
    graph = backend.register(shape(5, 6))
    first = backend.submit(graph)
    second = backend.submit(graph, after=first)
    assert backend.advance(FOREVER) == [first]
    assert backend.advance(FOREVER) == [second]
    assert backend.now_ns == 22
    third = backend.submit(graph, after=first)
    assert backend.advance(FOREVER) == [third]
    assert backend.now_ns == 33


def test_cut_drops_the_steps_that_have_not_begun(backend: Backend, shape: Callable[..., Graph]) -> None:
    ticket = backend.submit(backend.register(shape(0, 0)), rows(5, 5, 5, 5))
    backend.advance(13)
    assert backend.cut(ticket) == 2
    assert backend.advance(FOREVER) == [ticket]
    assert backend.now_ns == 20
    assert backend.step_ends_ns(ticket).tolist() == [10, 20]


def test_cut_at_a_boundary_drops_the_step_that_would_begin_there(backend: Backend, shape: Callable[..., Graph]) -> None:
    ticket = backend.submit(backend.register(shape(0, 0)), rows(5, 5, 5, 5))
    assert backend.advance(20) == []
    assert backend.cut(ticket) == 2
    assert backend.advance(FOREVER) == [ticket]
    assert backend.now_ns == 20


def test_the_first_step_begins_at_once(backend: Backend, shape: Callable[..., Graph]) -> None:
    ticket = backend.submit(backend.register(shape(0, 0)), rows(5, 5))
    assert backend.cut(ticket) == 1
    assert backend.advance(FOREVER) == [ticket]
    assert backend.now_ns == 10


def test_a_ticket_cut_before_it_began_is_forgotten(backend: Backend, shape: Callable[..., Graph]) -> None:
    graph = backend.register(shape(5, 6))
    first = backend.submit(graph)
    second = backend.submit(graph, after=first)
    third = backend.submit(graph, after=second)
    assert backend.cut(second) == 0
    assert backend.advance(FOREVER) == [first]
    assert backend.advance(FOREVER) == [third]
    assert backend.now_ns == 22
    assert backend.advance(100) == []


def test_what_follows_a_forgotten_ticket_begins_now(backend: Backend, shape: Callable[..., Graph]) -> None:
    graph = backend.register(shape(5, 6))
    leader = backend.submit(graph)
    forgotten = backend.submit(graph, after=leader)
    assert backend.cut(forgotten) == 0
    ticket = backend.submit(graph, after=forgotten)
    assert backend.advance(FOREVER) == [leader, ticket]


def test_a_follower_can_be_cut_at_the_instant_its_leader_completes(
    backend: Backend, shape: Callable[..., Graph]
) -> None:
    graph = backend.register(shape(5, 6))
    first = backend.submit(graph)
    second = backend.submit(graph, after=first)
    assert backend.advance(FOREVER) == [first]
    assert backend.cut(second) == 0
    assert backend.advance(100) == []


def test_cutting_a_completed_ticket_keeps_all_of_it(backend: Backend, shape: Callable[..., Graph]) -> None:
    ticket = backend.submit(backend.register(shape(0, 0)), rows(5, 5))
    backend.advance(FOREVER)
    assert backend.cut(ticket) == 2


def test_results_are_kept_until_the_next_advance(backend: Backend) -> None:
    ticket = backend.submit(backend.register(chain(5)))
    backend.advance(FOREVER)
    backend.step_ends_ns(ticket)
    backend.advance(FOREVER)
    with pytest.raises(ValueError, match="unknown"):
        backend.step_ends_ns(ticket)


def test_a_graph_that_can_never_complete_is_a_deadlock(backend: Backend) -> None:
    skip_if_astra_sim(backend, "ASTRA-sim ends without saying who waits for what")
    nodes = [
        Node("work", NodeType.COMP, rank_class=0, duration_ns=5),
        Node("wait", NodeType.COMM_RECV, rank_class=1, size_bytes=64, peer=0, tag=3),
    ]
    backend.submit(backend.register(Graph.from_nodes(nodes, [(0,), (1,)])))
    with pytest.raises(DeadlockError, match="rank 1, node 1 'wait' waits for 64 bytes with tag 3 from rank 0"):
        backend.advance(FOREVER)


def test_a_cycle_is_refused(backend: Backend) -> None:
    nodes = [
        Node("a", NodeType.COMP, data_deps=(1,)),
        Node("b", NodeType.COMP, data_deps=(0,)),
    ]
    with pytest.raises(ValueError, match="cycle"):
        backend.register(Graph.from_nodes(nodes))


def test_values_of_a_wrong_shape_are_refused(backend: Backend) -> None:
    graph = backend.register(chain(5, 6))
    for values in (np.zeros(3, np.int64), np.zeros((0, 2), np.int64), np.zeros((1, 1, 2), np.int64)):
        with pytest.raises(ValueError, match="shape"):
            backend.submit(graph, values)
    with pytest.raises(ValueError, match="int64"):
        backend.submit(graph, np.zeros(2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same shape"):
        backend.submit(graph, np.zeros((1, 2), np.int64), np.zeros((2, 2), np.int64))


def test_what_was_never_issued_is_refused(backend: Backend) -> None:
    graph = backend.register(chain(5))
    with pytest.raises(ValueError, match="graph 1 is not registered"):
        backend.submit(graph + 1)
    with pytest.raises(ValueError, match="never issued"):
        backend.submit(graph, after=0)
    with pytest.raises(ValueError, match="unknown"):
        backend.cut(0)
