"""Mask targets: RoIAlign of a bitmap (paper, section 3.1: "the intersection between an RoI and its associated mask").

A bitmap has one channel and a box may cover all of it, so gathering cells bin by bin would be wasteful.  The
weights are separable: out = Ay · M · Axᵀ, with Ay [m, H] and Ax [m, W] dense, one pair of them per roi.

Axis letters: M bitmaps; H, W their rows and columns; R rois; m output rows and columns.
"""

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from minimaskrcnn.ops.roi_align import _merged_axis, _samples

# Numbers held per chunk of rois in the largest temporary: 16 MiB of float32.
CHUNK = 2**22


def crop_masks(
    masks: Bool[Tensor, "M H W"] | UInt8[Tensor, "M H W"] | Float[Tensor, "M H W"],
    boxes: Float[Tensor, "R 4"],
    mask_index: Int64[Tensor, "R"],
    output_size: int,
) -> Float[Tensor, "R m m"]:
    """Each box's part of its mask at m × m, in the boxes' dtype.

    Equals `roi_align(masks[:, None].to(boxes.dtype), rois, (m, m), 1.0, sampling_ratio=-1, aligned=False)[:, 0]`.
    """
    height, width = masks.shape[1:]
    out = boxes.new_zeros(len(boxes), output_size, output_size)
    step = max(1, CHUNK // max(1, height * width))
    for start in range(0, len(boxes), step):
        rows = slice(start, start + step)
        ay = _axis_matrix(boxes[rows, 1], boxes[rows, 3], height, output_size)
        ax = _axis_matrix(boxes[rows, 0], boxes[rows, 2], width, output_size)
        out[rows] = ay @ masks[mask_index[rows]].to(boxes.dtype) @ ax.mT
    return out


def _axis_matrix(
    start: Float[Tensor, "R"], end: Float[Tensor, "R"], extent: int, bins: int
) -> Float[Tensor, "R bins extent"]:
    """Share of each pixel in each bin on one axis."""
    sizes = torch.full_like(start, extent, dtype=torch.int64)
    cells, shares = _merged_axis(start, end, sizes, bins, _samples(start, end, bins, False), False)
    return shares.new_zeros(len(start), bins, extent).scatter_add(-1, cells, shares)
