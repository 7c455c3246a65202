"""A graph whose end is known in advance and one that has to be run behave alike under any use of the backend."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmservingsim.backend import NativeBackend, NetworkModel
from llmservingsim.graph import Graph, Node, NodeType

CHAIN = Graph.from_nodes([Node("a", NodeType.COMP), Node("b", NodeType.COMP, data_deps=(0,))])
HEAP = Graph.from_nodes([Node("a", NodeType.COMP), Node("b", NodeType.COMP)])

# Numbers choose among the tickets issued so far; the last one is the most likely to be alive.
submits = st.tuples(st.just("submit"), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(-1, 3))
advances = st.tuples(st.just("advance"), st.integers(0, 40), st.just(0))
cuts = st.tuples(st.just("cut"), st.integers(0, 3), st.just(0))
CUT_AT_A_BOUNDARY = [("cut", 1, 0), ("submit", [1], 1), ("cut", 0, 0)]
operations = st.lists(st.one_of(submits, advances, advances, cuts), max_size=40)


def ask(call: object, *args: object) -> object:
    """Return what the call returns, or the kind of error it raises."""
    try:
        result = call(*args)  # type: ignore[operator]
    except ValueError:
        return "refused"
    return result.tolist() if isinstance(result, np.ndarray) else result


def log(graph: Graph, todo: list[tuple[str, object, int]]) -> list[object]:
    backend = NativeBackend(NetworkModel(["Ring"], [2], [50.0], [500.0]))
    handle = backend.register(graph)
    tickets: list[int] = []
    seen: list[object] = []

    def chosen(back: int) -> int:
        return tickets[-1 - back] if 0 <= back < len(tickets) else -1

    for what, value, after in todo:
        if what == "submit":
            rows = np.repeat(np.array(value, dtype=np.int64)[:, None], 2, axis=1)
            tickets.append(backend.submit(handle, rows, after=chosen(after)))
        elif what == "advance":
            seen.append(backend.advance(backend.now_ns + value))  # type: ignore[operator]
        else:
            seen.append(ask(backend.cut, chosen(value)))  # type: ignore[arg-type]
        seen.append((backend.now_ns, [ask(backend.step_ends_ns, t) for t in tickets]))
    for _ in range(len(tickets) + 1):
        seen.append((backend.advance(backend.now_ns + 10_000), backend.now_ns))
    return seen


@given(operations)
@example(
    [("submit", [1, 1], 0), ("advance", 2, 0), ("submit", [1], 0), ("cut", 1, 0), ("submit", [1], 1), ("cut", 0, 0)]
)
@settings(max_examples=400, deadline=None)
def test_known_and_executed_graphs_behave_alike(todo: list[tuple[str, object, int]]) -> None:
    assert log(CHAIN, todo) == log(HEAP, todo)


@given(operations)
@settings(max_examples=100, deadline=None)
def test_every_ticket_completes_once_or_was_cut_away(todo: list[tuple[str, object, int]]) -> None:
    for graph in (CHAIN, HEAP):
        seen = log(graph, todo)
        completions = [t for entry in seen for t in completed(entry)]
        assert len(completions) == len(set(completions))
        issued = sum(what == "submit" for what, _, _ in todo)
        forgotten = sum(entry == 0 for entry in seen if isinstance(entry, int))
        assert len(completions) + forgotten == issued


def completed(entry: object) -> list[int]:
    """Return the tickets that an entry of the log says were returned by `advance`."""
    if isinstance(entry, list):
        return entry
    if isinstance(entry, tuple) and isinstance(entry[0], list):
        return entry[0]
    return []
