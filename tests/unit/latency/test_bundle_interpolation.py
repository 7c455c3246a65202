"""Times between, at and beyond the measured points, against the formulas from which the bundle was written."""

from __future__ import annotations

import json
import random
from itertools import pairwise

import pytest
from synthetic_bundle import (
    attention_rows,
    batch,
    decode_us,
    dense_us,
    head_us,
    mixed_us,
    write_attention,
    write_csv,
)

from llmservingsim.latency import BundleSource

HALF_NS = 0.5e-3  # microseconds that rounding to whole nanoseconds may take


@pytest.mark.parametrize("tokens", [1, 3, 64, 700, 1024])
def test_dense_operators_are_linear_in_tokens(tp_folder, tokens):
    ns = BundleSource(tp_folder).latency_ns("qkv_proj", batch([(tokens, 0)]))
    assert ns == round(dense_us(tokens) * 1000)


def test_dense_operators_see_the_padded_tokens_and_heads_the_sequences(tp_folder):
    source = BundleSource(tp_folder)
    shape = batch(decodes=[100] * 5)._replace(num_tokens=8)
    assert source.latency_ns("o_proj", shape) == round(dense_us(8) * 1000)
    assert source.latency_ns("lm_head", shape) == round(head_us(5) * 1000)


@pytest.mark.parametrize(("count", "kv"), [(1, 16), (2, 700), (3, 77), (10, 1000), (63, 4000), (64, 4096)])
def test_decode_attention_is_linear_in_the_keys_read(tp_folder, count, kv):
    ns = BundleSource(tp_folder).latency_ns("attention", batch(decodes=[kv] * count))
    assert ns == pytest.approx(decode_us(count, kv) * 1000, abs=0.6)


def test_at_every_measured_point_the_time_is_the_measurement(tp_folder):
    """The measurements are 30 % noise, which no model explains: only interpolation can give them back."""
    rng = random.Random(3)
    rows = [(*point, round(time * rng.uniform(0.7, 1.3), 3)) for *point, time in attention_rows()]
    write_attention(tp_folder, rows)
    source = BundleSource(tp_folder, skew="off")
    for chunk, context, n, kv, time_us in rows:
        shape = batch([(chunk, context)] if chunk else [], [kv] * n)
        assert source.latency_ns("attention", shape) == round(time_us * 1000)
    assert source.provenance()["extrapolated_shapes"] == {}


@pytest.mark.parametrize("prefills", [[(192, 0)], [(192, 3000)], [(640, 100)], [(832, 4000)]])
@pytest.mark.parametrize("decodes", [[], [300] * 10])
def test_a_chunk_is_quadratic_in_itself_and_linear_in_its_context(tp_folder, prefills, decodes):
    """Whole tiles (multiples of 64 rows): the model of the kernel is then exact, and so is the time off the grid."""
    ns = BundleSource(tp_folder).latency_ns("attention", batch(prefills, decodes))
    assert ns / 1000 == pytest.approx(mixed_us(batch(prefills, decodes)), rel=1e-6, abs=HALF_NS)


@pytest.mark.parametrize(
    ("prefills", "decodes"),
    [([(256, 0)] * 4, []), ([(512, 0), (64, 1024)], []), ([(128, 0), (448, 256), (16, 0)], [1000] * 20)],
)
def test_prompts_of_one_batch_cost_less_than_apart_and_more_than_the_largest(tp_folder, prefills, decodes):
    source = BundleSource(tp_folder)
    together = source.latency_ns("attention", batch(prefills, decodes))
    apart = [source.latency_ns("attention", batch([chunk], decodes)) for chunk in prefills]
    assert max(apart) < together < sum(apart)
    assert together / 1000 == pytest.approx(mixed_us(batch(prefills, decodes)), rel=1e-6)


def test_a_batch_of_several_prompts_is_corrected_like_its_largest(tp_folder):
    """Chunks of 512 and more take three times what any kernel model says."""
    rows = [(*row[:4], row[4] * (3 if row[0] >= 512 else 1)) for row in attention_rows()]
    write_attention(tp_folder, rows)
    source = BundleSource(tp_folder)
    alone = source.latency_ns("attention", batch([(512, 0)]))
    small = source.latency_ns("attention", batch([(64, 0)]))
    for prefills in ([(512, 0), (64, 0)], [(64, 0), (512, 0)]):
        assert alone < source.latency_ns("attention", batch(prefills)) < alone + 3 * small


