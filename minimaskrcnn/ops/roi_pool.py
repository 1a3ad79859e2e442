"""RoIPool (Fast R-CNN, section 2.1): the largest cell in each bin of a box that is rounded to whole cells.

Rounding happens twice, and is what RoIAlign does away with: the box's corners go to the nearest cells, and a bin
takes every cell that it covers in part, so neighbouring bins share cells.  torchvision's rules, to the last bit:
halves are rounded away from zero, the last cell belongs to the box (it is at least one cell long), and all of it is
computed in the boxes' precision, because float32 decides otherwise than float64 where a bin ends on a cell's border.

Axis letters: B images, C channels, H W map, R rois, PH PW bins, K bins of all rois.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from minimaskrcnn.ops.backend import Backend, takes, use_triton
from minimaskrcnn.ops.largest import largest_in_rectangles, scatter
from minimaskrcnn.ops.roi_align import fpn_levels
from minimaskrcnn.ops.rois import (
    as_output,
    bins_of,
    cell_table,
    check_levels,
    check_pooling,
    locate,
    rows_and_images,
    whole_cells,
)


def roi_pool(
    input: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "R 5"] | Sequence[Float[Tensor, "_ 4"]],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    *,
    backend: Backend = "auto",
    validate: bool = False,
) -> Float[Tensor, "R C PH PW"]:
    """Pool `boxes` from `input`: torchvision's op, differentiable any number of times in `input`, not in `boxes`.

    `boxes` are rows of (image index, x1, y1, x2, y2), or one [L, 4] for each image; `spatial_scale` takes their
    pixels to cells.  The result has the dtype of `input`, whose numbers it selects, and lies channels-last in memory.
    Coordinates are float32, or float64 where boxes or features are.

    A bin without cells (outside of the map) is 0.  NaN cells are passed over; a bin of nothing else is -inf.  The
    gradient of a bin goes to the first of its largest cells, row by row, in a fixed order of additions.  A box whose
    corners or sides are not finite gives NaN and has no gradient.  Errors are those of `roi_align`.

    Memory beyond the result: the channels-last table (none for a channels_last float32 `input`) and its copy; for a
    gradient twice the table's float32 size again, and an int64 for each number of the result.
    """
    rows, image_index = rows_and_images(boxes, input)
    size = bins_of(output_size)
    check_pooling([input], rows, image_index, [spatial_scale], validate)
    if use_triton(backend, input) and takes(input, rows, backend):
        from minimaskrcnn.ops.triton_rois import roi_pool_by_triton

        return roi_pool_by_triton(input, rows.detach(), image_index, spatial_scale, size)
    return roi_pool_by_torch(input, rows.detach(), image_index, spatial_scale, size)


def multiscale_roi_pool(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    output_size: int | tuple[int, int],
    strides: Sequence[int | float],
    *,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
    backend: Backend = "auto",
    validate: bool = False,
) -> Float[Tensor, "R C PH PW"]:
    """`roi_pool` of each box on its own level of a feature pyramid, as `multiscale_roi_align` has them.

    The kernel reads one map: on a GPU every box is pooled from every level, and its own is kept.
    """
    check_levels(features, boxes, image_index, strides)
    size, boxes = bins_of(output_size), boxes.detach()
    scales = [1 / stride for stride in strides]
    check_pooling(features, boxes, image_index, scales, validate)
    level = fpn_levels(boxes, strides, canonical_size, canonical_level)
    if not (use_triton(backend, features[0]) and takes(features[0], boxes, backend)):
        return _pool_levels(features, boxes, image_index, level, scales, size)
    from minimaskrcnn.ops.triton_rois import roi_pool_by_triton

    pooled = roi_pool_by_triton(features[0], boxes, image_index, scales[0], size)
    for number, (feature, scale) in enumerate(zip(features[1:], scales[1:]), start=1):
        there = roi_pool_by_triton(feature, boxes, image_index, scale, size)
        pooled = torch.where((level == number)[:, None, None, None], there, pooled)
    return pooled


def roi_pool_by_torch(
    input: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    spatial_scale: float,
    size: tuple[int, int],
) -> Float[Tensor, "R C PH PW"]:
    """`roi_pool` by the torch path."""
    return _pool_levels([input], boxes, image_index, torch.zeros_like(image_index), [spatial_scale], size)


def _pool_levels(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    level: Int64[Tensor, "R"],
    scales: Sequence[float],
    size: tuple[int, int],
) -> Float[Tensor, "R C PH PW"]:
    rois = locate(features, boxes, image_index, level, scales)
    table = cell_table(features)
    with_element = torch.is_grad_enabled() and table.requires_grad
    pooled, _ = _roi_pool(table, rois.boxes, rois.first, rois.height, rois.width, *size, with_element)
    return as_output(pooled, rois, *size, features[0].dtype)


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
    start, extent = start[:, None], extent[:, None]
    low = (start + (border[:-1] * size).floor().long()).clamp(min=0).minimum(extent)
    high = (start + (border[1:] * size).ceil().long()).clamp(min=0).minimum(extent)
    return low, high - low


# A custom op: how many cells a bin has is data.
@torch.library.custom_op("minimaskrcnn::roi_pool", mutates_args=())
def _roi_pool(
    table: Tensor,
    boxes: Tensor,
    first: Tensor,
    height: Tensor,
    width: Tensor,
    bins_y: int,
    bins_x: int,
    with_element: bool,
) -> tuple[Tensor, Tensor]:
    left, top, columns, rows = whole_cells(boxes).unbind(1)
    y, down = _bins(top, rows, height, bins_y, boxes.dtype)
    x, across = _bins(left, columns, width, bins_x, boxes.dtype)
    stride = width[:, None, None].expand(-1, bins_y, bins_x)
    corner = first[:, None, None] + y[:, :, None] * stride + x[:, None, :]
    down, across = down[:, :, None].expand_as(corner), across[:, None, :].expand_as(corner)
    bins = (corner.flatten(), down.flatten(), across.flatten(), stride.flatten())
    return largest_in_rectangles(table, *bins, with_element)


@_roi_pool.register_fake
def _(table, boxes, first, height, width, bins_y, bins_x, with_element):
    shape = (len(boxes) * bins_y * bins_x, table.shape[1])
    return table.new_empty(shape), first.new_empty(shape if with_element else (0, shape[1]))


def _setup(ctx, inputs, output):
    ctx.rows = len(inputs[0])
    ctx.save_for_backward(output[1])


def _backward(ctx, grad, _):
    (element,) = ctx.saved_tensors
    return scatter(grad, element, ctx.rows), None, None, None, None, None, None, None


_roi_pool.register_autograd(_backward, setup_context=_setup)
