"""Levels: which one a box is read from, by equation 1, and exactly so on the borders."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import boxes

from minimaskrcnn import ops
from minimaskrcnn.ops import reference
from minimaskrcnn.ops.levels import level_areas, reached_levels

STRIDES = [4, 8, 16, 32]


@given(boxes(dtype=torch.float64), st.integers(1, 4))
def test_levels_are_equation_1(a, levels):
    a = 16 * a
    expected = [reference.fpn_level(box, STRIDES[:levels]) for box in a]
    assert ops.fpn_levels(a, STRIDES[:levels]).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_levels_at_the_borders(dtype):
    sides = torch.tensor([0, 1, 111.9, 112, 223.9, 224, 447.9, 448, 1e5, -3], dtype=dtype)
    a = torch.stack([torch.zeros_like(sides)] * 2 + [sides, sides.abs()], 1)
    assert ops.fpn_levels(a, STRIDES).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 0]


def test_areas_are_a_quarter_from_level_to_level_and_are_counted():
    areas = level_areas(STRIDES, 224.0, 4)
    assert all(coarse == pytest.approx(4 * fine) for fine, coarse in pairwise(areas))
    assert 224**2 * (1 - 1e-5) < areas[2] < 224**2
    sides = torch.tensor([[0, 0, area**0.5 + step, area**0.5] for area in areas for step in (-1, 1)])
    assert reached_levels(sides, areas).tolist() == [0, 0, 0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("strides", [[4, 16], [8, 4], [0], [-4, -8], [float("nan")]])
def test_strides_that_do_not_double_are_refused(strides):
    with pytest.raises(ValueError, match="expected each to be twice the one before"):
        ops.fpn_levels(torch.zeros(1, 4), strides)
