"""RoIAlign (paper, section 3): average bilinear samples of a feature map in the bins of a box, rounding nothing.

Pooling is one sparse matrix product.  Rows are the bins (roi, ph, pw); columns are the cells of all images and all
levels, in one channels-last table [cells, C]; a bin's entries are the cells that its samples touch, with weights
that are made per axis (`sampling.py`) and multiplied out.  `bags.py` has the product and its derivatives.  With s
samples a bin has (2 s)² entries; adaptive sampling merges them to (s + 2)².

Axis letters: B images, C channels, H W map, L levels, R rois, PH PW bins, E entries, K bins of all rois.
Left out: rotated boxes; position-sensitive pooling.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from minimaskrcnn.ops.bags import weighted_bags
from minimaskrcnn.ops.sampling import axis_entries, merged_axis_entries, samples_per_bin


class _Rois(NamedTuple):
    """Boxes in cells of their own level, and where that map lies in the table."""

    boxes: Float[Tensor, "R 4"]
    first: Int64[Tensor, "R"]  # the table's row of cell (0, 0)
    height: Int64[Tensor, "R"]
    width: Int64[Tensor, "R"]


class _Entries(NamedTuple):
    """A sparse matrix with a row for each bin, as `weighted_bags` takes it."""

    weight: Float[Tensor, "E"]
    cell: Int64[Tensor, "E"]
    offsets: Int64[Tensor, "K_and_1"]


def roi_align(
    input: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "R 5"] | Sequence[Float[Tensor, "_ 4"]],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    *,
    validate: bool = False,
) -> Float[Tensor, "R C PH PW"]:
    """Pool `boxes` from `input`: torchvision's op, differentiable any number of times in `input` and in `boxes`.

    `boxes` are rows of (image index, x1, y1, x2, y2), or one [L, 4] for each image; `spatial_scale` takes their
    pixels to cells.  The result has the dtype of `input` and lies channels-last in memory; a channels_last `input`
    is read in place.  Half-precision features are cast to float32, a copy of twice their memory, and the result is
    rounded once.  Coordinates are float32, or float64 where boxes or features are.

    Raises ValueError for a bad shape and for an image index out of range: in lists, on the CPU, and anywhere with
    `validate=True`, which syncs.  Otherwise, on a GPU or in a compiled graph, that row is NaN and has no gradient.
    """
    rows, image_index = _rows_and_images(boxes, input)
    level = torch.zeros_like(image_index)
    check_index(image_index, len(input), validate)
    rois = _locate([input], rows, image_index, level, [spatial_scale])
    return _pool([input], rois, _known(image_index, input), output_size, sampling_ratio, aligned)


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
    validate: bool = False,
) -> Float[Tensor, "R C PH PW"]:
    """`roi_align` of each box on its own level of a feature pyramid (`fpn_levels`), all levels in one product.

    `features` come finest first; `strides` are their pixels per cell, each twice the one before.  The levels are
    copied into one table.  All else is as in `roi_align`, errors included.
    """
    if not features or len(features) != len(strides) or len(boxes) != len(image_index):
        raise ValueError(
            f"{len(features)} maps, strides {list(strides)}, boxes {tuple(boxes.shape)}, image_index "
            f"{tuple(image_index.shape)}: expected a stride for each map and an image for each box"
        )
    level = fpn_levels(boxes.detach(), strides, canonical_size, canonical_level)
    check_index(image_index, len(features[0]), validate)
    rois = _locate(features, boxes, image_index, level, [1 / stride for stride in strides])
    return _pool(features, rois, _known(image_index, features[0]), output_size, sampling_ratio, aligned)


def fpn_levels(
    boxes: Float[Tensor, "R 4"],
    strides: Sequence[int | float],
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Int64[Tensor, "R"]:
    """Equation 1 of the FPN paper, k = floor(4 + log2(sqrt(area) / 224)), as an index into `strides`.

    Level k has stride 2^k.  The result is clamped to the levels there are; 1e-6 keeps a box of exactly 224 pixels
    from falling a level short.  Raises ValueError unless each stride is twice the one before.
    """
    if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ValueError(f"strides {list(strides)}: expected each to be twice the one before")
    finest = round(math.log2(strides[0]))
    size = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    level = torch.floor(canonical_level + torch.log2(size / canonical_size) + 1e-6) - finest
    # An inverted box has no size (NaN): the finest level.
    return level.clamp(0, len(strides) - 1).nan_to_num(0).long()


def check_index(index: Int64[Tensor, "R"], count: int, validate: bool = False) -> None:
    """Raise ValueError for an index outside of 0..count - 1, where looking is free or asked for."""
    if torch.compiler.is_compiling() or not (validate or index.device.type == "cpu"):
        return
    wrong = index[(index < 0) | (index >= count)]
    if len(wrong):
        raise ValueError(
            f"index {int(wrong[0])}: expected 0..{count - 1}, one of the {count} images or masks"
        )


def _rows_and_images(
    boxes: Float[Tensor, "R 5"] | Sequence[Float[Tensor, "_ 4"]], input: Float[Tensor, "B C H W"]
) -> tuple[Float[Tensor, "R 4"], Int64[Tensor, "R"]]:
    """torchvision's two forms of boxes, as coordinates and image indices."""
    if isinstance(boxes, Tensor):
        if boxes.ndim != 2 or boxes.shape[1] != 5:
            raise ValueError(f"boxes {tuple(boxes.shape)}: expected [R, 5] of (image index, x1, y1, x2, y2)")
        return boxes[:, 1:], boxes[:, 0].detach().long()
    if len(boxes) > len(input) or any(b.ndim != 2 or b.shape[1] != 4 for b in boxes):
        shapes = [tuple(b.shape) for b in boxes]
        raise ValueError(f"boxes {shapes}: expected at most {len(input)}, the number of images, each [L, 4]")
    if not boxes:
        return input.new_zeros(0, 4), input.new_zeros(0, dtype=torch.int64)
    image_index = [b.new_full((len(b),), i, dtype=torch.int64) for i, b in enumerate(boxes)]
    return torch.cat(list(boxes)), torch.cat(image_index)


