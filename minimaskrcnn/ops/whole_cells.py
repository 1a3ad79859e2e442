"""Boxes and bins in whole cells, as RoIPool and RoIWarp round them (Fast R-CNN, section 2.1).

A box's corners go to the nearest cells, and the last cell belongs to the box, so it is at least one cell long.  A bin
takes every cell that it covers in part, so neighbouring bins share cells.  torchvision's rules, to the last bit:
halves are rounded away from zero, and all of it is computed in the boxes' precision, because float32 decides
otherwise than float64 where a bin ends on a cell's border.

Axis letters: R rois; P, PH, PW bins; K bins of all rois.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

# Corners are clamped to this many cells, so that neither they nor sides overflow.
FARTHEST = 2.0**30


# A custom op: no compiler may contract or reorder its rounding.
@torch.library.custom_op("minimaskrcnn::whole_cells", mutates_args=())
def whole_cells(boxes: Tensor) -> Tensor:
    """The cells of boxes [R, 4]: int64 (left, top, columns, rows), at least one of each, the last one included."""
    corners = _half_away_from_zero(boxes.clamp(-FARTHEST, FARTHEST)).long()
    return torch.cat([corners[:, :2], (corners[:, 2:] - corners[:, :2] + 1).clamp(min=1)], 1)


@whole_cells.register_fake
def _(boxes):
    return boxes.new_empty(boxes.shape, dtype=torch.int64)


def grown_to_whole_cells(boxes: Float[Tensor, "R 4"]) -> Float[Tensor, "R 4"]:
    """Boxes, in cells, grown to their whole cells: cell i covers i..i + 1.  No gradient."""
    corner, size = whole_cells(boxes.detach()).split(2, 1)
    return torch.cat([corner, corner + size], 1).to(boxes.dtype)


def _half_away_from_zero(x: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """C's `round`.  torch's takes halves to even numbers; floor(x + 0.5) is wrong next to a half."""
    whole = x.trunc()
    return whole + ((x - whole).abs() >= 0.5) * x.sign()


# A custom op, as above.
@torch.library.custom_op("minimaskrcnn::cells_of_bins", mutates_args=())
def cells_of_bins(
    boxes: Tensor, first: Tensor, height: Tensor, width: Tensor, bins_y: int, bins_x: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The rectangle of cells of each bin: int64 [K] its first cell, its rows and its columns.

    `boxes` [R, 4] are in cells of maps whose cell (0, 0) is number `first` [R] and whose sizes are `height` and
    `width` [R].  A bin outside of its map has no rows or no columns.
    """
    left, top, columns, rows = whole_cells(boxes).unbind(1)
    y, down = _bins(top, rows, height, bins_y, boxes.dtype)
    x, across = _bins(left, columns, width, bins_x, boxes.dtype)
    corner = first[:, None, None] + y[:, :, None] * width[:, None, None] + x[:, None, :]
    down = down[:, :, None].expand_as(corner)
    across = across[:, None, :].expand_as(corner)
    return corner.flatten(), down.flatten(), across.flatten()


@cells_of_bins.register_fake
def _(boxes, first, height, width, bins_y, bins_x):
    bins = len(boxes) * bins_y * bins_x
    return first.new_empty(bins), first.new_empty(bins), first.new_empty(bins)


def _bins(
    start: Int64[Tensor, "R"],
    length: Int64[Tensor, "R"],
    extent: Int64[Tensor, "R"],
    bins: int,
    dtype: torch.dtype,
) -> tuple[Int64[Tensor, "R P"], Int64[Tensor, "R P"]]:
    """The first cell of each bin on one axis of a map, and how many cells it has there, computed in `dtype`."""
    border = torch.arange(bins + 1, device=start.device, dtype=dtype)
    # A tensor: a GPU multiplies by the reciprocal of a number, which rounds differently.
    size = length.to(dtype)[:, None] / border.new_full((1,), bins)
    start = start[:, None]
    extent = extent[:, None]
    low = (start + (border[:-1] * size).floor().long()).clamp(min=0).minimum(extent)
    high = (start + (border[1:] * size).ceil().long()).clamp(min=0).minimum(extent)
    return low, high - low
