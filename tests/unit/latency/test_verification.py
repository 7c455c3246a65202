"""Attention of decodes that verify drafts: keys and values are read once, every (query, key) pair is computed."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_bundle import decode_us, mixed_us, write_bundle

from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.latency import BundleSource, RooflineSource
from llmservingsim.latency.roofline import _work
from llmservingsim.model import ParallelLayout, Work
from llmservingsim.shapes import BatchShape, Chunk

MODEL = find_model("meta-llama/Llama-3.1-8B")
H100 = find_accelerator("H100")


def verification(contexts: Sequence[int], drafts: int) -> BatchShape:
    """Each sequence computes ``1 + drafts`` tokens behind its context."""
    lengths = [c + 1 + drafts for c in contexts]
    pairs = sum(drafts * n - drafts * (drafts + 1) // 2 for n in lengths)
    tokens = len(contexts) * (1 + drafts)
    return BatchShape((), len(lengths), sum(lengths), max(lengths), tokens, len(lengths) * drafts, pairs)


@given(contexts=st.lists(st.integers(0, 3000), min_size=1, max_size=8), drafts=st.integers(0, 8))
def test_the_work_is_that_of_chunks_of_so_many_tokens(contexts: list[int], drafts: int) -> None:
    work = _work(verification(contexts, drafts), None, 2)
    chunks = Work.of_requests((1 + drafts, c + 1 + drafts) for c in contexts)
    assert (work.tokens, work.attended_pairs, work.context_tokens) == (
        chunks.tokens,
        chunks.attended_pairs,
        chunks.context_tokens,
    )
    assert work.sequences == len(contexts) * (1 + drafts)  # rows of the head


def test_a_window_bounds_what_is_read_and_attended() -> None:
    work = _work(verification([10_000], 4), 512, 2)
    assert work.context_tokens == 512
    assert work.attended_pairs == pytest.approx(5 * 512, rel=0.001)


def test_where_memory_bounds_a_verification_takes_what_its_keys_and_values_take() -> None:
    """2 * 8 heads * 128 * 2 bytes per token and layer at the usable bandwidth, whatever the number of drafts."""
    source = RooflineSource(MODEL, ParallelLayout(), H100)
    keys = 64 * 8000
    read_ns = keys * 4096 / (H100.memory_bandwidth * H100.efficiency.memory) * 1e9
    for drafts in (0, 1, 5):
        shape = verification([8000 - 1 - drafts] * 64, drafts)
        assert source.latency_ns("attention", shape) == pytest.approx(read_ns, rel=0.005)


def test_where_arithmetic_bounds_it_grows_with_the_pairs() -> None:
    """4 FLOPs per pair and element of the 32 query heads; 200 drafts are far beyond the ridge of the roofline."""
    source = RooflineSource(MODEL, ParallelLayout(), H100)
    peak = H100.flops(MODEL.dtype) * H100.efficiency.attention
    for drafts in (200, 400):
        shape = verification([8000] * 4, drafts)
        pairs = 4 * sum(8000 + 1 + i for i in range(1 + drafts))
        assert source.latency_ns("attention", shape) == pytest.approx(4 * pairs * 4096 / peak * 1e9, rel=0.001)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> BundleSource:
    return BundleSource(write_bundle(tmp_path_factory.mktemp("profiles")))


@pytest.mark.parametrize("contexts", [[1019], [1019] * 16, [500, 1019, 900, 700], [251] * 64])
def test_a_bundle_times_a_verification_as_tiles_of_the_kernel_of_mixed_batches(
    bundle: BundleSource, contexts: list[int]
) -> None:
    """The tile of the longest stands for the chunk that the kernel was measured with, the others for its decodes."""
    shape = verification(contexts, 4)
    lengths = sorted(c + 5 for c in contexts)
    chunk, others = Chunk(16, lengths[-1] - 16), lengths[:-1]
    mixed = BatchShape((chunk,), len(others), sum(others), max(others, default=0), 16 + len(others))
    found = bundle.latency_ns("attention", shape) / 1000
    assert found == pytest.approx(mixed_us(mixed), rel=0.08)
    assert found >= decode_us(len(lengths), sum(lengths) / len(lengths)) - 0.001


def test_more_drafts_fill_the_same_tiles_until_these_are_full(bundle: BundleSource) -> None:
    times = [bundle.latency_ns("attention", verification([1024 - 1 - k] * 4, k)) for k in (1, 5, 15)]
    assert times[0] == times[1] == times[2]
    assert bundle.latency_ns("attention", verification([1024 - 128] * 4, 127)) > times[0]


def test_in_a_mixed_batch_a_verification_is_a_tile_like_a_decode(bundle: BundleSource) -> None:
    plain = BatchShape((Chunk(256, 0),), 4, 4000, 1000, 260)
    drafts = plain._replace(num_tokens=272, num_drafts=12, draft_pairs=3 * 4000 - 24)
    assert bundle.latency_ns("attention", drafts) == bundle.latency_ns("attention", plain)


def test_every_token_and_every_row_is_computed(bundle: BundleSource) -> None:
    shape = verification([100] * 4, 3)
    tokens, rows = BatchShape((), 16, 16, 1, 16), BatchShape((), 16, 1600, 100, 16)
    assert bundle.latency_ns("o_proj", shape) == bundle.latency_ns("o_proj", tokens)
    assert bundle.latency_ns("lm_head", shape) == bundle.latency_ns("lm_head", rows)


def test_measured_bundles_never_time_a_verification_below_a_decode(shared: Path) -> None:
    """And at most at 7 times it: FlashAttention 2 splits no context for several queries."""
    for folder in sorted((shared / "data" / "profiles").glob("*/*/*/bf16/tp1")):
        source = BundleSource(folder)
        for count, context in ((1, 500), (4, 4000), (16, 1000), (64, 2000)):
            shape = verification([context] * count, 4)
            decode = shape._replace(num_drafts=0, draft_pairs=0)
            ratio = source.latency_ns("attention", shape) / source.latency_ns("attention", decode)
            assert 1 <= ratio < 7