def _known(image_index: Int64[Tensor, "R"], feature: Float[Tensor, "B C H W"]) -> Bool[Tensor, "R"] | None:
    """Which rows have an image, where `check_index` could not look."""
    if image_index.device.type == "cpu" and not torch.compiler.is_compiling():
        return None
    return (image_index >= 0) & (image_index < len(feature))


def _locate(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    level: Int64[Tensor, "R"],
    scales: list[float],
) -> _Rois:
    dtype = torch.promote_types(torch.promote_types(features[0].dtype, boxes.dtype), torch.float32)
    maps, first = [], 0
    for feature in features:
        images, _, height, width = feature.shape
        maps.append((first, height, width))
        first += images * height * width
    first, height, width = _constants(maps, image_index)[level].unbind(1)
    first = first + image_index.clamp(0, len(features[0]) - 1) * height * width
    boxes = boxes.to(dtype)
    return _Rois(boxes * _constants([scales], boxes)[0, level, None], first, height, width)


def _constants(rows: Sequence[Sequence[int | float]], like: Tensor) -> Tensor:
    """Numbers as a tensor, by fills: a copy from the host would sync a GPU."""
    return torch.stack([torch.stack([like.new_full((), x) for x in row]) for row in rows])


def _pool(
    features: Sequence[Float[Tensor, "B C _ _"]],
    rois: _Rois,
    known: Bool[Tensor, "R"] | None,
    output_size: int | tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "R C PH PW"]:
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    if sampling_ratio > 0:
        entries = _fixed_entries(rois, height, width, sampling_ratio, aligned)
    else:
        entries = _adaptive_entries(rois, height, width, aligned)
    table = _channels_last_table(features)
    pooled = weighted_bags(table, entries.weight.to(table.dtype), entries.cell, entries.offsets)
    pooled = (
        pooled.view(len(rois.boxes), height, width, table.shape[1]).permute(0, 3, 1, 2).to(features[0].dtype)
    )
    return pooled if known is None else torch.where(known[:, None, None, None], pooled, torch.nan)


def _channels_last_table(features: Sequence[Float[Tensor, "B C _ _"]]) -> Float[Tensor, "cells C"]:
    """All cells as rows, level by level, image by image; a view of a single map that is channels_last."""
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    tables = [feature.permute(0, 2, 3, 1).flatten(0, 2).to(dtype) for feature in features]
    return tables[0] if len(tables) == 1 else torch.cat(tables)


def _fixed_entries(rois: _Rois, height: int, width: int, sampling_ratio: int, aligned: bool) -> _Entries:
    """(2 · sampling_ratio)² entries for each bin: all sizes are known beforehand."""
    x1, y1, x2, y2 = rois.boxes.unbind(1)
    count = torch.full_like(rois.first, sampling_ratio)
    y, wy = axis_entries(y1, y2, rois.height, height, count, sampling_ratio, aligned)
    x, wx = axis_entries(x1, x2, rois.width, width, count, sampling_ratio, aligned)
    y = y * rois.width[:, None, None] + rois.first[:, None, None]
    cell = y[:, :, None, :, None] + x[:, None, :, None, :]
    weight = wy[:, :, None, :, None] * wx[:, None, :, None, :]
    offsets = torch.arange(len(x1) * height * width + 1, device=cell.device) * (2 * sampling_ratio) ** 2
    return _Entries(weight.flatten(), cell.flatten(), offsets)


def _adaptive_entries(rois: _Rois, height: int, width: int, aligned: bool) -> _Entries:
    """(s + 2)² entries for each bin, s the samples that its box needs.  Host syncs: these sizes are data."""
    x1, y1, x2, y2 = rois.boxes.unbind(1)
    ny, nx = samples_per_bin(y1, y2, height, aligned), samples_per_bin(x1, x2, width, aligned)
    y, wy = merged_axis_entries(y1, y2, rois.height, height, ny, aligned)
    x, wx = merged_axis_entries(x1, x2, rois.width, width, nx, aligned)
    each = ((ny + 2) * (nx + 2)).repeat_interleave(height * width)
    offsets = torch.cat([each.new_zeros(1), each.cumsum(0)])
    bag = torch.arange(len(each), device=each.device).repeat_interleave(each)
    place = torch.arange(len(bag), device=each.device) - offsets[bag]
    roi, ph, pw = bag // (height * width), bag // width % height, bag % width
    row, column = place // (nx + 2)[roi], place % (nx + 2)[roi]
    cell = rois.first[roi] + y[roi, ph, row] * rois.width[roi] + x[roi, pw, column]
    return _Entries(wy[roi, ph, row] * wx[roi, pw, column], cell, offsets)
