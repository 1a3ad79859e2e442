"""Lesson 05's exercises answered wrong, in the ways that people really are."""

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from minimaskrcnn.ops import roi_align
from minimaskrcnn_lessons.lesson05.answers import Cells, align, bilinear, fpn_level, points, pool_cells


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


def bilinear_zero_outside(plane: Tensor, y: float, x: float) -> float:
    """0 as soon as the point leaves the outermost values."""
    height, width = plane.shape
    return bilinear(plane, y, x) if 0 <= y <= height - 1 and 0 <= x <= width - 1 else 0.0


def bilinear_open(plane: Tensor, y: float, x: float) -> float:
    """The limits themselves count as outside."""
    height, width = plane.shape
    return bilinear(plane, y, x) if -1 < y < height and -1 < x < width else 0.0


def bilinear_limits_swapped(plane: Tensor, y: float, x: float) -> float:
    height, width = plane.shape
    return bilinear_everywhere(plane, y, x) if -1 <= y <= width and -1 <= x <= height else 0.0


def _blend(plane: Tensor, y: float, x: float, shares: Callable[[float], tuple[float, float]]) -> float:
    """Bilinear with the shares of the lower and the upper cell that a fraction past the lower one gives."""
    height, width = plane.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    rows = zip((top, min(top + 1, height - 1)), shares(y - top))
    columns = list(zip((left, min(left + 1, width - 1)), shares(x - left)))
    return sum(v * h * plane[row, column].item() for row, v in rows for column, h in columns)


def bilinear_weights_swapped(plane: Tensor, y: float, x: float) -> float:
    return _blend(plane, y, x, lambda fraction: (fraction, 1 - fraction))


def bilinear_floor(plane: Tensor, y: float, x: float) -> float:
    return _blend(plane, y, x, lambda fraction: (1, 0))


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


def points_linspace(start: float, end: float, stride: float, bins: int, samples: int) -> Tensor:
    ends = start / stride - 0.5, end / stride - 0.5
    return torch.linspace(*ends, bins * samples, dtype=torch.float64).view(bins, samples)


def points_in_pixels(start: float, end: float, stride: float, bins: int, samples: int) -> Tensor:
    return points(start + stride / 2, end + stride / 2, stride, bins, samples) * stride


def points_start_moved(start: float, end: float, stride: float, bins: int, samples: int) -> Tensor:
    return points(start, end + stride / 2, stride, bins, samples)


def points_flat(start: float, end: float, stride: float, bins: int, samples: int) -> Tensor:
    return points(start, end, stride, bins, samples).flatten()


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


def align_axes_swapped(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    """Rows of the output run along x in the map, which is read with y and x in their places."""
    return align(feature, box[[1, 0, 3, 2]], bins, stride, samples)


def align_bilinear_swapped(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature.T, box, bins, stride, samples)


def align_sum(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature, box, bins, stride, samples) * samples**2


def align_over_samples(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature, box, bins, stride, samples) * samples


def align_scaled_twice(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature, box / stride, bins, stride, samples)


def align_half_twice(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    return align(feature, box - stride / 2, bins, stride, samples)


def align_diagonal(feature: Tensor, box: Tensor, bins: int, stride: float, samples: int) -> Tensor:
    """The i-th row point of a bin is paired with its i-th column point only."""
    x1, y1, x2, y2 = box.tolist()
    ys, xs = (points(*ends, stride, bins, samples).tolist() for ends in ((y1, y2), (x1, x2)))
    mean = [[sum(bilinear(feature, y, x) for y, x in zip(r, c)) / samples for c in xs] for r in ys]
    return torch.tensor(mean, dtype=torch.float64)


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


def pool_cells_from_zero(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    first = math.floor(start / stride + 0.5)
    pairs = pool_cells_with(start, end, stride, bins, extent, clip=False)
    return [(min(a - first, extent), min(b - first, extent)) for a, b in pairs]


def pool_cells_last(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    return [(a, b - 1) for a, b in pool_cells(start, end, stride, bins, extent)]


def pool_cells_last_index(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    return pool_cells(start, end, stride, bins, extent - 1)


def pool_cells_nearest(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    first, last = math.floor(start / stride + 0.5), math.floor(end / stride + 0.5)
    size = (last - first + 1) / bins
    borders = [first + math.floor(b * size + 0.5) for b in range(bins + 1)]
    return [(min(a, extent), min(b, extent)) for a, b in itertools.pairwise(borders)]


def pool_cells_outwards(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    first, last = math.floor(start / stride), math.ceil(end / stride)
    return pool_cells(first * stride, last * stride, stride, bins, extent)


def pool_cells_equal(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    first, last = math.floor(start / stride + 0.5), math.floor(end / stride + 0.5)
    size = max((last - first + 1) // bins, 1)
    borders = [min(max(first + b * size, 0), extent) for b in range(bins + 1)]
    return list(itertools.pairwise(borders))


def pool_cells_clipped_first(start: float, end: float, stride: float, bins: int, extent: int) -> Cells:
    return pool_cells(start, min(end, (extent - 1) * stride), stride, bins, extent)


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


def fpn_level_rounded_up(width: float, height: float) -> int:
    return min(max(math.ceil(4 + math.log2(math.sqrt(width * height) / 224)), 2), 5)


def fpn_level_above_border(width: float, height: float) -> int:
    return 2 + sum(math.sqrt(width * height) > border for border in (112, 224, 448))


def fpn_level_from_zero(width: float, height: float) -> int:
    return fpn_level(width, height) - 2


def fpn_level_whole(width: float, height: float) -> float:
    return min(max(4 + math.log2(math.sqrt(width * height) / 224), 2), 5)


def fpn_level_mean_side(width: float, height: float) -> int:
    return _clamped(4 + math.log2((width + height) / 2 / 224))
