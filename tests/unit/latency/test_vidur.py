"""Profiles of Vidur: what each of its columns becomes, and what is said of those that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import vidur_files as vidur
from synthetic_bundle import batch

from llmservingsim.config.catalog import find_accelerator, find_model
from llmservingsim.errors import ProfileError
from llmservingsim.latency import BundleSource
from llmservingsim.latency.freeze import write_bundle
from llmservingsim.latency.vidur import VidurProfiles, fit_link, read_transfers
from llmservingsim.model import ParallelLayout

MODEL = find_model(vidur.MODEL)
BESIDE_US = sum(vidur.BESIDE.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return vidur.write_profiles(tmp_path)


def load(folder: Path, model: str = vidur.MODEL) -> VidurProfiles:
    return VidurProfiles(folder / "mlp.csv", folder / "attention.csv", find_model(model))


def source(folder: Path, tp: int = 1) -> BundleSource:
    bundle = folder / f"bundle/tp{tp}"
    write_bundle(load(folder).of(ParallelLayout(tp)), find_accelerator("A100"), bundle)
    return BundleSource(bundle)


def spoil(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize("tp", vidur.DEGREES)
@pytest.mark.parametrize(
    ("operator", "parts"),
    [
        ("embedding", {"emb": 1}),
        ("layernorm", {"input_layernorm": 0.5, "post_attention_layernorm": 0.5, "add": 1}),
        ("qkv_proj", {"attn_pre_proj": 1}),
        ("rotary_emb", {"attn_rope": 1}),
        ("o_proj", {"attn_post_proj": 1}),
        ("gate_up_proj", {"mlp_up_proj": 1}),
        ("act_fn", {"mlp_act": 1}),
        ("down_proj", {"mlp_down_proj": 1}),
    ],
)
def test_each_operator_takes_the_medians_of_its_columns(
    folder: Path, operator: str, parts: dict[str, float], tp: int
) -> None:
    """The formulas are linear in the tokens, so 300 between two measured sizes are met too."""
    us = sum(share * vidur.dense_us(name, 300, tp) for name, share in parts.items())
    assert source(folder, tp).latency_ns(operator, batch([(300, 0)])) == pytest.approx(us * 1000, rel=1e-4)


@pytest.mark.parametrize(("chunk", "cached"), [(64, 0), (512, 1024), (2048, 8192)])
def test_a_measured_chunk_takes_its_kernel_and_what_stands_beside(folder: Path, chunk: int, cached: int) -> None:
    us = vidur.chunk_us(chunk, cached) + BESIDE_US
    assert source(folder).latency_ns("attention", batch([(chunk, cached)])) == pytest.approx(us * 1000, rel=1e-4)


def test_decodes_count_their_new_token_among_the_keys(folder: Path) -> None:
    """Vidur's kv_cache_size is what was there before."""
    us = vidur.decode_us(8, 1024) + BESIDE_US
    assert source(folder).latency_ns("attention", batch([], [1024] * 8)) == pytest.approx(us * 1000, rel=1e-4)


def test_a_mixed_batch_runs_one_kernel_after_the_other(folder: Path) -> None:
    read = source(folder)
    parts = [batch([(512, 1024)]), batch([], [1024] * 8)]
    together = read.latency_ns("attention", batch([(512, 1024)], [1024] * 8))
    assert together == pytest.approx(sum(read.latency_ns("attention", part) for part in parts), abs=1)


def test_several_chunks_share_the_tiles_of_one_kernel_though_only_one_was_measured(folder: Path) -> None:
    """The formula is made of tiles and keys, so two chunks take both their work and one launch."""
    us = vidur.chunk_us(512, 1024) + vidur.chunk_us(128, 0) - 10 + BESIDE_US
    assert source(folder).latency_ns("attention", batch([(512, 1024), (128, 0)])) == pytest.approx(us * 1000, rel=0.02)


def test_what_vidur_lacks_comes_from_the_roofline_and_is_named(folder: Path) -> None:
    read = source(folder)
    assert all(read.latency_ns(name, batch([], [10])) > 0 for name in ("lm_head", "sampler", "final_layernorm"))
    meta = (folder / "bundle/tp1/meta.yaml").read_text()
    assert "from_roofline:\n- final_layernorm\n- lm_head\n- sampler\n" in meta
    assert "statistic: median" in meta


