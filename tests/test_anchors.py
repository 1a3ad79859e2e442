"""Anchors: torchvision's well-known numbers, areas and ratios, and the order that the RPN's head relies on."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minimaskrcnn.anchors import AnchorConfig, cell_anchors, grid_anchors

LIKE = torch.zeros(0, dtype=torch.float64)


def one_level(sizes=(32.0,), ratios=(0.5, 1.0, 2.0), *, rounded=False, from_grid=False) -> AnchorConfig:
    return AnchorConfig(
        sizes=(sizes,), aspect_ratios=ratios, round_corners=rounded, stride_from_grid=from_grid
    )


def test_rounded_anchors_by_hand():
    # 32² with h / w = 1 / 2 is 45.25 × 22.63: half of each is 22.63 and 11.31.
    expected = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert cell_anchors((32.0,), (0.5, 1.0, 2.0), True).tolist() == expected


def test_rounding_goes_to_the_even_neighbour():
    # Sides of 5 have corners at 2.5, which torch, and so torchvision, rounds to 2.
    assert cell_anchors((5.0,), (1.0,), True).tolist() == [[-2, -2, 2, 2]]
    assert cell_anchors((5.0,), (1.0,), False).tolist() == [[-2.5, -2.5, 2.5, 2.5]]


@given(st.floats(4, 1000), st.floats(0.1, 10))
def test_area_ratio_and_centre(size, ratio):
    x1, y1, x2, y2 = cell_anchors((size,), (ratio,), False)[0].tolist()
    assert math.isclose((x2 - x1) * (y2 - y1), size * size, rel_tol=1e-5)
    assert math.isclose((y2 - y1) / (x2 - x1), ratio, rel_tol=1e-5)
    assert x1 == -x2 and y1 == -y2


def test_order_is_row_column_ratio_size():
    config = one_level((10.0, 20.0), (0.5, 2.0))
    (found,) = grid_anchors([(2, 3)], [8], (16, 24), config, LIKE)
    expected = []
    for row in range(2):
        for column in range(3):
            for ratio in (0.5, 2.0):
                for size in (10.0, 20.0):
                    half_w, half_h = size / math.sqrt(ratio) / 2, size * math.sqrt(ratio) / 2
                    x, y = 8 * column, 8 * row
                    expected.append([x - half_w, y - half_h, x + half_w, y + half_h])
    assert config.per_cell == 4 and found.shape == (24, 4)
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([4, 8, 16]))
def test_centres_lie_on_the_corners_of_cells(rows, columns, stride):
    config = one_level(rounded=True)
    (found,) = grid_anchors([(rows, columns)], [stride], (rows * stride, columns * stride), config, LIKE)
    centres = ((found[:, :2] + found[:, 2:]) / 2).view(rows, columns, 3, 2)
    for row in range(rows):
        for column in range(columns):
            assert centres[row, column].tolist() == [[column * stride, row * stride]] * 3


def test_levels_have_their_own_sizes_and_strides():
    config = AnchorConfig(sizes=((32.0,), (64.0,)), round_corners=False, stride_from_grid=False)
    fine, coarse = grid_anchors([(4, 4), (2, 2)], [4, 8], (16, 16), config, LIKE)
    assert fine.shape == (48, 4) and coarse.shape == (12, 4)
    assert torch.allclose((fine[:, 2:] - fine[:, :2]).prod(1), torch.tensor(32.0**2).double(), rtol=1e-5)
    assert torch.allclose((coarse[:, 2:] - coarse[:, :2]).prod(1), torch.tensor(64.0**2).double(), rtol=1e-5)
    assert coarse[-1, :2].add(coarse[-1, 2:]).tolist() == [16.0, 16.0]


def test_step_of_p6_is_61_from_the_grid_and_64_from_the_stride():
    # 800 rows have 13 cells of P6; 256 columns have 4, where both ways agree.
    for from_grid, step in ((True, 61), (False, 64)):
        config = one_level(from_grid=from_grid)
        (found,) = grid_anchors([(13, 4)], [64], (800, 256), config, LIKE)
        y = ((found[:, 1] + found[:, 3]) / 2).view(13, 4, 3)
        x = ((found[:, 0] + found[:, 2]) / 2).view(13, 4, 3)
        assert y[:, 0, 0].tolist() == [step * row for row in range(13)]
        assert x[0, :, 0].tolist() == [0, 64, 128, 192]


def test_defaults_are_the_papers():
    config = AnchorConfig()
    assert config.sizes == ((32,), (64,), (128,), (256,), (512,)) and config.aspect_ratios == (0.5, 1, 2)
    assert config.per_cell == 3 and config.round_corners and config.stride_from_grid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_features(dtype):
    (found,) = grid_anchors([(2, 2)], [4], (8, 8), one_level(), torch.zeros(1, dtype=dtype))
    assert found.dtype == dtype


@pytest.mark.unhooked
def test_errors_say_what_does_not_fit():
    with pytest.raises(ValueError, match="2 feature maps, 1 strides and 1 levels"):
        grid_anchors([(2, 2), (1, 1)], [4], (8, 8), one_level(), LIKE)
    with pytest.raises(ValueError, match="1 feature maps, 2 strides and 1 levels"):
        grid_anchors([(2, 2)], [4, 8], (8, 8), one_level(), LIKE)
    uneven = AnchorConfig(sizes=((32.0,), (64.0, 96.0)))
    with pytest.raises(ValueError, match="same number of anchor sizes"):
        _ = uneven.per_cell
