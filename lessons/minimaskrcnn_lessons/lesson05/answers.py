"""Lesson 05's exercises answered: right, as they are judged by, and wrong in the ways that people really are.

Boxes are in pixels; `bilinear` takes cells, cell i having its value at i.  RoIAlign is the aligned one throughout.
"""

import math

import numpy as np
import torch
from torch import Tensor

from minimaskrcnn.ops import reference, reference_rois, roi_align

Cells = list[tuple[int, int]]
LEVELS = [4.0, 8.0, 16.0, 32.0]


def bilinear(plane: Tensor, y: float, x: float) -> float:
    """The definition, on a tensor."""
    return reference.bilinear(plane.tolist(), y, x)


def bilinear_swapped(plane: Tensor, y: float, x: float) -> float:
    return bilinear(plane, x, y)


def bilinear_nearest(plane: Tensor, y: float, x: float) -> float:
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    row, column = math.floor(y + 0.5), math.floor(x + 0.5)
    return plane[min(max(row, 0), height - 1), min(max(column, 0), width - 1)].item()


def bilinear_fading(plane: Tensor, y: float, x: float) -> float:
    """Cells outside of the map count 0, so the border fades."""
    top, left, total = math.floor(y), math.floor(x), 0.0
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * plane[row, column].item()
    return total


def bilinear_shifted(plane: Tensor, y: float, x: float) -> float:
    return bilinear(plane, y - 0.5, x - 0.5)


def bilinear_everywhere(plane: Tensor, y: float, x: float) -> float:
    """Clamped however far outside."""
    height, width = plane.shape
    return bilinear(plane, min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0))


def points(start: float, end: float, stride: float, bins: int, samples: int) -> Tensor:
    """RoIAlign's sample points on one axis, aligned, of a box in pixels."""
    rows = reference_rois._sample_points(start / stride - 0.5, end / stride - 0.5, bins, samples, True)
    return torch.tensor(rows, dtype=torch.float64)


def points_unaligned(start: float, end: float, stride: float, bins: int, samples: int) -> Tensor:
    return points(start, end, stride, bins, samples) + 0.5


def points_half_pixel(start: float, end: float, stride: float, bins: int, samples: int) -> Tensor:
    """Half a pixel taken off before the scale, for half a cell after it."""
    return points_unaligned(start - 0.5, end - 0.5, stride, bins, samples)


def points_at_corners(start: float, end: float, stride: float, bins: int, samples: int) -> Tensor:
    size = (end - start) / stride / bins
    first = start / stride - 0.5
    return torch.tensor(
        [[first + (b + i / samples) * size for i in range(samples)] for b in range(bins)], dtype=torch.float64
    )


def points_to_both_ends(start: float, end: float, stride: float, bins: int, samples: int) -> Tensor:
    size = (end - start) / stride / bins
    first = start / stride - 0.5
    place = torch.linspace(0, 1, samples, dtype=torch.float64)
    return first + (torch.arange(bins, dtype=torch.float64)[:, None] + place) * size


def points_inclusive(start: float, end: float, stride: float, bins: int, samples: int) -> Tensor:
    return points(start, end + stride, stride, bins, samples)


def align(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    """RoIAlign of one box on one map, aligned."""
    roi = torch.cat([box.new_zeros(1), box])[None]
    return roi_align(feature[None, None], roi, bins, 1 / stride, samples, True)[0, 0]


def align_unaligned(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature, box + stride / 2, bins, stride, samples)


def align_transposed(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature, box, bins, stride, samples).T


def align_one_sample(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature, box, bins, stride, 1)


def align_xywh(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature, torch.cat([box[:2], box[:2] + box[2:]]), bins, stride, samples)


def align_rounded(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature, torch.round(box / stride) * stride, bins, stride, samples)


def align_max(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    roi = torch.cat([box.new_zeros(1), box])[None]
    return roi_align(feature[None, None], roi, bins, 1 / stride, samples, True, mode="max")[0, 0]


def align_unscaled(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature, box, bins, 1.0, samples)


def pool_cells(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    """RoIPool's cells of each bin on one axis, as (first, one past the last)."""
    cells = reference_rois._cells_of_bins(np.float64(start / stride), np.float64(end / stride), bins, extent)
    return [(bin_cells.start, bin_cells.stop) for bin_cells in cells]


def pool_cells_with(
    start: float, end: float, stride: float, bins: int, extent: int, *, to_cell=None, last: int = 1,
    to_end=math.ceil, clip: bool = True,
) -> Cells:  # fmt: skip
    """`pool_cells` with one part replaced."""
    to_cell = to_cell or (lambda x: math.floor(x + 0.5))
    first = to_cell(start / stride)
    size = max(to_cell(end / stride) - first + last, 1) / bins
    borders = [(first + math.floor(b * size), first + to_end((b + 1) * size)) for b in range(bins)]
    return [(min(max(a, 0), extent), min(max(b, 0), extent)) for a, b in borders] if clip else borders


def pool_cells_floor(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    return pool_cells_with(start, end, stride, bins, extent, to_cell=math.floor)


def pool_cells_bankers(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    return pool_cells_with(start, end, stride, bins, extent, to_cell=round)


def pool_cells_exclusive(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    return pool_cells_with(start, end, stride, bins, extent, last=0)


def pool_cells_disjoint(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    return pool_cells_with(start, end, stride, bins, extent, to_end=math.floor)


def pool_cells_unclipped(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    return pool_cells_with(start, end, stride, bins, extent, clip=False)


def fpn_level(width: float, height: float) -> int:
    """Equation 1 of the FPN paper as a level k of 2 to 5."""
    box = torch.tensor([0.0, 0.0, width, height], dtype=torch.float64)
    return reference.fpn_level(box, LEVELS) + 2


def _clamped(k: float) -> int:
    return min(max(math.floor(k), 2), 5)


def fpn_level_of_area(width: float, height: float) -> int:
    return _clamped(4 + math.log2(width * height / 224))


def fpn_level_of_areas(width: float, height: float) -> int:
    return _clamped(4 + math.log2(width * height / 224**2))


def fpn_level_natural_log(width: float, height: float) -> int:
    return _clamped(4 + math.log(math.sqrt(width * height) / 224))


def fpn_level_rounded(width: float, height: float) -> int:
    return min(max(round(4 + math.log2(math.sqrt(width * height) / 224)), 2), 5)


def fpn_level_longest_side(width: float, height: float) -> int:
    return _clamped(4 + math.log2(max(width, height) / 224))


def fpn_level_unclamped(width: float, height: float) -> int:
    return math.floor(4 + math.log2(math.sqrt(width * height) / 224))
