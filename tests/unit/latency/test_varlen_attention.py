"""The parts of the mixed-batch model: the fit of its weights and the grid of its ratios."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from synthetic_bundle import attention_rows, batch, mixed_us

from llmservingsim.latency.tiles import LogGrid
from llmservingsim.latency.varlen_attention import VarlenAttention, _batch_features, _grid_features

AXES = ([16, 64, 256], [0, 64, 1024, 4096], [0, 1, 8, 64], [16, 128, 1024])


def linear_in_logarithms(points):
    """A function that linear interpolation over the logarithms gives back exactly."""
    return np.log2(points + 8.0) @ np.array([0.3, -0.2, 0.05, 0.1])


def tensor_at(points, values, wanted):
    grid = LogGrid(points, values, order=(3, 1, 0, 2))
    return np.array([grid.at(point) for point in wanted])


def test_gaps_between_measured_points_are_filled_by_interpolation_over_logarithms():
    points = np.array(list(product(*AXES)), dtype=float)
    inner = (points[:, 1] == 64) & (points[:, 3] == 128)
    filled = tensor_at(points[~inner], linear_in_logarithms(points[~inner]), points[inner])
    np.testing.assert_allclose(filled, linear_in_logarithms(points[inner]), rtol=1e-12)


@pytest.mark.parametrize(("axis", "edge", "kv"), [(2, 64, 1024), (0, 16, 16)])
def test_a_gap_at_the_edge_takes_the_nearest_known_value(axis, edge, kv):
    """Nothing is known of 64 decodes with 1024 keys, where memory ran out: the ratio at 128 keys goes on."""
    points = np.array(list(product(*AXES)), dtype=float)
    values = linear_in_logarithms(points)
    lost = (points[:, axis] == edge) & (points[:, 3] == kv)
    neighbours = (points[:, axis] == edge) & (points[:, 3] == 128)
    np.testing.assert_allclose(tensor_at(points[~lost], values[~lost], points[lost]), values[neighbours])


def test_a_point_measured_once_fills_every_gap_of_its_tensor():
    points = np.array([[16, 0, 0, 0], [64, 128, 4, 512]], dtype=float)
    grid = LogGrid(points, np.array([1.0, 2.0]), order=(3, 1, 0, 2))
    corners = [grid.at(corner) for corner in product(*grid.axes)]
    assert len(corners) == 16
    assert {min(corners), max(corners)} == {1.0, 2.0}


def test_the_features_of_a_grid_point_are_those_of_its_batch():
    rows = np.array([row for row in attention_rows() if row[0]])
    one_by_one = [_batch_features(batch([(int(c), int(p))], [int(kv)] * int(n))) for c, p, n, kv, _ in rows]
    np.testing.assert_allclose(_grid_features(rows), one_by_one)


def test_the_fit_finds_the_weights_of_the_kernel():
    rows = np.array([row for row in attention_rows() if row[0]])
    np.testing.assert_allclose(VarlenAttention(rows)._weights, [6.0, 0.05, 0.5, 0.004, 0.012], rtol=1e-6)


def test_no_weight_is_negative_even_where_that_would_fit_better():
    """Times fall with the decodes here, so that a free fit would give them a negative price."""
    rows = np.array([row for row in attention_rows() if row[0]])
    rows[:, 4] = 500.0 - 5.0 * rows[:, 2]
    attention = VarlenAttention(rows)
    assert min(attention._weights) >= 0
    for chunk, context, n, kv, time_us in rows[::17]:
        shape = batch([(int(chunk), int(context))], [int(kv)] * int(n))
        assert attention.at(shape) == pytest.approx(time_us, rel=1e-12)


def test_one_measured_point_scales_the_model():
    shape = batch([(64, 0)])
    rows = np.array([[64, 0, 0, 0, mixed_us(shape)]])
    attention = VarlenAttention(rows)
    assert attention.at(shape) == pytest.approx(mixed_us(shape))
    assert attention.covers(shape)
    assert not attention.covers(batch([(65, 0)]))
    assert attention.at(batch([(640, 0)])) > 0
