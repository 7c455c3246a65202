"""Decode batches with uneven contexts: the longest context bounds the batch from below."""

from __future__ import annotations

import re

import pytest
from synthetic_bundle import SKEW_HEADER, batch, decode_us, write_skew

from llmservingsim.errors import ProfileError
from llmservingsim.latency import BundleSource

BASE_US, PER_TOKEN_US = 20.0, 0.06
REPETITIONS = 3
LONGEST = (2048, 4096, 8192, 16384)


def mean_us(count, kv):
    return REPETITIONS * decode_us(count, kv)


def measured():
    """Few sequences are split over many tiles and show no bound; many are slower by their sum than by the longest."""
    rows = []
    for count, bounded in ((4, False), (32, True), (64, True)):
        for longest in LONGEST:
            kv = (longest + (count - 1) * 16) / count
            bound = REPETITIONS * (BASE_US + PER_TOKEN_US * longest) if bounded else 0.0
            rows.append((count, longest, kv, max(mean_us(count, kv), bound)))
    return rows


@pytest.fixture
def uneven(tp_folder):
    write_skew(tp_folder, measured(), mean_us)
    return tp_folder


def test_the_fit_recovers_base_and_pace_whatever_the_repetitions(uneven):
    """The bound is 20 us + 60 ns a token, and the file holds sums of 3 repetitions, as the published ones do."""
    source = BundleSource(uneven)
    described = str(source.provenance()["skew"])
    assert described == "at least 20.0 us + 60.0 ns * longest context, from 32 sequences on"
    shape = batch(decodes=[10_000] + [16] * 31)
    assert source.latency_ns("attention", shape) / 1000 == pytest.approx(BASE_US + PER_TOKEN_US * 10_000, rel=1e-6)


def test_an_even_batch_takes_what_was_measured_for_its_mean(uneven):
    ns = BundleSource(uneven).latency_ns("attention", batch(decodes=[1024] * 64))
    assert ns == round(decode_us(64, 1024) * 1000)


def test_fewer_sequences_than_the_fitted_count_are_not_bounded(uneven):
    decodes = [10_000] + [16] * 30
    ns = BundleSource(uneven).latency_ns("attention", batch(decodes=decodes))
    assert ns / 1000 == pytest.approx(decode_us(31, sum(decodes) / 31), rel=1e-6)


def test_off_times_every_batch_by_its_mean(uneven):
    source = BundleSource(uneven, skew="off")
    decodes = [10_000] + [16] * 31
    assert source.latency_ns("attention", batch(decodes=decodes)) == round(decode_us(32, sum(decodes) / 32) * 1000)
    assert source.provenance()["skew"] == "off"


def test_a_bundle_without_the_file_is_not_bounded(tp_folder):
    assert BundleSource(tp_folder).provenance()["skew"] == "off: not measured"


def test_batches_that_are_not_slowed_give_no_bound(tp_folder):
    rows = [(count, longest, kv, 1.05 * mean_us(count, kv)) for count, longest, kv, _ in measured()]
    write_skew(tp_folder, rows, mean_us)
    assert BundleSource(tp_folder).provenance()["skew"] == "off: no measured batch is slowed by its longest context"


def test_an_unknown_mode_lists_the_known_ones(uneven):
    with pytest.raises(ProfileError, match=r"latency\.skew: 'fited' is unknown.*expected one of fitted, measured, off"):
        BundleSource(uneven, skew="fited")


def test_a_missing_column_is_named(uneven):
    path = uneven / "skew.csv"
    path.write_text(path.read_text().replace("kv_big", "kv_large"))
    with pytest.raises(ProfileError, match=r"skew\.csv:1: column 'kv_big' is missing; expected .*kv_big"):
        BundleSource(uneven)


@pytest.mark.parametrize(
    "row", ["pure,32,1,0.5", "pure,32,1,0.5,4,0,0,16,long,80,9,0,9,0", "pure,32,1,0.5,4,0,0,16,99,80,0,0,9,0"]
)
def test_a_malformed_row_is_named_by_its_line(uneven, row):
    lines = (uneven / "skew.csv").read_text().splitlines()
    (uneven / "skew.csv").write_text("\n".join([lines[0], lines[1], row, *lines[2:], ""]))
    with pytest.raises(ProfileError, match=rf"skew\.csv:3: expected 14 columns.*, got '{re.escape(row)}'"):
        BundleSource(uneven)


def test_rows_of_mixed_batches_are_left_alone(uneven):
    path = uneven / "skew.csv"
    before = BundleSource(uneven).provenance()["skew"]
    path.write_text(path.read_text() + "mixed,32,1,0.5,4.0,512,0,16,99,80,,0,,0\n")
    assert len(SKEW_HEADER.split(",")) == 14
    assert BundleSource(uneven).provenance()["skew"] == before
