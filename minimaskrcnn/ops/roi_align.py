"""RoIAlign (paper, section 3): average bilinear samples of a feature map in the bins of a box, rounding nothing.

A bin is a weighted sum of a few cells, so pooling is one sparse matrix product: rows are bins (roi, ph, pw), columns
are the cells of all images and levels in one channels-last table [cells, C].  A sample at (y, x) has weights
(1 - fy, fy) × (1 - fx, fx): separable, so they are made per axis and multiplied out.  The product itself is an
embedding bag.  Its derivatives are products of the same two kinds, so it can be differentiated any number of times,
in bounded memory and in a fixed order:

    pool        out[bin]    = sum over the bin's cells of weight · table[cell]            `_Pool`
    d table     the same with the matrix transposed: sort the entries by cell             `_Pool`
    d weight    out_grad[bin] · table[cell], one dot product per entry                    `_Dots`

Rules of sampling, as torchvision's C++: a sample beyond -1 or beyond the map's size counts 0; between -1 and 0 and
between size - 1 and size it is clamped to the edge; with `aligned=False` a box is at least one cell wide; with
`sampling_ratio <= 0` a bin of b cells takes ceil(b) samples an axis.

Axis letters: B images, C channels, H W map, L levels, R rois, PH PW bins, S samples or cells of a bin on one axis,
E entries of the sparse matrix, K rows of its bags.
Left out: rotated boxes; position-sensitive pooling.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import embedding_bag

Features = Float[Tensor, "B C H W"]


class _Map(NamedTuple):
    """Where each roi's feature map lies in the table."""

    first: Int64[Tensor, "R"]  # row of the table that holds its cell (0, 0)
    height: Int64[Tensor, "R"]
    width: Int64[Tensor, "R"]


def roi_align(
    input: Features,
    boxes: Float[Tensor, "R 5"] | list[Float[Tensor, "_ 4"]],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    validate: bool = False,
) -> Float[Tensor, "R C PH PW"]:
    """Pool `boxes` from `input`; torchvision's op, and differentiable, twice, in `input` and in `boxes`.

    `boxes` are [K, 5] rows of (image index, x1, y1, x2, y2), or one [L, 4] per image; `spatial_scale` takes their
    pixels to cells.  The result has the dtype of `input` and is laid out channels-last.  A channels_last `input`
    is read in place.  Half-precision features are cast to a float32 copy (twice their memory) and the result is
    rounded once; coordinates are float32, or float64 where boxes or features are.

    Raises ValueError for a bad shape, and for an image index out of range: on the CPU, in lists, and wherever
    `validate=True` (which syncs).  Otherwise, on a GPU and in a compiled graph, such a row is NaN and has no
    gradient.
    """
    rows, image_index = _rows(boxes, input)
    return _pool_levels(
        [input], rows, image_index, torch.zeros_like(image_index), _pair(output_size), [spatial_scale],
        sampling_ratio, aligned, validate,
    )  # fmt: skip


