"""Products and attention from kernels that were measured apart, held against numbers worked out here."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_bundle import batch

from llmservingsim.errors import ProfileError
from llmservingsim.latency.gemm_table import GemmTable
from llmservingsim.latency.kernel_attention import KernelAttention
from llmservingsim.latency.tables import DecodeTable
from llmservingsim.latency.tiles import own_context

DECODE = DecodeTable({n: ([16.0, 4096.0], [5 + n * 16 / 100, 5 + n * 4096 / 100]) for n in (1, 64)})
LAUNCH, PER_TILE, PER_KEY = 10.0, 0.5, 0.01


def gemms(keep=lambda m, n, k: True):
    points = [p for p in product((1, 64, 1024), (128, 256, 1024), (64, 512)) if keep(*p)]
    m, n, k = np.array(points, dtype=float).T
    return GemmTable(m, n, k, 3 + m * n * k / 1e6 + n * k / 1e5, "test")


def prefill_us(chunks, share=0.0, decodes=()):
    tiles = sum(-(-query // 64) for query, _ in chunks) + share * len(decodes)
    keys = sum(own_context(chunk) for chunk in batch(chunks).prefills) + share * sum(decodes)
    return LAUNCH + PER_TILE * tiles + PER_KEY * keys


def attention(tiles_per_decode=0.0):
    rows = [(n, q, 0, prefill_us([(q, 0)] * n)) for n, q in product((1, 2, 8, 64), (1, 16, 64, 128, 512, 2048))]
    return KernelAttention(np.array(rows, dtype=float), DECODE, tiles_per_decode)


@given(st.floats(128, 1024), st.floats(64, 512))
def test_what_is_linear_in_the_widths_is_met_between_them(n: float, k: float) -> None:
    rows, times = gemms().times(n, k)
    assert list(rows) == [1, 64, 1024]
    assert times == pytest.approx([3 + m * n * k / 1e6 + n * k / 1e5 for m in rows], rel=1e-9)


def test_beyond_the_widest_the_line_goes_on_and_below_the_narrowest_the_time_holds() -> None:
    table = gemms()
    assert table.times(4096, 512)[1][0] == pytest.approx(3 + 4096 * 512 / 1e6 + 4096 * 512 / 1e5)
    assert table.times(8, 64) == table.times(128, 64)
    assert (table.covers(128, 64), table.covers(2048, 64), table.covers(128, 8)) == (True, False, False)


def test_a_number_of_rows_that_was_not_measured_at_a_neighbour_is_left_out() -> None:
    table = gemms(lambda m, n, k: (m, n, k) != (64, 256, 64))
    assert table.times(200, 64)[0] == [1, 1024]
    assert table.times(512, 64)[0] == [1, 1024]
    assert table.times(1024, 64)[0] == [1, 64, 1024]


def test_no_product_at_all_is_refused() -> None:
    with pytest.raises(ProfileError, match="fp8: no matrix product was measured"):
        GemmTable(*np.empty((4, 0)), "fp8")


@pytest.mark.parametrize(("count", "query"), [(1, 1), (1, 512), (8, 64), (64, 2048)])
def test_measured_batches_of_chunks_take_what_was_measured(count: int, query: int) -> None:
    chunks = [(query, 0)] * count
    assert attention().at(batch(chunks)) == pytest.approx(prefill_us(chunks), rel=1e-9)


@pytest.mark.parametrize("chunks", [[(700, 0), (64, 0), (130, 0)], [(256, 1024)], [(64, 512), (2000, 0)]])
def test_unequal_chunks_and_contexts_follow_the_tiles(chunks: list[tuple[int, int]]) -> None:
    """The times are made of tiles and keys alone, so the model meets them where no row was measured."""
    assert attention().at(batch(chunks)) == pytest.approx(prefill_us(chunks), rel=1e-6)


def test_a_chunk_behind_a_context_takes_what_was_measured_behind_it() -> None:
    """Reading what is cached costs a third more here than the model of tiles has it."""
    rows = [
        (1, q, c, prefill_us([(q, c)]) * (1 if c == 0 else 4 / 3)) for q, c in product((64, 256, 1024), (0, 1024, 4096))
    ]
    read = KernelAttention(np.array(rows, dtype=float), DECODE)
    for _, query, context, time_us in rows:
        assert read.at(batch([(query, context)])) == pytest.approx(time_us, rel=1e-9)
    assert read.covers(batch([(256, 4096)]))
    assert not read.covers(batch([(256, 5000)]))


def test_kernels_of_their_own_run_one_after_another() -> None:
    mixed = batch([(512, 0)], [1000] * 32)
    assert attention().at(mixed) == attention().at(batch([(512, 0)])) + attention().at(batch([], [1000] * 32))


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_in_one_kernel_a_decode_is_a_tile_per_head_or_per_group_of_heads(share: float) -> None:
    decodes = [3000] * 32
    expected = max(DECODE.at(32, 3000), prefill_us([(512, 0)], share, decodes))
    assert attention(share).at(batch([(512, 0)], decodes)) == pytest.approx(expected, rel=1e-6)


def test_decodes_alone_take_what_was_measured_whatever_a_mixed_batch_does() -> None:
    assert attention(1.0).at(batch([], [16] * 64)) == pytest.approx(5 + 64 * 16 / 100)
    assert attention(1.0).at(batch()) == 0


def test_the_grid_tells_what_it_does_not_cover() -> None:
    kernel = attention()
    assert kernel.covers(batch([(512, 0)], [100]))
    assert not kernel.covers(batch([(4096, 0)]))
    assert not kernel.covers(batch([], [9000]))
