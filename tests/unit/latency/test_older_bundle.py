"""Older bundles: separate layers become fused operators, a plain attention kernel becomes the engine's."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from older_bundle import (
    COUNTS,
    DEVICE,
    GPU_HEADER,
    LAYERS_HEADER,
    MODEL,
    START_NS,
    TPU_HEADER,
    chunk_ns,
    decode_ns,
    layer_rows,
    product_ns,
    source_of,
    write_older_bundle,
)
from synthetic_bundle import batch

from llmservingsim.config.catalog import find_model
from llmservingsim.errors import ProfileError
from llmservingsim.latency import ExpertLatencySource, ExpertWork, RooflineSource, find_bundle, is_older
from llmservingsim.model import ParallelLayout

MIXTRAL = find_model("mistralai/Mixtral-8x7B-v0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_older_bundle(tmp_path / "A6000/meta-llama/Llama-3.1-8B/tp1")


def tokens(count: int):
    return batch([(count, 0)])


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("layer", ["o_proj", "down_proj"])
def test_a_layer_that_is_an_operator_returns_what_was_measured(folder, layer, count):
    assert source_of(folder).latency_ns(layer, tokens(count)) == round(product_ns(layer, count))


def test_between_measured_token_counts_the_time_is_linear(folder):
    assert source_of(folder).latency_ns("o_proj", tokens(160)) == round(product_ns("o_proj", 160))  # 64 and 256


def test_one_product_for_three_starts_once(folder):
    source = source_of(folder)
    parts = sum(product_ns(layer, 64) for layer in ("q_proj", "k_proj", "v_proj"))
    # The fit sees 10 ns per token, up to 64 of them, beside the start: hence the tolerance of 500 ns a start.
    assert source.latency_ns("qkv_proj", tokens(64)) == pytest.approx(parts - 2 * START_NS, abs=2 * 500)
    parts = product_ns("gate_proj", 64) + product_ns("up_proj", 64)
    assert source.latency_ns("gate_up_proj", tokens(64)) == pytest.approx(parts - START_NS, abs=500)
    assert source.provenance()["product_start_ns"] == pytest.approx(START_NS, abs=500)


def test_the_two_norms_of_a_block_share_one_name_and_keep_their_sum(folder):
    assert 2 * source_of(folder).latency_ns("layernorm", tokens(8)) == (4000 + 40) + (6000 + 40)


def test_the_head_is_looked_up_by_sequences(folder):
    shape = batch([(2000, 0)], [100] * 7)
    assert source_of(folder).latency_ns("lm_head", shape) == round(product_ns("lm_head", 8))


def test_what_was_not_measured_comes_from_the_roofline_and_says_so(folder):
    source, shape = source_of(folder), batch([], [100] * 8)
    assert source.provenance()["roofline_operators"] == []
    roofline = RooflineSource(MODEL, ParallelLayout(), DEVICE)
    assert source.latency_ns("sampler", shape) == roofline.latency_ns("sampler", shape)
    assert source.provenance()["roofline_operators"] == ["sampler"]


def test_a_layer_that_the_compiler_merged_counts_where_its_neighbour_holds_it(folder):
    kept = [row for row in layer_rows() if not re.match(r"up_proj,(1|2|8),", row)]
    (folder / "layers.csv").write_text("\n".join([LAYERS_HEADER, *kept]) + "\n")
    source = source_of(folder)
    assert source.latency_ns("gate_up_proj", tokens(8)) == round(product_ns("gate_proj", 8))
    both = product_ns("gate_proj", 64) + product_ns("up_proj", 64)
    assert source.latency_ns("gate_up_proj", tokens(64)) == round(both)
    assert source.provenance()["merged_layers"] == {"up_proj": "absent at 3 token counts"}


@pytest.mark.parametrize(("chunk", "context"), [(32, 0), (128, 128), (512, 1024)])
def test_a_measured_chunk_returns_the_measurement(folder, chunk, context):
    source = source_of(folder)
    assert source.latency_ns("attention", batch([(chunk, context)])) == round(chunk_ns(chunk, context))
    assert source.provenance()["extrapolated_shapes"] == {}


def test_a_chunk_is_linear_in_its_context_and_goes_on_beyond_the_grid(folder):
    source = source_of(folder)
    assert source.latency_ns("attention", batch([(128, 500)])) == pytest.approx(chunk_ns(128, 500), abs=1)
    assert source.latency_ns("attention", batch([(128, 9000)])) == pytest.approx(chunk_ns(128, 9000), abs=1)
    assert source.provenance()["extrapolated_shapes"] == {"attention": 1}


def test_a_chunk_beyond_the_grid_grows_with_its_square(folder):
    source = source_of(folder)
    assert source.latency_ns("attention", batch([(2048, 0)])) == round(16 * chunk_ns(512, 0))


def test_whole_prompts_of_the_layer_file_carry_the_grid_on(folder):
    whole = ["attn,512,0,1,30000", "attn,1024,0,1,90000"]
    (folder / "layers.csv").write_text("\n".join([LAYERS_HEADER, *layer_rows(), *whole]) + "\n")
    source = source_of(folder)
    assert source.latency_ns("attention", batch([(512, 0)])) == round(chunk_ns(512, 0))
    assert source.latency_ns("attention", batch([(1024, 0)])) == round(3 * chunk_ns(512, 0))
    assert source.latency_ns("attention", batch([(2048, 0)])) == round(4 * 3 * chunk_ns(512, 0))


@pytest.mark.parametrize(("measured", "keys"), [(2, 16), (8, 128), (16, 16)])
def test_four_packed_heads_make_four_sequences_cost_one_measured_one(folder, measured, keys):
    """The device file shares its keys out: a row of n sequences and K keys is n decodes of K / n keys."""
    shape = batch([], [keys] * 4 * measured)
    assert source_of(folder, skew="off").latency_ns("attention", shape) == round(decode_ns(measured, keys))


def test_decodes_cost_at_least_the_reading_of_their_keys_and_values(folder):
    """128 sequences of 100 000 keys of 4 KiB at 85 % of 768 GB/s: 80 ms, against 64 ms of 32 measured sequences."""
    expected = 128 * 100_000 * 4096 / (0.85 * 768e9) * 1e9
    assert expected > decode_ns(32, 100_000)
    shape = batch([], [100_000] * 128)
    assert source_of(folder, skew="off").latency_ns("attention", shape) == pytest.approx(expected, abs=1)


def test_a_long_context_bounds_its_batch_once_contexts_are_not_split(folder):
    """84 units, 8 KV heads: 1.6 * 84 / 8 = 16.8, so from 17 sequences on."""
    long_alone = decode_ns(1, 4096)
    few, many = batch([], [4096] + [16] * 15), batch([], [4096] + [16] * 16)
    assert source_of(folder).latency_ns("attention", few) < long_alone
    assert source_of(folder).latency_ns("attention", many) == round(long_alone)
    assert source_of(folder, skew="off").latency_ns("attention", many) < long_alone


def test_a_mixed_batch_is_the_sum_of_its_unpacked_parts_with_one_launch(folder):
    launch = chunk_ns(32, 0)  # the cheapest kernel measured
    parts = chunk_ns(128, 0) + chunk_ns(32, 128) + decode_ns(8, 128)
    shape = batch([(128, 0), (32, 128)], [128] * 8)
    assert source_of(folder).latency_ns("attention", shape) == round(parts - 2 * launch)


def test_attention_never_falls_between_measured_points(folder):
    source = source_of(folder)
    sweeps = [
        [batch([], [keys] * 40) for keys in range(1, 6000, 37)],
        [batch([], [300] * n) for n in range(1, 400, 3)],
        [batch([(size, 0)]) for size in range(2, 3000, 17)],
        [batch([(300, context)], [100] * 9) for context in range(0, 5000, 41)],
    ]
    for shapes in sweeps:
        times = [source.latency_ns("attention", shape) for shape in shapes]
        assert all(low <= high for low, high in pairwise(times))


def test_a_batch_shorter_than_any_measured_at_its_size_goes_on_at_the_pace_of_a_full_device(folder):
    """64 sequences were measured up to 128 keys: less than four tiles, so their own slope says little."""
    source = source_of(folder, skew="off")
    shape = batch([(32, 0)], [2000] * 64)
    expected = decode_ns(64, 2000)  # the chunk is the cheapest kernel, so it costs no more than the launch
    assert source.latency_ns("attention", shape) == pytest.approx(expected, abs=1)  # 20 ns a key everywhere


def test_the_tpu_form_counts_keys_per_sequence_and_is_the_kernel_of_the_engine(folder):
    decodes = [f"0,{keys},{n},False,{decode_ns(n, keys)}" for n in (1, 8, 64) for keys in (32, 1024)]
    chunks = [f"{c},{keys},1,True,{chunk_ns(c, keys)}" for c in (32, 512) for keys in (0, 1024)]
    (folder / "attention.csv").write_text("\n".join([TPU_HEADER, *decodes, *chunks]) + "\n")
    source = source_of(folder)
    assert source.latency_ns("attention", batch([], [1024] * 8)) == round(decode_ns(8, 1024))
    assert source.latency_ns("attention", batch([(512, 1024)])) == round(chunk_ns(512, 1024))


def moe_folder(folder: Path) -> Path:
    """The gate takes 1000 + n ns for n tokens; an expert 610 + 4 n for 1, 2 and 100, and no other n was measured."""
    layers = {"gate": 1000, "expert.w1": 100, "expert.w3": 200, "act_fn": 10, "expert.w2": 300}
    rows = [f"{name},{n},0,1,{base + n}" for name, base in layers.items() for n in (1, 2, 100)]
    (folder / "layers.csv").write_text("\n".join([LAYERS_HEADER, *rows]) + "\n")
    return folder


def work(tokens: int, pairs: list[list[float]], activated: list[list[float]]) -> ExpertWork:
    return ExpertWork(tokens, tokens, np.array(pairs, dtype=float), np.array(activated, dtype=float))


def test_experts_run_one_after_another_behind_the_gate(folder):
    """Two layers on two ranks: 3 experts of 2 tokens, 2 of 5; 1 of 1, and a rank without any."""
    source = source_of(moe_folder(folder), model=MIXTRAL)
    assert isinstance(source, ExpertLatencySource)
    found = source.moe_latency_ns(work(8, [[6, 10], [1, 0]], [[3, 2], [1, 0]]))
    assert found.dtype == np.int64
    assert found.tolist() == [[1008 + 3 * 618, 1008 + 2 * 630], [1008 + 614, 1008]]
    assert source.provenance()["extrapolated_shapes"] == {}


def test_expected_experts_are_fractions_between_whole_token_counts(folder):
    """1.5 tokens for each of 2.4 experts: 610 + 4 * 1.5 = 616 ns, halfway between 614 and 618; 1004 + 2.4 * 616."""
    source = source_of(moe_folder(folder), model=MIXTRAL)
    assert source.moe_latency_ns(work(4, [[3.6]], [[2.4]])).tolist() == [[2482]]


@pytest.mark.parametrize(
    ("layout", "experts_ns"), [(ParallelLayout(tp=2), 2 * 618), (ParallelLayout(tp=2, ep=2), 2472)]
)
def test_a_slice_of_every_expert_takes_its_share_of_whole_ones(folder, layout, experts_ns):
    """4 experts of 2 tokens: 4 * 618 = 2472 ns whole, which is what a part of `ep` holds."""
    source = source_of(moe_folder(folder), model=MIXTRAL, layout=layout)
    assert source.moe_latency_ns(work(4, [[8]], [[4]])).tolist() == [[1004 + experts_ns]]


def test_experts_and_gates_beyond_the_measured_tokens_go_on_and_are_counted(folder):
    """200 tokens for each of 2 experts: 610 + 4 * 200 ns; the gate goes on by 1 ns per token."""
    source = source_of(moe_folder(folder), model=MIXTRAL)
    assert source.moe_latency_ns(work(200, [[400]], [[2]])).tolist() == [[1200 + 2 * 1410]]
    assert source.provenance()["extrapolated_shapes"] == {"expert": 1, "gate": 1}


def test_a_dense_bundle_has_no_experts(folder):
    with pytest.raises(ProfileError, match=r"layers.csv: holds no gate and expert.w1"):
        source_of(folder).moe_latency_ns(work(4, [[4]], [[1]]))


@pytest.mark.parametrize("name", ["layers.csv", "attention.csv"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ProfileError, match=rf"{name}: file is missing; an older bundle's tp folder holds"):
        source_of(folder)


BROKEN = [
    ("layers.csv", "layer,tokens,time_us\n", r"layers.csv:1: column 'layer_name' is missing; expected layer_name"),
    ("layers.csv", "", r"layers.csv:1: column 'layer_name' is missing"),
    ("layers.csv", LAYERS_HEADER + "\n", r"layers.csv: holds no measured layer"),
    ("layers.csv", LAYERS_HEADER + "\nq_proj,1,0,1,-4\n", r"layers.csv:2: expected numbers in input,.*'1,0,1,-4'"),
    ("layers.csv", LAYERS_HEADER + "\nq_proj,1,0,1,nan\n", r"layers.csv:2: expected numbers"),
    ("layers.csv", LAYERS_HEADER + "\nq_proj,1,0,1\n", r"layers.csv:2: expected 5 columns, got 4"),
    ("attention.csv", GPU_HEADER.replace("is_prefill", "kind"), r"attention.csv:1: column 'is_prefill' is missing"),
    ("attention.csv", GPU_HEADER + "\n", r"attention.csv: holds no prompt chunk"),
    ("attention.csv", GPU_HEADER + "\n0.1,,1,32,32,True\n", r"attention.csv: holds no decode batch"),
    ("attention.csv", GPU_HEADER + "\n0.1,,1,32,32,yes\n", r"attention.csv:2: expected True or False .* got 'yes'"),
    ("attention.csv", GPU_HEADER + "\n,,1,0,32,False\n", r"attention.csv:2: expected numbers .* got '1,0,32,'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "message"), BROKEN)
def test_what_is_wrong_in_a_file_is_said_in_one_line(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(ProfileError, match=message) as raised:
        source_of(folder)
    assert "\n" not in str(raised.value)


def test_an_unknown_skew_mode_is_refused(folder):
    with pytest.raises(ProfileError, match=r"latency.skew: 'of' is unknown; expected one of fitted, off"):
        source_of(folder, skew="of")


def find(profiles: list[Path], tp: int = 1) -> Path:
    return find_bundle(profiles, "A6000", "meta-llama/Llama-3.1-8B", "bf16", tp)


def test_an_older_bundle_is_found_without_a_variant(folder, tmp_path):
    assert find([tmp_path / "absent", tmp_path]) == folder
    assert is_older(folder)


def test_a_newer_bundle_wins_wherever_it_stands(folder, tmp_path):
    newer = tmp_path / "other/A6000/meta-llama/Llama-3.1-8B/bf16/tp1"
    newer.mkdir(parents=True)
    assert find([tmp_path, tmp_path / "other"]) == newer
    assert not is_older(newer)


def test_degrees_that_exist_are_listed(folder, tmp_path):
    with pytest.raises(ProfileError, match=r"Llama-3.1-8B has no 'tp8' \(did you mean 'tp1'\?\); it has tp1"):
        find([tmp_path], tp=8)
