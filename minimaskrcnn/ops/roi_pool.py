"""RoIPool (Fast R-CNN, section 2.1): the largest cell in each bin of a box that is rounded to whole cells.

Rounding happens twice, and is what RoIAlign does away with: the box's corners go to the nearest cells, and a bin
takes every cell that it covers in part (`whole_cells.py`).  `maximum_pooling.py` finds the largest of them.

Axis letters: B images, C channels, H W map, R rois, PH PW bins, K bins of all rois.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from minimaskrcnn.ops.backend import Backend, use_triton
from minimaskrcnn.ops.levels import level_areas, reached_levels
from minimaskrcnn.ops.maximum_pooling import largest_in_rectangles
from minimaskrcnn.ops.rois import (
    PoolingRequest,
    as_output,
    bins_of,
    cell_table,
    check_index,
    locate,
    rows_and_images,
)
from minimaskrcnn.ops.whole_cells import cells_of_bins


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
    request = PoolingRequest(
        features=[input],
        boxes=rows.detach(),
        image_index=image_index,
        output_size=bins_of(output_size),
        scales=[spatial_scale],
    )
    return _pool_cells(request, backend, validate)


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
    request = PoolingRequest(
        features=features,
        boxes=boxes.detach(),
        image_index=image_index,
        output_size=bins_of(output_size),
        areas=level_areas(strides, canonical_size, canonical_level),
        scales=[1 / stride for stride in strides],
    )
    return _pool_cells(request, backend, validate)


def _pool_cells(request: PoolingRequest, backend: Backend, validate: bool) -> Float[Tensor, "R C PH PW"]:
    one = request.features[0]
    check_index(request.image_index, len(one), validate)
    if use_triton(backend, one, float64=torch.float64 in (one.dtype, request.boxes.dtype)):
        return _pool_by_triton(request)
    return _pool_by_torch(request)


def _pool_by_triton(request: PoolingRequest) -> Float[Tensor, "R C PH PW"]:
    from minimaskrcnn_kernels.roi_pool import roi_pool as pool_one_map

    level = reached_levels(request.boxes, request.areas)[:, None, None, None]
    boxes = request.boxes.float()
    pooled = None
    for number, (feature, scale) in enumerate(zip(request.features, request.scales)):
        there, _ = pool_one_map(feature, boxes, request.image_index, scale, *request.output_size)
        pooled = there if pooled is None else torch.where(level == number, there, pooled)
    return pooled


def _pool_by_torch(request: PoolingRequest) -> Float[Tensor, "R C PH PW"]:
    rois = locate(request)
    table = cell_table(request.features)
    first, height, width = cells_of_bins(rois.boxes, rois.first, rois.height, rois.width, *request.output_size)
    bins = request.output_size[0] * request.output_size[1]
    stride = rois.width.repeat_interleave(bins, output_size=len(first))
    with_element = torch.is_grad_enabled() and table.requires_grad
    pooled, _ = largest_in_rectangles(table, first, height, width, stride, with_element)
    return as_output(pooled, rois, request)
