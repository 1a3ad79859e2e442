"""Which level of a feature pyramid a box is read from (equation 1 of the FPN paper).

The equation is solved once for the smallest area of each level; a box then counts the areas that it reaches.

Axis letter: R rois.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def fpn_levels(
    boxes: Float[Tensor, "R 4"],
    strides: Sequence[int | float],
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Int64[Tensor, "R"]:
    """Equation 1 of the FPN paper, k = floor(4 + log2(sqrt(area) / 224)), as an index into `strides`.

    Level k has stride 2^k.  The result is clamped to the levels there are; an inverted box has no size: the finest.
    Raises ValueError unless strides are above 0 and each is twice the one before.
    """
    return reached_levels(boxes, level_areas(strides, canonical_size, canonical_level))


def level_areas(strides: Sequence[int | float], canonical_size: float, canonical_level: int) -> list[float]:
    """The smallest area of each level's boxes: `fpn_levels` without a logarithm, so with the same bits everywhere.

    1e-6 of a level keeps a box of exactly 224 pixels from falling a level short.  The finest level's is not used.
    """
    twice = all(coarse == 2 * fine for fine, coarse in pairwise(strides))
    if not twice or not all(stride > 0 for stride in strides):
        raise ValueError(f"strides {list(strides)}: expected each to be twice the one before")
    finest = round(math.log2(strides[0])) - canonical_level if strides else 0
    return [(canonical_size * 2 ** (finest + i - 1e-6)) ** 2 for i in range(len(strides))]


def reached_levels(boxes: Float[Tensor, "R 4"], areas: Sequence[float]) -> Int64[Tensor, "R"]:
    """How many of `areas`, after the first, each box reaches."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = torch.zeros_like(area, dtype=torch.int64)
    for smallest in areas[1:]:
        level = level + (area >= smallest)
    return level
