"""Mask targets: RoIAlign of a bitmap (paper, section 3.1: "the intersection between an RoI and its associated mask").

A bitmap has one channel and a box may cover all of it, so a list of cells per bin would be long.  The weights are
separable: out = Ay · M · Axᵀ.  Ay [m, H] has a few entries a row, so Ay · M is an embedding bag over the rows of all
bitmaps; Ax [m, W] is dense, one per roi.

Axis letters: M bitmaps; H, W their rows and columns; R rois; m output rows and columns; S rows of a bin.
"""

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.nn.functional import embedding_bag

from minimaskrcnn.ops.roi_align_torch import merged_axis_entries, samples_per_bin
from minimaskrcnn.ops.rois import check_index

# Numbers in the largest temporary of a chunk of rois, [R, m, W]: 16 MiB of float32.
CHUNK = 2**22
# Numbers in the bitmaps that are converted at once: 256 MiB of float32, 75 masks of 800 × 1088.
TABLE = 2**26


def crop_masks(
    masks: Bool[Tensor, "M H W"] | UInt8[Tensor, "M H W"] | Float[Tensor, "M H W"],
    boxes: Float[Tensor, "R 4"],
    mask_index: Int64[Tensor, "R"],
    output_size: int,
    aligned: bool = False,
) -> Float[Tensor, "R m m"]:
    """Each box's part of its mask, averaged down or interpolated up to m × m, in the boxes' dtype.

    Equals `roi_align(masks[:, None].to(boxes.dtype), rois, (m, m), 1.0, sampling_ratio=-1, aligned=aligned)[:, 0]`.
    Memory: TABLE numbers (or one mask, if larger) and twice CHUNK in the boxes' dtype.  No gradient.  Raises
    ValueError for a mask index out of range on the CPU; on a GPU such a row is NaN.
    """
    check_index(mask_index, len(masks))
    masks = masks.detach()
    boxes = boxes.detach()
    at_once = max(1, TABLE // max(1, masks.shape[1] * masks.shape[2]))
    if 0 < len(masks) <= at_once:
        known = (mask_index >= 0) & (mask_index < len(masks))
        found = _crop(masks, boxes, mask_index.clamp(0, len(masks) - 1), output_size, aligned)
        return torch.where(known[:, None, None], found, torch.nan)
    out = boxes.new_full((len(boxes), output_size, output_size), torch.nan)
    for first in range(0, len(masks), at_once):
        here = (mask_index >= first) & (mask_index < first + at_once)
        group = masks[first : first + at_once]
        out[here] = _crop(group, boxes[here], mask_index[here] - first, output_size, aligned)
    return out


def _crop(masks: Tensor, boxes: Tensor, mask_index: Tensor, output_size: int, aligned: bool) -> Tensor:
    """The masks in the boxes' dtype, all at once."""
    height, width = masks.shape[1:]
    out = boxes.new_empty(len(boxes), output_size, output_size)
    table = masks.to(boxes.dtype).reshape(-1, width)
    first_row = mask_index * height
    step = max(1, CHUNK // max(1, output_size * width))
    for start in range(0, len(boxes), step):
        x1, y1, x2, y2 = boxes[start : start + step].unbind(1)
        rows, weights = _shares(y1, y2, height, output_size, aligned)
        rows = rows + first_row[start : start + step, None, None]
        strips = embedding_bag(
            rows.flatten(0, 1), table, mode="sum", per_sample_weights=weights.flatten(0, 1)
        )
        columns, weights = _shares(x1, x2, width, output_size, aligned)
        ax = weights.new_zeros(len(x1), output_size, width).scatter_add_(-1, columns, weights)
        with torch.autocast(boxes.device.type, enabled=False):
            out[start : start + step] = strips.view(-1, output_size, width) @ ax.mT
    return out


def _shares(
    start: Float[Tensor, "R"], end: Float[Tensor, "R"], extent: int, bins: int, aligned: bool
) -> tuple[Int64[Tensor, "R bins S"], Float[Tensor, "R bins S"]]:
    """The pixels of each bin on one axis, and their weights."""
    extents = torch.full_like(start, extent, dtype=torch.int64)
    samples = samples_per_bin(start, end, bins, aligned)
    return merged_axis_entries(start, end, extents, bins, samples, aligned)