def multiscale_roi_align(
    features: list[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    output_size: int | tuple[int, int],
    strides: Sequence[float],
    *,
    sampling_ratio: int,
    aligned: bool,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
    validate: bool = False,
) -> Float[Tensor, "R C PH PW"]:
    """`roi_align` of each box on its own level of a feature pyramid, all levels in one product.

    `features` are finest first, `strides` their pixels per cell, each twice the one before.  The level is
    `fpn_levels`'s.  The levels are copied into one table; the rest is as `roi_align` says, errors included.
    """
    if len(features) != len(strides) or not features:
        raise ValueError(
            f"{len(features)} feature maps with strides {list(strides)}: expected one stride a map"
        )
    level = fpn_levels(boxes.detach(), strides, canonical_size, canonical_level)
    return _pool_levels(
        features, boxes, image_index, level, _pair(output_size), [1 / stride for stride in strides],
        sampling_ratio, aligned, validate,
    )  # fmt: skip


def fpn_levels(
    boxes: Float[Tensor, "R 4"],
    strides: Sequence[float],
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Int64[Tensor, "R"]:
    """Index into `strides` of each box: equation 1 of the FPN paper, k = floor(k0 + log2(sqrt(area) / 224)).

    Clamped to the levels there are.  1e-6 before the floor keeps a box of exactly 224 pixels on its level.
    """
    finest = round(math.log2(strides[0]))
    if any(right != 2 * left for left, right in pairwise(strides)):
        raise ValueError(f"strides {list(strides)}: expected each to be twice the one before")
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(canonical_level + torch.log2(size / canonical_size) + 1e-6)
    # An inverted box has no size (NaN): the finest level.
    return level.nan_to_num(finest, neginf=finest).clamp(finest, finest + len(strides) - 1).long() - finest


def _pool_levels(
    features: Sequence[Features],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    level: Int64[Tensor, "R"],
    output_size: tuple[int, int],
    scales: list[float],
    sampling_ratio: int,
    aligned: bool,
    validate: bool,
) -> Float[Tensor, "R C PH PW"]:
    dtype = torch.promote_types(torch.promote_types(features[0].dtype, boxes.dtype), torch.float32)
    images, channels = features[0].shape[:2]
    known = (image_index >= 0) & (image_index < images)
    _check_index(image_index, known, images, validate)
    table = _channels_last_table(features)
    table = table.to(torch.promote_types(table.dtype, torch.float32))
    where = _locate(features, image_index.clamp(0, images - 1), level)
    boxes = boxes.to(dtype) * boxes.new_tensor(scales, dtype=dtype)[level, None]
    if sampling_ratio > 0:
        cells, weights, offsets = _fixed_entries(boxes, where, output_size, sampling_ratio, aligned)
    else:
        cells, weights, offsets = _adaptive_entries(boxes, where, output_size, aligned)
    out = _Pool.apply(table, weights.to(table.dtype), cells, offsets)
    out = out.view(len(boxes), *output_size, channels).permute(0, 3, 1, 2).to(features[0].dtype)
    if boxes.device.type == "cpu" and not torch.compiler.is_compiling():
        return out
    return torch.where(known[:, None, None, None], out, torch.nan)


def _rows(
    boxes: Float[Tensor, "R 5"] | list[Float[Tensor, "_ 4"]], input: Features
) -> tuple[Float[Tensor, "R 4"], Int64[Tensor, "R"]]:
    """torchvision's two forms of boxes, as coordinates and image indices."""
    if isinstance(boxes, Tensor):
        if boxes.ndim != 2 or boxes.shape[1] != 5:
            raise ValueError(f"boxes {tuple(boxes.shape)}: expected [K, 5] of (image index, x1, y1, x2, y2)")
        return boxes[:, 1:], boxes[:, 0].detach().long()
    if len(boxes) > len(input) or any(b.ndim != 2 or b.shape[1] != 4 for b in boxes):
        raise ValueError(
            f"boxes {[tuple(b.shape) for b in boxes]}: expected [L, 4] for each of {len(input)} images"
        )
    if not boxes:
        return input.new_zeros(0, 4), torch.zeros(0, dtype=torch.int64, device=input.device)
    index = [torch.full((len(b),), i, dtype=torch.int64, device=b.device) for i, b in enumerate(boxes)]
    return torch.cat(list(boxes)), torch.cat(index)


def _pair(output_size: int | tuple[int, int]) -> tuple[int, int]:
    return (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)


def _check_index(image_index: Tensor, known: Tensor, images: int, validate: bool) -> None:
    if torch.compiler.is_compiling() or not (validate or image_index.device.type == "cpu"):
        return
    if not known.all():
        wrong = image_index[~known][0].item()
        raise ValueError(f"image index {wrong}: expected 0..{images - 1}, the images in the feature map")


def _channels_last_table(features: Sequence[Features]) -> Float[Tensor, "cells C"]:
    """All cells as rows, level by level, image by image.  No copy of a single channels_last map."""
    channels = features[0].shape[1]
    tables = [feature.permute(0, 2, 3, 1).reshape(-1, channels) for feature in features]
    # embedding_bag is 40 times slower on rows that are not contiguous.
    return tables[0].contiguous() if len(tables) == 1 else torch.cat(tables)


def _locate(features: Sequence[Features], image_index: Int64[Tensor, "R"], level: Int64[Tensor, "R"]) -> _Map:
    first, sizes = 0, []
    for feature in features:
        images, _, height, width = feature.shape
        sizes.append((first, height, width))
        first += images * height * width
    first, height, width = image_index.new_tensor(sizes)[level].unbind(1)
    return _Map(first + image_index * height * width, height, width)


def _fixed_entries(
    boxes: Float[Tensor, "R 4"], where: _Map, output_size: tuple[int, int], sampling_ratio: int, aligned: bool
) -> tuple[Int64[Tensor, "E"], Float[Tensor, "E"], Int64[Tensor, "K1"]]:
    """Cells and weights of all bins, (2 · sampling_ratio)² each, and where each bin's begin."""
    count = torch.full_like(where.first, sampling_ratio)
    y, wy = _axis(boxes[:, 1], boxes[:, 3], where.height, output_size[0], count, sampling_ratio, aligned)
    x, wx = _axis(boxes[:, 0], boxes[:, 2], where.width, output_size[1], count, sampling_ratio, aligned)
    y = y * where.width[:, None, None] + where.first[:, None, None]
    cells = y[:, :, None, :, None] + x[:, None, :, None, :]
    weights = wy[:, :, None, :, None] * wx[:, None, :, None, :]
    each = (2 * sampling_ratio) ** 2
    return cells.flatten(), weights.flatten(), torch.arange(0, cells.numel() + 1, each, device=boxes.device)


def _adaptive_entries(
    boxes: Float[Tensor, "R 4"], where: _Map, output_size: tuple[int, int], aligned: bool
) -> tuple[Int64[Tensor, "E"], Float[Tensor, "E"], Int64[Tensor, "K1"]]:
    """As `_fixed_entries`, with as many cells to a bin as the box needs.  (Two host syncs: sizes are data.)

    Samples lie at most one cell apart, so they are merged per axis: a bin has (s + 2)² entries, not (2 s)².
    """
    ny = _samples(boxes[:, 1], boxes[:, 3], output_size[0], aligned)
    nx = _samples(boxes[:, 0], boxes[:, 2], output_size[1], aligned)
    y, wy = _merged_axis(boxes[:, 1], boxes[:, 3], where.height, output_size[0], ny, aligned)
    x, wx = _merged_axis(boxes[:, 0], boxes[:, 2], where.width, output_size[1], nx, aligned)
    bins, sy, sx = output_size[0] * output_size[1], ny + 2, nx + 2
    each = (sy * sx).repeat_interleave(bins)
    offsets = torch.cat([each.new_zeros(1), each.cumsum(0)])
    bag = torch.arange(len(each), device=boxes.device).repeat_interleave(each)
    place = torch.arange(len(bag), device=boxes.device) - offsets[bag]
    roi, ph, pw = bag // bins, bag % bins // output_size[1], bag % output_size[1]
    i, j = place // sx[roi], place % sx[roi]
    cells = where.first[roi] + y[roi, ph, i] * where.width[roi] + x[roi, pw, j]
    return cells, wy[roi, ph, i] * wx[roi, pw, j], offsets


def _samples(
    start: Float[Tensor, "R"], end: Float[Tensor, "R"], bins: int, aligned: bool
) -> Int64[Tensor, "R"]:
    """Adaptive number of samples to a bin on one axis: its length in cells, rounded up."""
    return (_length(start, end, aligned).detach() / bins).ceil().clamp(min=0).long()


def _length(start: Float[Tensor, "R"], end: Float[Tensor, "R"], aligned: bool) -> Float[Tensor, "R"]:
    return end - start if aligned else (end - start).clamp(min=1)


def _axis(
    start: Float[Tensor, "R"],
    end: Float[Tensor, "R"],
    extent: Int64[Tensor, "R"],
    bins: int,
    count: Int64[Tensor, "R"],
    most: int,
    aligned: bool,
) -> tuple[Int64[Tensor, "R bins S"], Float[Tensor, "R bins S"]]:
    """The cells that the samples of each bin touch on one axis, S = 2 · most, and their shares.

    A box start..end (in cells) on a map of `extent` cells takes `count` ≤ `most` samples to a bin; the shares of a
    bin's samples sum to 1, less those that fall outside.
    """
    place = torch.arange(most, device=start.device, dtype=start.dtype)
    bin_index = torch.arange(bins, device=start.device, dtype=start.dtype)[:, None]
    size = (_length(start, end, aligned) / bins)[:, None, None]
    offset = (start - 0.5 if aligned else start)[:, None, None]
    wanted = count[:, None, None]
    count = wanted.clamp(min=1)
    # The order of operations is torchvision's: a last-bit difference could cross the map's edge.
    point = offset + bin_index * size + (place + 0.5) * size / count
    last = (extent - 1)[:, None, None]
    used = (point >= -1) & (point <= last + 1) & (place < wanted)
    point = point.clamp(min=0).minimum(last.to(point.dtype))
    low = point.detach().floor().long().clamp(min=0)
    upper = point - low
    shares = torch.stack([1 - upper, upper], -1) * (used.to(point.dtype) / count)[..., None]
    return torch.stack([low, (low + 1).minimum(last)], -1).flatten(-2), shares.flatten(-2)


def _merged_axis(
    start: Float[Tensor, "R"],
    end: Float[Tensor, "R"],
    extent: Int64[Tensor, "R"],
    bins: int,
    count: Int64[Tensor, "R"],
    aligned: bool,
) -> tuple[Int64[Tensor, "R bins S"], Float[Tensor, "R bins S"]]:
    """`_axis` with one entry per distinct cell: the count + 2 cells from the bin's first on."""
    most = int(count.max()) if len(count) else 0
    cells, shares = _axis(start, end, extent, bins, count, max(most, 1), aligned)
    first = cells[..., :1]
    window = torch.arange(most + 2, device=cells.device)
    # Beyond a bin's own count the samples weigh nothing, but must stay inside of the window.
    slot = (cells - first).clamp(0, most + 1)
    merged = (
        torch.zeros_like(shares[..., :1]).expand(*shares.shape[:2], most + 2).scatter_add(-1, slot, shares)
    )
    return (first + window).minimum((extent - 1)[:, None, None]), merged


class _Pool(torch.autograd.Function):
    """out[k] = sum of weight[e] · table[cell[e]] over the entries e in offsets[k]..offsets[k + 1]."""

    @staticmethod
    def forward(ctx, table, weight, cell, offsets):
        ctx.save_for_backward(table, weight, cell, offsets)
        return embedding_bag(
            cell, table, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True
        )

    @staticmethod
    def backward(ctx, grad):
        table, weight, cell, offsets = ctx.saved_tensors
        grad, bag = grad.contiguous(), _bag_of_entries(offsets, cell)
        d_table = _transposed(grad, weight, cell, bag, len(table)) if ctx.needs_input_grad[0] else None
        d_weight = _Dots.apply(grad, table, bag, cell, offsets) if ctx.needs_input_grad[1] else None
        return d_table, d_weight, None, None


class _Dots(torch.autograd.Function):
    """out[e] = rows[bag[e]] · table[cell[e]], for the entries e of a sparse matrix."""

    @staticmethod
    def forward(ctx, rows, table, bag, cell, offsets):
        ctx.save_for_backward(rows, table, bag, cell, offsets)
        # Gathered rows stay within 2 × 16 MiB of float32.
        step = max(1, 2**22 // max(1, table.shape[1]))
        parts = zip(bag.split(step), cell.split(step))
        return torch.cat([(rows[b] * table[c]).sum(1) for b, c in parts])

    @staticmethod
    def backward(ctx, grad):
        rows, table, bag, cell, offsets = ctx.saved_tensors
        d_rows = _Pool.apply(table, grad, cell, offsets) if ctx.needs_input_grad[0] else None
        d_table = _transposed(rows, grad, cell, bag, len(table)) if ctx.needs_input_grad[1] else None
        return d_rows, d_table, None, None, None


def _transposed(rows: Tensor, weight: Tensor, cell: Tensor, bag: Tensor, cells: int) -> Tensor:
    """The product with the matrix transposed: out[c] = sum of weight[e] · rows[bag[e]] over the entries of cell c."""
    cell, order = cell.sort(stable=True)
    offsets = torch.searchsorted(cell, torch.arange(cells + 1, device=cell.device))
    return _Pool.apply(rows, weight[order], bag[order], offsets)


def _bag_of_entries(offsets: Int64[Tensor, "K1"], cell: Int64[Tensor, "E"]) -> Int64[Tensor, "E"]:
    bags = torch.arange(len(offsets) - 1, device=offsets.device)
    return bags.repeat_interleave(offsets.diff(), output_size=len(cell))
