"""RoIWarp (Multi-task Network Cascades, MNC): the samples of RoIAlign in a box that is rounded as RoIPool rounds it.

It stands between the two in the paper's table 2c: the features are interpolated, but the box has already moved by up
to half a cell on each side.  Cell i covers [i, i + 1) and has its value at its centre, so a bin of exactly one cell
with one sample is that cell.  Which box asked is lost in the rounding: boxes that round alike are pooled alike.

Axis letters: B images, C channels, H W map, R rois, PH PW bins.
Left out: a derivative in the boxes, which MNC takes as if they had not been rounded.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

from collections.abc import Sequence

from jaxtyping import Float, Int64
from torch import Tensor

from minimaskrcnn.ops.backend import Backend
from minimaskrcnn.ops.levels import level_areas
from minimaskrcnn.ops.roi_align import pool_samples
from minimaskrcnn.ops.rois import PoolingRequest, bins_of, rows_and_images


def roi_warp(
    input: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "R 5"] | Sequence[Float[Tensor, "_ 4"]],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    *,
    mode: str = "avg",
    backend: Backend = "auto",
    validate: bool = False,
) -> Float[Tensor, "R C PH PW"]:
    """Pool `boxes` from `input`: `roi_align(aligned=True)` of the whole cells that `roi_pool` would read.

    Differentiable any number of times in `input`, not in `boxes`: their rounding has derivative zero.  All else is as
    in `roi_align`, errors included.
    """
    rows, image_index = rows_and_images(boxes, input)
    request = PoolingRequest(
        features=[input],
        boxes=rows.detach(),
        image_index=image_index,
        output_size=bins_of(output_size),
        scales=[spatial_scale],
        sampling_ratio=sampling_ratio,
        aligned=True,
        mode=mode,
        quantise=True,
    )
    return pool_samples(request, backend, validate)


def multiscale_roi_warp(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    output_size: int | tuple[int, int],
    strides: Sequence[int | float],
    *,
    sampling_ratio: int,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
    mode: str = "avg",
    backend: Backend = "auto",
    validate: bool = False,
) -> Float[Tensor, "R C PH PW"]:
    """`roi_warp` of each box on its own level of a feature pyramid, as `multiscale_roi_align` has them."""
    request = PoolingRequest(
        features=features,
        boxes=boxes.detach(),
        image_index=image_index,
        output_size=bins_of(output_size),
        areas=level_areas(strides, canonical_size, canonical_level),
        scales=[1 / stride for stride in strides],
        sampling_ratio=sampling_ratio,
        aligned=True,
        mode=mode,
        quantise=True,
    )
    return pool_samples(request, backend, validate)
