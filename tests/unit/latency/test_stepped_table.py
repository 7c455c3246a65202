"""A time over one size with a step: a line on either side, and none across."""

from __future__ import annotations

import pytest

from llmservingsim.latency.tables import DecodeTable, LinearTable, stepped_table

SIZES, TIMES = [16, 64, 256, 512], [10.0, 10.0, 40.0, 72.0]
"""Flat below 128; above, 8 and an eighth for each."""


@pytest.mark.parametrize(
    ("size", "time"), [(8, 10), (16, 10), (100, 10), (127.9, 10), (128, 24), (192, 32), (256, 40), (1024, 136)]
)
def test_each_side_of_the_step_keeps_its_own_line(size: float, time: float) -> None:
    assert stepped_table(SIZES, TIMES, 128).at(size) == pytest.approx(time)


def test_at_measured_points_and_beyond_the_last_it_is_the_plain_table() -> None:
    stepped, plain = stepped_table(SIZES, TIMES, 128), LinearTable(SIZES, TIMES)
    assert [stepped.at(size) for size in (*SIZES, 9999)] == [plain.at(size) for size in (*SIZES, 9999)]
    assert [stepped.covers(size) for size in (8, 16, 512, 513)] == [False, True, True, False]


def test_the_line_goes_back_no_further_than_what_was_measured_below() -> None:
    assert stepped_table([64, 256, 512], [10.0, 20.0, 60.0], 128).at(128) == 10


@pytest.mark.parametrize("sizes", [[16, 32], [128, 256], [200]])
def test_points_on_one_side_alone_have_no_step(sizes: list[float]) -> None:
    times = [10.0 * size for size in sizes]
    stepped, plain = stepped_table(sizes, times, 128), LinearTable(sizes, times)
    assert [stepped.at(size) for size in (1, 100, 150, 999)] == [plain.at(size) for size in (1, 100, 150, 999)]


def test_one_point_on_either_side_holds_up_to_the_step() -> None:
    stepped = stepped_table([64, 256], [10.0, 20.0], 128)
    assert [stepped.at(size) for size in (64, 127, 128, 200, 256)] == [10, 10, 20, 20, 20]


def test_decodes_step_for_every_number_of_sequences() -> None:
    points = [(n, kv, n * time) for n in (1, 2, 4) for kv, time in zip(SIZES, TIMES, strict=True)]
    table = DecodeTable.of_points(points, step=128)
    assert [table.at(n, 127) for n in (1, 3, 4)] == pytest.approx([10, 30, 40])
    assert [table.at(n, 128) for n in (1, 3, 4)] == pytest.approx([24, 72, 96])