def test_uneven_decodes_beside_a_chunk_count_by_their_sum_and_the_longest(tp_folder):
    shape = batch([(64, 0)], [16] * 30 + [4000])
    ns = BundleSource(tp_folder).latency_ns("attention", shape)
    assert ns / 1000 == pytest.approx(mixed_us(shape), rel=1e-6)


@pytest.mark.parametrize(
    ("operator", "shapes", "slope_us"),
    [
        ("qkv_proj", [batch([(n, 0)]) for n in (1024, 2048, 4096)], 1024 * 0.25),
        ("attention", [batch(decodes=[kv] * 4) for kv in (4096, 8192, 16384)], 4096 * 4 * 0.002),
        ("attention", [batch(decodes=[1024] * n) for n in (64, 128, 256)], 64 * 1024 * 0.002),
        ("attention", [batch([(64, c)]) for c in (4096, 8192, 16384)], 4096 * (0.004 + 0.012)),
    ],
)
def test_beyond_the_grid_times_go_on_linearly_and_are_counted(tp_folder, operator, shapes, slope_us):
    source = BundleSource(tp_folder)
    inside, near, far = (source.latency_ns(operator, shape) / 1000 for shape in shapes)
    assert near - inside == pytest.approx(slope_us, rel=1e-5)
    assert far - near == pytest.approx(2 * slope_us, rel=1e-5)
    assert source.provenance()["extrapolated_shapes"] == {operator: 2}


def test_below_the_first_point_the_first_time_holds_and_counts_as_extrapolated(tp_folder):
    source = BundleSource(tp_folder)
    floor = source.latency_ns("attention", batch(decodes=[16]))
    assert source.latency_ns("attention", batch(decodes=[1])) == floor
    assert source.provenance()["extrapolated_shapes"] == {"attention": 1}


def test_noise_at_the_end_of_a_table_never_makes_a_time_fall_or_negative(tp_folder):
    write_csv(tp_folder / "dense.csv", "layer,tokens,time_us", [("qkv_proj", 1, 9), ("qkv_proj", 2, 3)])
    rows = [(64, 0, 0, 0, 9.0), *((0, 0, n, kv, 20.0 - n) for n in (1, 8, 16) for kv in (16, 32))]
    write_attention(tp_folder, rows)
    source = BundleSource(tp_folder)
    assert source.latency_ns("qkv_proj", batch([(5000, 0)])) == 3000
    assert source.latency_ns("attention", batch(decodes=[16] * 200)) == 4000


def test_a_column_that_ends_early_counts_as_extrapolated_beyond_its_own_end(tp_folder):
    """Large decode batches with long contexts do not fit into the memory of the device that was measured."""
    rows = [row for row in attention_rows() if row[0] or row[2] < 64 or row[3] < 4096]
    write_attention(tp_folder, rows)
    source = BundleSource(tp_folder)
    source.latency_ns("attention", batch(decodes=[3000] * 16))
    assert source.provenance()["extrapolated_shapes"] == {}
    ns = source.latency_ns("attention", batch(decodes=[3000] * 40))
    assert ns / 1000 == pytest.approx(decode_us(40, 3000), rel=1e-6)
    assert source.provenance()["extrapolated_shapes"] == {"attention": 1}


def test_gaps_in_the_grid_of_mixed_batches_are_filled(tp_folder):
    rng = random.Random(5)
    rows = attention_rows()
    gaps = [row for row in rows if row[0] and rng.random() < 0.3]
    gaps += [row for row in rows if row[0] == 1024 and row[2] == 64]  # a corner, as where memory ran out
    write_attention(tp_folder, [row for row in rows if row not in gaps])
    source = BundleSource(tp_folder)
    for chunk, context, n, kv, time_us in gaps:
        ns = source.latency_ns("attention", batch([(chunk, context)], [kv] * n))
        assert ns / 1000 == pytest.approx(time_us, rel=1e-6, abs=HALF_NS)


def test_an_empty_batch_attends_to_nothing(tp_folder):
    assert BundleSource(tp_folder).latency_ns("attention", batch()) == 0


def test_times_rise_with_the_decodes_beside_a_chunk(tp_folder):
    source = BundleSource(tp_folder)
    times = [source.latency_ns("attention", batch([(100, 50)], [500] * n)) for n in range(80)]
    assert all(low < high for low, high in pairwise(times))


def test_provenance_names_the_folder_and_can_be_written_as_json(tp_folder):
    provenance = BundleSource(tp_folder, skew="off").provenance()
    assert provenance["path"] == str(tp_folder)
    assert provenance["skew"] == "off"
    assert json.loads(json.dumps(provenance)) == provenance
