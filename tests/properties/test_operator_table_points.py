"""A table of any positive times goes through its rows, and between two neighbours stays between their times."""

from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from llmservingsim.config import OperatorTableSpec
from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.latency import OperatorTableSource, RooflineSource
from llmservingsim.model import ParallelLayout
from llmservingsim.shapes import BatchShape, Chunk

MODEL = find_model("meta-llama/Llama-3.2-1B")
ROOFLINE = RooflineSource(MODEL, ParallelLayout(), find_accelerator("H100"))
TIMES = st.integers(0, 10**9)


def load(rows: list[str]) -> OperatorTableSource:
    with TemporaryDirectory() as folder:
        path = Path(folder, "times.csv")
        path.write_text("\n".join(("operator,tokens,sequences,kv,time", *rows)))
        return OperatorTableSource(path, OperatorTableSpec(path="times.csv", unit="ns"), MODEL, ROOFLINE)


def chunk(tokens: int, context: int = 0) -> BatchShape:
    return BatchShape((Chunk(tokens, context),), 0, 0, 0, tokens)


def decodes(count: int, kv: int) -> BatchShape:
    return BatchShape((), count, count * kv, kv, count)


@settings(max_examples=80, deadline=None)
@given(points=st.dictionaries(st.integers(2, 5000), TIMES, min_size=2, max_size=8), share=st.floats(0, 1))
def test_a_product_between_two_rows_takes_a_time_between_theirs(points: dict[int, int], share: float) -> None:
    source = load([f"o_proj,{size},,,{time}" for size, time in points.items()])
    sizes = sorted(points)
    assert [source.latency_ns("o_proj", chunk(size)) for size in sizes] == [points[size] for size in sizes]
    assert "o_proj" not in source.provenance()["extrapolated_shapes"]  # type: ignore[operator]
    for low, high in itertools.pairwise(sizes):
        time = source.latency_ns("o_proj", chunk(low + int(share * (high - low))))
        assert min(points[low], points[high]) <= time <= max(points[low], points[high])
    if points[sizes[0]] <= points[sizes[-1]]:
        assert source.latency_ns("o_proj", chunk(sizes[-1] + 1000)) >= points[sizes[-1]]


GRID = st.lists(TIMES, min_size=9, max_size=9)


@settings(max_examples=80, deadline=None)
@given(times=GRID, count=st.integers(2, 64), kv=st.integers(10, 4000))
def test_decodes_in_a_cell_of_the_table_take_a_time_between_those_of_its_corners(
    times: list[int], count: int, kv: int
) -> None:
    counts, lengths = (2, 16, 64), (10, 300, 4000)
    corners = {(n, length): times[3 * i + j] for i, n in enumerate(counts) for j, length in enumerate(lengths)}
    source = load([f"attention,{n},{n},{length},{time}" for (n, length), time in corners.items()])
    for (n, length), time in corners.items():
        assert source.latency_ns("attention", decodes(n, length)) == time
    near = [t for (n, length), t in corners.items() if _is_near(n, count, counts) and _is_near(length, kv, lengths)]
    assert min(near) <= source.latency_ns("attention", decodes(count, kv)) <= max(near)


@settings(max_examples=80, deadline=None)
@given(times=GRID, tokens=st.integers(8, 512), context=st.integers(0, 1000))
def test_chunks_in_a_cell_of_the_table_take_a_time_between_those_of_its_corners(
    times: list[int], tokens: int, context: int
) -> None:
    sizes, pasts = (8, 64, 512), (0, 100, 1000)
    corners = {(q, past): times[3 * i + j] for i, q in enumerate(sizes) for j, past in enumerate(pasts)}
    source = load([f"attention,{q},1,{q + past},{time}" for (q, past), time in corners.items()])
    for (q, past), time in corners.items():
        assert source.latency_ns("attention", chunk(q, past)) == time
    near = [t for (q, past), t in corners.items() if _is_near(q, tokens, sizes) and _is_near(past, context, pasts)]
    assert min(near) <= source.latency_ns("attention", chunk(tokens, context)) <= max(near)


def _is_near(corner: int, value: int, grid: tuple[int, ...]) -> bool:
    """Whether a corner bounds the cell that holds a value."""
    below, above = max(x for x in grid if x <= value), min(x for x in grid if x >= value)
    return corner in (below, above)
