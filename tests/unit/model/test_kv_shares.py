"""Every rank of the target gets the keys and values that it holds, each once."""

from collections import Counter
from itertools import product

import pytest

from llmservingsim.config.catalog import find_model
from llmservingsim.model import KvShare, ParallelLayout, block_shares, kv_bytes_per_token, kv_shares

LLAMA = find_model(
    "meta-llama/Llama-3.1-8B"
)  # 32 blocks, 8 KV heads of 128: 2 * 128 * 2 bytes per head, block and token
HEAD = 2 * 128 * 2


def test_equal_layouts_pair_their_ranks() -> None:
    shares = kv_shares(LLAMA, ParallelLayout(tp=2), ParallelLayout(tp=2))
    assert shares == [KvShare(0, 0, 32 * 4 * HEAD), KvShare(1, 1, 32 * 4 * HEAD)]


def test_a_wider_target_takes_its_heads_from_where_they_are() -> None:
    shares = kv_shares(LLAMA, ParallelLayout(tp=1), ParallelLayout(tp=2))
    assert shares == [KvShare(0, 0, 32 * 4 * HEAD), KvShare(0, 1, 32 * 4 * HEAD)]


def test_replicated_heads_are_fetched_from_their_holders_in_turn() -> None:
    """16 ranks hold 8 heads twice; the target's 4 ranks need 2 heads each."""
    shares = kv_shares(LLAMA, ParallelLayout(tp=16), ParallelLayout(tp=4))
    assert [(s.source, s.target) for s in shares] == [
        (0, 0), (2, 0), (5, 1), (7, 1), (8, 2), (10, 2), (13, 3), (15, 3),
    ]  # fmt: skip
    assert {s.bytes_per_token for s in shares} == {32 * HEAD}


def test_pipeline_stages_exchange_the_blocks_that_they_share() -> None:
    shares = kv_shares(LLAMA, ParallelLayout(pp=2), ParallelLayout(pp=1))
    assert shares == [KvShare(0, 0, 16 * 8 * HEAD), KvShare(1, 0, 16 * 8 * HEAD)]


@pytest.mark.parametrize(("source_tp", "target_tp", "pp"), list(product((1, 2, 8, 16), (1, 4, 16), (1, 2))))
def test_a_target_rank_receives_what_it_keeps(source_tp: int, target_tp: int, pp: int) -> None:
    target = ParallelLayout(tp=target_tp, pp=pp)
    received: Counter[int] = Counter()
    for share in kv_shares(LLAMA, ParallelLayout(tp=source_tp), target):
        received[share.target] += share.bytes_per_token
    kept = {rank: kv_bytes_per_token(LLAMA, target, stage=rank // target_tp) for rank in range(target.num_ranks)}
    assert received == kept


@pytest.mark.parametrize(("source_tp", "target_tp", "pp"), list(product((1, 2, 16), (1, 4, 16), (1, 2))))
def test_the_shares_of_all_blocks_make_up_those_of_the_model(source_tp: int, target_tp: int, pp: int) -> None:
    source, target = ParallelLayout(tp=source_tp, pp=3), ParallelLayout(tp=target_tp, pp=pp)
    summed: Counter[tuple[int, int]] = Counter()
    for block in range(LLAMA.num_layers):
        for share in block_shares(LLAMA, source, target, block):
            summed[share.source, share.target] += share.bytes_per_token
    assert summed == {(s.source, s.target): s.bytes_per_token for s in kv_shares(LLAMA, source, target)}
