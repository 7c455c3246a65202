"""Uneven batches as the profiler measured them: ratios over skew.csv."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from synthetic_bundle import batch, write_csv

from llmservingsim.errors import ProfileError
from llmservingsim.latency import BundleSource
from llmservingsim.latency.uneven import read_uneven, uneven_shape

HEADER = "regime,n,nb,pc,kp,kvs,kv_big,t_mean_us,t_skew_us"
REPETITIONS, WAIT_US = 3, 0.002


@pytest.fixture
def uneven(tp_folder: Path) -> Path:
    """Batches that wait for the longest context: 2 ns for each key that it is longer than the mean."""
    even = BundleSource(tp_folder, skew="off")
    rows = []
    for n, share, longest, (pc, kp) in product((4, 16, 64), (4, 2), (512, 2048, 4096), ((0, 0), (64, 0), (256, 1024))):
        nb, kv = n // share, longest // 4
        row = [n, nb, pc, kp, kv, longest]
        shape = uneven_shape(np.array([pc, kp, n, nb, kv, longest, 1, 1], dtype=float))
        mean = shape.decode_kv_tokens // n
        t_mean = even.even_attention_us(shape._replace(max_decode_kv_tokens=mean))
        t_skew = t_mean + WAIT_US * (longest - mean)
        rows.append(("mixed" if pc else "pure", *row, REPETITIONS * t_mean, REPETITIONS * t_skew))
    write_csv(tp_folder / "skew.csv", HEADER, rows)
    return tp_folder


def test_the_rows_of_the_file_come_back_whatever_the_repetitions(uneven: Path) -> None:
    source = BundleSource(uneven, skew="measured")
    for row in read_uneven(uneven / "skew.csv"):
        assert source.latency_ns("attention", uneven_shape(row)) == pytest.approx(row[7] / REPETITIONS * 1000, rel=0.01)


@pytest.mark.parametrize("prefills", [[], [(64, 0)]])
def test_even_batches_take_what_was_measured_for_them(uneven: Path, prefills: list[tuple[int, int]]) -> None:
    shape = batch(prefills, [1024] * 16)
    times = [BundleSource(uneven, skew=mode).latency_ns("attention", shape) for mode in ("measured", "off")]
    assert times[0] == pytest.approx(times[1], rel=1e-6)


def test_a_context_between_two_that_were_measured_takes_a_time_between_theirs(uneven: Path) -> None:
    source = BundleSource(uneven, skew="measured")
    even = BundleSource(uneven, skew="off")
    shape = batch([], [3000] * 4 + [750] * 12)
    expected = even.latency_ns("attention", shape) + 1000 * WAIT_US * (3000 - shape.decode_kv_tokens / 16)
    assert source.latency_ns("attention", shape) == pytest.approx(expected, rel=0.02)


def test_the_summary_says_that_long_contexts_stand_last(uneven: Path) -> None:
    assert (
        BundleSource(uneven, skew="measured").provenance()["skew"] == "uneven batches as measured, long contexts last"
    )


def test_a_batch_without_decodes_takes_what_it_takes(uneven: Path) -> None:
    shape = batch([(64, 0)])
    times = [BundleSource(uneven, skew=mode).latency_ns("attention", shape) for mode in ("measured", "off")]
    assert times[0] == times[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("t_skew_us", "t_skew"), r"skew\.csv:1: has no column 't_skew_us' \(did you mean 't_skew'\?\)"),
        (("pure,4,1,", "pure,0,1,"), r"skew\.csv:2: n: expected decodes"),
        (("pure,", "pure,x"), r"skew\.csv:2: n: expected a number of at least 0, got 'x4'"),
    ],
)
def test_a_broken_file_is_named_by_line(uneven: Path, change: tuple[str, str], said: str) -> None:
    path = uneven / "skew.csv"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(ProfileError, match=said):
        BundleSource(uneven, skew="measured")


def test_a_bundle_that_has_not_measured_it_is_refused(tp_folder: Path) -> None:
    with pytest.raises(ProfileError, match=r"skew\.csv: file is missing"):
        BundleSource(tp_folder, skew="measured")
