"""RoIAlign (paper, section 3): average bilinear samples of a feature map in the bins of a box, rounding nothing.

A box is cut into equal bins, a bin into equal parts with a sample in the middle of each, and a sample lies between
four cells.  `roi_align_torch.py` does this for all boxes at once; on a GPU `minimaskrcnn_kernels` does.  The largest
sample of a bin instead of the average is the paper's other choice (table 2c).

Axis letters: B images, C channels, H W map, R rois, PH PW bins.
Left out: rotated boxes; position-sensitive pooling.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from minimaskrcnn.ops.backend import Backend, use_triton
from minimaskrcnn.ops.levels import level_areas
from minimaskrcnn.ops.roi_align_torch import roi_align_by_torch
from minimaskrcnn.ops.rois import PoolingRequest, bins_of, check_index, rows_and_images


def roi_align(
    input: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "R 5"] | Sequence[Float[Tensor, "_ 4"]],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    mode: str = "avg",
    backend: Backend = "auto",
    validate: bool = False,
) -> Float[Tensor, "R C PH PW"]:
    """Pool `boxes` from `input`: torchvision's op, differentiable any number of times in `input` and in `boxes`.

    `boxes` are rows of (image index, x1, y1, x2, y2), or one [L, 4] for each image; `spatial_scale` takes their
    pixels to cells.  The result has the dtype of `input` and lies channels-last in memory; a channels_last `input`
    is read in place.  Half-precision features are cast to float32, a copy of twice their memory, and the result is
    rounded once.  Coordinates are float32, or float64 where boxes or features are.

    `mode` "max" takes the largest sample of a bin, the first of equal ones for the gradient, and holds all samples
    at once: R · PH · PW · sampling_ratio² rows of C numbers.  Samples outside of the map count 0, so a map without
    cells gives 0, as does a bin without samples (adaptive, aligned, and inverted or without area).  A box whose
    corners or sides are not finite gives NaN and has no gradient.

    Raises ValueError for a bad shape, number or mode, TypeError for a dtype that is not floating point, and
    ValueError for an image index out of range: in lists, on the CPU, and anywhere with `validate=True`, which syncs.
    Otherwise, on a GPU or in a compiled graph, that row is NaN and has no gradient.
    """
    rows, image_index = rows_and_images(boxes, input)
    request = PoolingRequest(
        features=[input],
        boxes=rows,
        image_index=image_index,
        output_size=bins_of(output_size),
        scales=[spatial_scale],
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        mode=mode,
    )
    return pool_samples(request, backend, validate)


def multiscale_roi_align(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    output_size: int | tuple[int, int],
    strides: Sequence[int | float],
    *,
    sampling_ratio: int,
    aligned: bool,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
    mode: str = "avg",
    backend: Backend = "auto",
    validate: bool = False,
) -> Float[Tensor, "R C PH PW"]:
    """`roi_align` of each box on its own level of a feature pyramid (`fpn_levels`), all levels in one product.

    `features` come finest first; `strides` are their pixels per cell, each twice the one before.  The levels are
    copied into one table.  All else is as in `roi_align`, errors included.
    """
    request = PoolingRequest(
        features=features,
        boxes=boxes,
        image_index=image_index,
        output_size=bins_of(output_size),
        areas=level_areas(strides, canonical_size, canonical_level),
        scales=[1 / stride for stride in strides],
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        mode=mode,
    )
    return pool_samples(request, backend, validate)


def pool_samples(request: PoolingRequest, backend: Backend, validate: bool) -> Float[Tensor, "R C PH PW"]:
    """RoIAlign, or RoIWarp where the request quantises, by what `backend` says."""
    one = request.features[0]
    check_index(request.image_index, len(one), validate)
    if use_triton(backend, one, float64=torch.float64 in (one.dtype, request.boxes.dtype)):
        from minimaskrcnn.ops.roi_align_triton import roi_align_by_triton

        return roi_align_by_triton(request)
    return roi_align_by_torch(request)
