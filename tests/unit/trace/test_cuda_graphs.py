"""Padding of batches to captured sizes, as vLLM 0.19 does it by default."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmservingsim.trace import capture_sizes, padded_tokens

BELOW_256 = (1, 2, 4, *range(8, 256, 8))


def test_128_sequences_capture_up_to_256():
    assert capture_sizes(128, 2048) == (*BELOW_256, 256)


@pytest.mark.parametrize("max_num_seqs", [256, 1024])
def test_256_sequences_or_more_capture_up_to_512(max_num_seqs):
    sizes = capture_sizes(max_num_seqs, 8192)
    assert sizes == (*BELOW_256, *range(256, 513, 16))
    assert len(sizes) == 51  # what vLLM prints while it captures


@pytest.mark.parametrize(("budget", "largest"), [(512, 512), (300, 288), (100, 96), (5, 4), (1, 1)])
def test_nothing_is_captured_above_the_token_budget(budget, largest):
    assert capture_sizes(256, budget)[-1] == largest


@pytest.mark.parametrize(("max_num_seqs", "sizes"), [(1, (1, 2)), (3, (1, 2, 4)), (5, (1, 2, 4, 8))])
def test_few_sequences_capture_few_sizes(max_num_seqs, sizes):
    assert capture_sizes(max_num_seqs, 2048) == sizes


@pytest.mark.parametrize(
    ("tokens", "padded"), [(1, 1), (3, 4), (5, 8), (8, 8), (249, 256), (257, 272), (512, 512), (513, 513), (2048, 2048)]
)
def test_a_batch_is_padded_to_the_next_size_and_left_alone_above_the_largest(tokens, padded):
    assert padded_tokens(tokens, capture_sizes(256, 2048)) == padded


def test_eager_execution_pads_nothing():
    assert padded_tokens(7, ()) == 7


@given(tokens=st.integers(1, 4096), max_num_seqs=st.integers(1, 2048), budget=st.integers(1, 16_384))
def test_padding_never_shrinks_a_batch_and_adds_at_most_15_tokens(tokens, max_num_seqs, budget):
    sizes = capture_sizes(max_num_seqs, budget)
    assert list(sizes) == sorted(set(sizes))
    assert 0 <= padded_tokens(tokens, sizes) - tokens <= 15