def test_columns_of_small_kernels_may_be_absent(folder: Path) -> None:
    for name in ("emb", "add", "post_attention_layernorm"):
        spoil(folder / "mlp.csv", lambda text, name=name: text.replace(f"time_stats.{name}.", f"time_stats.no_{name}."))
    read = source(folder)
    assert read.latency_ns("layernorm", batch([(64, 0)])) == round(vidur.dense_us("input_layernorm", 64) * 1000)
    assert "- embedding\n" in (folder / "bundle/tp1/meta.yaml").read_text()


def test_a_shape_that_was_measured_again_counts_with_the_median(folder: Path) -> None:
    rows = vidur.mlp_rows()
    slow = {key: value * 3 if key.startswith("time_stats") else value for key, value in rows[0].items()}
    vidur.write(folder / "mlp.csv", [*rows, rows[0], slow])
    assert source(folder).latency_ns("o_proj", batch([], [9])) == pytest.approx(
        1000 * vidur.dense_us("attn_post_proj", 1)
    )


def test_the_slowest_rank_on_one_node_counts_in_an_all_reduce(folder: Path) -> None:
    found = read_transfers(folder / "all_reduce.csv", "all_reduce")
    assert found == {(n, size): pytest.approx(10 * n + size / 1e4) for n in (2, 4) for size in (4096, 1 << 20, 1 << 26)}


def test_transfers_between_two_tell_the_link(folder: Path) -> None:
    assert fit_link(read_transfers(folder / "send_recv.csv", "send_recv")) == pytest.approx((12, 25e3), rel=1e-6)
    with pytest.raises(ProfileError, match="expected times that grow"):
        fit_link({(2, 4096): 10.0})


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("mlp", "time_stats.attn_pre_proj.median", "x", r"mlp\.csv:1: has no column 'time_stats.attn_pre_proj.median'"),
        ("attention", "kv_cache_size", "kv_cache_sise", r"'kv_cache_size' \(did you mean 'kv_cache_sise'"),
        ("mlp", ",4096,14336,", ",5120,14336,", r"mlp\.csv:2: n_embd: 5120 is not .*-8B's; expected 4096"),
        ("mlp", ",128256,", ",32000,", r"mlp\.csv:2: vocab_size: 32000 is not"),
        ("mlp", "True", "False", r"mlp\.csv:2: use_gated_mlp: False is not .*expected True"),
        ("attention", ",4096,32,8,", ",4096,64,8,", r"attention\.csv:2: n_q_head: 64 is not .*; expected 32"),
        ("attention", "True,FLASHINFER", "Yes,FLASHINFER", r"attention\.csv:2: is_prefill: expected True or False"),
        ("attention", "True,FLASHINFER", "False,FLASHINFER", r"no row of attn_prefill \(is_prefill\) for .* 1"),
        ("attention", ",1,True", ",3,True", r"attention.csv: holds no row of attn_prefill"),
        ("mlp", "0.0404,", "fast,", r"mlp\.csv:\d+: .*: expected a number of at least 0, got 'fast'"),
        ("mlp", "0.0404,", "nan,", r"mlp\.csv:\d+: .*: expected a number of at least 0, got 'nan'"),
        ("mlp", "0.0404,", "0,", r"mlp\.csv:2: qkv_proj: expected num_tokens and a time greater than 0"),
        ("mlp", ",1,1\n", ",,1\n", r"mlp\.csv:2: num_tokens: expected a number, got an empty cell"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_named_by_file_line_and_column(
    folder: Path, file: str, old: str, new: str, said: str
) -> None:
    path = folder / f"{file}.csv"
    assert old in path.read_text().replace("\r", "")
    path.write_text(path.read_text().replace("\r", "").replace(old, new))
    with pytest.raises(ProfileError, match=said):
        load(folder).of(ParallelLayout(1))


def test_a_degree_that_was_not_measured_is_refused_with_those_that_were(folder: Path) -> None:
    with pytest.raises(ProfileError, match=r"num_tensor_parallel_workers 4; expected --tp out of 1, 2"):
        load(folder).of(ParallelLayout(4))


@pytest.mark.parametrize("model", ["Qwen/Qwen3-30B-A3B", "deepseek-ai/DeepSeek-V3"])
def test_models_that_vidur_does_not_profile_are_refused(folder: Path, model: str) -> None:
    with pytest.raises(ProfileError, match="Vidur profiles dense models in 16 bits"):
        load(folder, model)


def test_a_file_without_a_transfer_is_refused(folder: Path) -> None:
    rows = [row | {"num_workers": 1} for row in vidur.transfer_rows("all_reduce", lambda n, size: 1.0)]
    vidur.write(folder / "all_reduce.csv", rows)
    with pytest.raises(ProfileError, match="holds no transfer between ranks"):
        read_transfers(folder / "all_reduce.csv", "all_reduce")
