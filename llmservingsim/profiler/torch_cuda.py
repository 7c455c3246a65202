"""Timing on a CUDA device: graphs that repeat one operator, and whole steps replayed against run eagerly.

Written against torch's documentation of ``torch.cuda.CUDAGraph`` and ``torch.cuda.Event``.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from llmservingsim.profiler.sampling import Pass
from llmservingsim.profiler.torch_layers import State, Weights

_CALLS = 16
"""Of an operator in a graph, at least: the start of a replay is spread over them."""


def graph_pass(
    operators: Mapping[str, Callable[[State, Weights], None]],
    sequence: Iterable[tuple[str, Weights, int]],
    state: State,
    wanted: Sequence[str],
    blocks: Sequence[Weights],
) -> Pass:
    """Return a pass that replays one graph per operator; each runs it over all copies of the weights.

    An operator is captured with what it found in an eager pass.
    """
    calls = -(-_CALLS // len(blocks)) * len(blocks)
    graphs: dict[str, torch.cuda.CUDAGraph] = {}
    with torch.inference_mode():
        for name, weights, state.layer in sequence:
            before = copy.copy(state)
            operators[name](state, weights)
            if name in wanted and name not in graphs:
                graphs[name] = _captured(operators[name], before, blocks, calls)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def run() -> dict[str, float]:
        times = {}
        for name, graph in graphs.items():
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times[name] = begin.elapsed_time(end) * 1000 / calls
        return times

    return run


def _captured(
    operator: Callable[[State, Weights], None], before: State, blocks: Sequence[Weights], calls: int
) -> torch.cuda.CUDAGraph:
    def repeat() -> None:
        for call in range(calls):
            state = copy.copy(before)
            state.layer = call
            operator(state, blocks[call % len(blocks)])

    _warm_up(repeat)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        repeat()
    return graph


def _warm_up(run: Callable[[], None]) -> None:
    """Run once on a side stream, as capturing asks for."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()


def step_pass(forward: Callable[[], None], state: State, ids: Sequence[int]) -> Pass:
    """Return a pass that tells the wall time of a step replayed from a graph, and of the same step run eagerly."""
    with torch.inference_mode():
        _warm_up(forward)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            forward()
    replayed = state.sampled
    assert replayed is not None

    def wall_us(run: Callable[[], None], sampled: Callable[[], torch.Tensor | None]) -> float:
        torch.cuda.synchronize()
        begun = time.perf_counter_ns()
        with torch.inference_mode():
            state.ids.copy_(torch.tensor(ids))
            run()
            tokens = sampled()
            assert tokens is not None
            tokens.tolist()
        return (time.perf_counter_ns() - begun) / 1000

    def run() -> dict[str, float]:
        return {"step": wall_us(graph.replay, lambda: replayed), "eager": wall_us(forward, lambda: state.sampled)}

    return run
