"""RoIAlign and RoIWarp in torch: one sparse matrix product.

Rows are the bins (roi, ph, pw); columns are the cells of all images and all levels, in one channels-last table
[cells, C] (`rois.py`); a bin's entries are the cells that its samples touch.  `embedding_bag.py` has the product and
its derivatives.  A bilinear sample at (y, x) has weights (1 - fy, fy) × (1 - fx, fx), so y and x are handled apart,
with the same functions, and multiplied out.  With n samples a side a bin has (2 n)² entries; adaptive sampling merges
them to (n + 2)².  The largest sample instead of their average needs each of them: rows are then the samples, of four
entries each, and the maximum of a bin is taken after the product.

The rules are those of torchvision's C++: a sample beyond -1 or beyond the map's size counts 0; between -1 and 0, and
between size - 1 and size, it is clamped to the edge; with `aligned=False` a box is at least one cell long; an
adaptive bin of b cells takes ceil(b) samples.

Axis letters: C channels; R rois; P bins of a roi on one axis, `most` samples or S cells of each; K bins of all rois;
E entries, N samples of all bins.  Coordinates are cells, not pixels.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from minimaskrcnn.ops.embedding_bag import weighted_bags
from minimaskrcnn.ops.rois import BoxesInCells, PoolingRequest, as_output, cell_table, locate
from minimaskrcnn.ops.whole_cells import grown_to_whole_cells


def roi_align_by_torch(request: PoolingRequest) -> Float[Tensor, "R C PH PW"]:
    """The average or the largest bilinear sample of each bin; RoIWarp where the request quantises."""
    rois = locate(request)
    if request.quantise:
        rois = rois._replace(boxes=grown_to_whole_cells(rois.boxes))
    table = cell_table(request.features)
    cell, weight, offsets = (_fixed if request.sampling_ratio > 0 else _adaptive)(rois, request)
    weight = weight.to(table.dtype)
    if request.mode == "avg":
        return as_output(weighted_bags(table, weight, cell, offsets), rois, request)
    samples = weighted_bags(table, weight, cell, torch.arange(len(cell) // 4 + 1, device=cell.device) * 4)
    if request.sampling_ratio > 0 or not len(samples):
        return as_output(_largest(samples, len(offsets) - 1), rois, request)
    # The bins of one box have as many samples each.
    bins = request.output_size[0] * request.output_size[1]
    pieces = samples.split((offsets[::bins].diff() // 4).tolist())
    return as_output(torch.cat([_largest(piece, bins) for piece in pieces]), rois, request)


def _fixed(rois: BoxesInCells, request: PoolingRequest) -> tuple[Tensor, Tensor, Tensor]:
    """The cell [E] and weight [E] of each entry, (2 n)² a bin and four a sample, and where the bins begin [K + 1]."""
    x1, y1, x2, y2 = rois.boxes.unbind(1)
    height, width = request.output_size
    n = request.sampling_ratio
    count = torch.full_like(rois.first, n)
    y, wy = axis_samples(y1, y2, rois.height, height, count, n, request.aligned)
    x, wx = axis_samples(x1, x2, rois.width, width, count, n, request.aligned)
    y = y * rois.width[:, None, None, None] + rois.first[:, None, None, None]
    cell = y[:, :, None, :, None, :, None] + x[:, None, :, None, :, None, :]
    weight = wy[:, :, None, :, None, :, None] * wx[:, None, :, None, :, None, :]
    offsets = torch.arange(len(count) * height * width + 1, device=cell.device) * (4 * n**2)
    return cell.flatten(), weight.flatten() / (n**2 if request.mode == "avg" else 1), offsets


def _adaptive(rois: BoxesInCells, request: PoolingRequest) -> tuple[Tensor, Tensor, Tensor]:
    """The same where a bin takes ny · nx samples: (ny + 2)(nx + 2) entries a bin, or four a sample for the largest.

    Host syncs: these sizes are data.
    """
    x1, y1, x2, y2 = rois.boxes.unbind(1)
    height, width = request.output_size
    axes = []
    for axis in ((y1, y2, rois.height, height), (x1, x2, rois.width, width)):
        count = samples_per_bin(axis[0], axis[1], axis[3], request.aligned)
        if request.mode == "avg":
            cell, weight = merged_axis_entries(*axis, count, request.aligned)
            axes.append((cell[..., None], weight[..., None], count + 2))
        else:
            most = int(count.max()) if len(count) else 0
            axes.append((*axis_samples(*axis, count, most, request.aligned), count))
    (y, wy, ny), (x, wx, nx) = axes
    each = (ny * nx).repeat_interleave(height * width)
    offsets = torch.cat([each.new_zeros(1), each.cumsum(0)])
    bag = torch.arange(len(each), device=each.device).repeat_interleave(each)
    place = torch.arange(len(bag), device=each.device) - offsets[bag]
    roi = bag // (height * width)
    at_y = (roi, bag // width % height, place // nx[roi])
    at_x = (roi, bag % width, place % nx[roi])
    line = rois.first[roi, None] + y[at_y] * rois.width[roi, None]
    cell = line[:, :, None] + x[at_x][:, None]
    weight = wy[at_y][:, :, None] * wx[at_x][:, None]
    return cell.flatten(), weight.flatten(), offsets * (y.shape[-1] * x.shape[-1])


def _largest(samples: Float[Tensor, "N C"], bins: int) -> Float[Tensor, "bins C"]:
    """The largest of each run of N / bins samples, 0 of none; its gradient goes to the first of equal ones."""
    if not len(samples):
        return pad(samples, (0, 0, 0, bins))
    runs = samples.view(bins, len(samples) // bins, samples.shape[1])
    # amax splits its gradient among equal numbers, max does not; else amax, which took a quarter of the time.
    return runs.max(1).values if runs.requires_grad else runs.amax(1)


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
    count = count[:, None, None]
    last = (extent - 1)[:, None, None]
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
    cells = cells.flatten(-2)
    weights = weights.flatten(-2) / count.clamp(min=1)[:, None, None]
    first = cells[..., :1]
    # The samples beyond a roi's own count weigh nothing, but must stay inside of the window.
    slot = (cells - first).clamp(0, most + 1)
    merged = weights.new_zeros(*weights.shape[:2], most + 2).scatter_add(-1, slot, weights)
    window = torch.arange(most + 2, device=cells.device)
    return (first + window).minimum((extent - 1)[:, None, None]), merged


def _length(start: Float[Tensor, "R"], end: Float[Tensor, "R"], aligned: bool) -> Float[Tensor, "R"]:
    return end - start if aligned else (end - start).clamp(min=1)
