"""Two halves of a batch take no less than either resource needs, and no more than one after the other."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim import Run
from llmservingsim.backend import NativeBackend
from llmservingsim.graph import NodeType
from llmservingsim.shapes import BatchShape, Chunk
from llmservingsim.trace import InterleavedBuilder, OffloadBuilder
from llmservingsim.trace.interleaving import predict_ns
from llmservingsim.trace.offloading import Form
from llmservingsim.workload import RequestSpec
from tests.offload_device import LATENCY_NS, run_file


@st.composite
def halves(draw: st.DrawFn) -> tuple[BatchShape, list[int], list[int]]:
    """A batch, and the decodes of each of two groups: how many, and their context."""
    requests = draw(st.lists(st.integers(0, 20), min_size=2, max_size=2))
    context = [draw(st.integers(n, 20_000 * n)) for n in requests]
    prefills = draw(st.lists(st.builds(Chunk, st.integers(2, 300), st.sampled_from([0, 40])), max_size=2))
    if not sum(requests):
        prefills = [Chunk(100, 0)]
    decodes, kv = sum(requests), sum(context)
    tokens = decodes + sum(chunk.query_len for chunk in prefills)
    return BatchShape(tuple(prefills), decodes, kv, kv, tokens), requests, context


def timed_ns(backend: NativeBackend, builder: InterleavedBuilder | OffloadBuilder, shape: BatchShape) -> int:
    """What an iteration takes on the clock."""
    graph = backend.register(builder.template)
    begin_ns = backend.now_ns
    backend.submit(graph, builder.durations_ns((shape,)), builder.sizes_bytes((shape,)), -1)
    while not backend.advance(2**60):
        pass
    return backend.now_ns - begin_ns


@given(halves(), halves())
@settings(max_examples=40, deadline=None)
def test_two_halves_overlap_within_bounds_and_as_predicted(
    one: tuple[BatchShape, list[int], list[int]], other: tuple[BatchShape, list[int], list[int]]
) -> None:
    run = Run(run_file(sub_batch_interleaving="always"), [RequestSpec(0, 0, 8, 2)])
    (instance,) = run.system.instances
    base = instance.builder
    assert isinstance(base, OffloadBuilder)
    backend = run.system.backend
    assert isinstance(backend, NativeBackend)
    pieces = []
    for shape, requests, context in (one, other):
        builder = base.of(Form.of(shape))
        builder.expect(np.array(requests), np.array(context))
        pieces.append((builder, shape))
    together = InterleavedBuilder(pieces[0][0], pieces[1][0])
    together.shapes = (one[0], other[0])
    taken = timed_ns(backend, together, one[0])
    serial = sum(timed_ns(backend, builder, shape) for builder, shape in pieces)
    durations = together.durations_ns(())
    computed = int(durations[together.template.type == NodeType.COMP].sum())
    in_memory = np.flatnonzero(together.template.type == NodeType.PIM_COMP)
    busy = np.bincount(together.template.channel[in_memory], weights=durations[in_memory] + LATENCY_NS, minlength=1)
    assert max(computed, busy.max()) <= taken <= serial
    has_prompts = one[0].prefills or other[0].prefills
    if not has_prompts:  # whose keys and values travel as well
        assert abs(predict_ns(pieces) - taken) <= 0.01 * taken
