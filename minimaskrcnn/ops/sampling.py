"""Where RoIAlign's samples fall on one axis of a feature map, and the weights of the cells around them.

A bilinear sample at (y, x) has weights (1 - fy, fy) × (1 - fx, fx), so y and x are handled apart, with the same
functions.  The rules are those of torchvision's C++: a sample beyond -1 or beyond the map's size counts 0; between
-1 and 0, and between size - 1 and size, it is clamped to the edge; with `aligned=False` a box is at least one cell
long; an adaptive bin of b cells takes ceil(b) samples.

Axis letters: R rois; P bins of a roi on this axis; S cells of a bin; `most` samples of a bin.  Coordinates are
cells, not pixels.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def samples_per_bin(
    start: Float[Tensor, "R"], end: Float[Tensor, "R"], bins: int, aligned: bool
) -> Int64[Tensor, "R"]:
    """The adaptive number of samples to a bin: its length in cells, rounded up."""
    count = (_length(start, end, aligned).detach() / bins).ceil().clamp(min=0)
    # One sample is enough to make the result of a box that is not finite NaN.
    return count.nan_to_num(nan=1, posinf=1).long()


def axis_samples(
    start: Float[Tensor, "R"],
    end: Float[Tensor, "R"],
    extent: Int64[Tensor, "R"],
    bins: int,
    count: Int64[Tensor, "R"],
    most: int,
    aligned: bool,
) -> tuple[Int64[Tensor, "R P most 2"], Float[Tensor, "R P most 2"]]:
    """The two cells around each sample of each bin, and their weights.

    A box start..end on a map of `extent` cells takes `count` <= `most` samples to a bin.  The weights of a sample sum
    to 1, or to 0 where it falls outside of the map or is not one of `count`.  Differentiable in start and end.
    """
    place = torch.arange(most, device=start.device, dtype=start.dtype)
    bin_index = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    size = (_length(start, end, aligned) / bins)[:, None, None]
    offset = (start - 0.5 if aligned else start)[:, None, None]
    count, last = count[:, None, None], (extent - 1)[:, None, None]
    # torchvision's order of operations: another last bit could cross the map's edge.
    point = offset + bin_index * size + (place + 0.5) * size / count.clamp(min=1)
    used = (point >= -1) & (point <= extent[:, None, None]) & (place < count)
    point = point.clamp(min=0).minimum(last.to(point.dtype))
    low = point.detach().floor().long().clamp(min=0)
    upper = point - low
    weights = torch.stack([1 - upper, upper], -1) * used.to(point.dtype)[..., None]
    return torch.stack([low, (low + 1).minimum(last)], -1), weights


def merged_axis_entries(
    start: Float[Tensor, "R"],
    end: Float[Tensor, "R"],
    extent: Int64[Tensor, "R"],
    bins: int,
    count: Int64[Tensor, "R"],
    aligned: bool,
) -> tuple[Int64[Tensor, "R P S"], Float[Tensor, "R P S"]]:
    """The mean of a bin's adaptive samples with one entry per distinct cell: the count + 2 cells from its first.

    Adaptive samples lie at most one cell apart, so these are all.  The weights of a bin sum to 1, less the samples
    that fall outside of the map.  S is the largest count + 2, which is read on the host; entries beyond a roi's own
    have weight 0.
    """
    most = int(count.max()) if len(count) else 0
    cells, weights = axis_samples(start, end, extent, bins, count, max(most, 1), aligned)
    cells, weights = cells.flatten(-2), weights.flatten(-2) / count.clamp(min=1)[:, None, None]
    first = cells[..., :1]
    # The samples beyond a roi's own count weigh nothing, but must stay inside of the window.
    slot = (cells - first).clamp(0, most + 1)
    merged = weights.new_zeros(*weights.shape[:2], most + 2).scatter_add(-1, slot, weights)
    window = torch.arange(most + 2, device=cells.device)
    return (first + window).minimum((extent - 1)[:, None, None]), merged


def _length(start: Float[Tensor, "R"], end: Float[Tensor, "R"], aligned: bool) -> Float[Tensor, "R"]:
    return end - start if aligned else (end - start).clamp(min=1)
