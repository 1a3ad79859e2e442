"""RoIAlign (paper, section 3): average bilinear samples of a feature map in the bins of a box, rounding nothing.

Pooling is one sparse matrix product.  Rows are the bins (roi, ph, pw); columns are the cells of all images and all
levels, in one channels-last table [cells, C] (`rois.py`); a bin's entries are the cells that its samples touch, with
weights that are made per axis (`sampling.py`) and multiplied out.  `bags.py` has the product and its derivatives.
With s samples a side a bin has (2 s)² entries; adaptive sampling merges them to (s + 2)².

The largest sample instead of their average (paper, table 2c) needs each of them: rows are then the samples, of four
entries each, and the maximum of a bin is taken after the product.

Axis letters: B images, C channels, H W map, L levels, R rois, PH PW bins, E entries, K bins of all rois.
Left out: rotated boxes; position-sensitive pooling.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from minimaskrcnn.ops.backend import Backend, takes, use_triton
from minimaskrcnn.ops.bags import weighted_bags
from minimaskrcnn.ops.rois import (
    Rois,
    Sampling,
    as_output,
    bins_of,
    cell_table,
    check_levels,
    check_mode,
    check_pooling,
    locate,
    quantised,
    rows_and_images,
)
from minimaskrcnn.ops.sampling import axis_samples, merged_axis_entries, samples_per_bin


class _Entries(NamedTuple):
    """A sparse matrix with a row for each bin or sample, as `weighted_bags` takes it."""

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
    how = Sampling(bins_of(output_size), sampling_ratio, aligned, check_mode(mode))
    return pool([input], rows, image_index, [spatial_scale], [0.0], how, backend, validate)


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
    check_levels(features, boxes, image_index, strides)
    how = Sampling(bins_of(output_size), sampling_ratio, aligned, check_mode(mode))
    areas = level_areas(strides, canonical_size, canonical_level)
    scales = [1 / stride for stride in strides]
    return pool(features, boxes, image_index, scales, areas, how, backend, validate)


def fpn_levels(
    boxes: Float[Tensor, "R 4"],
    strides: Sequence[int | float],
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Int64[Tensor, "R"]:
    """Equation 1 of the FPN paper, k = floor(4 + log2(sqrt(area) / 224)), as an index into `strides`.

    Level k has stride 2^k.  The result is clamped to the levels there are; an inverted box has no size: the finest.
    Raises ValueError unless strides are above 0 and each is twice the one before.
    """
    return _levels(boxes, level_areas(strides, canonical_size, canonical_level))


def level_areas(strides: Sequence[int | float], canonical_size: float, canonical_level: int) -> list[float]:
    """The smallest area of each level's boxes: `fpn_levels` without a logarithm, so with the same bits everywhere.

    1e-6 of a level keeps a box of exactly 224 pixels from falling a level short.  The finest level's is not used.
    """
    if not strides[0] > 0 or any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ValueError(f"strides {list(strides)}: expected each to be twice the one before")
    finest = round(math.log2(strides[0])) - canonical_level
    return [(canonical_size * 2 ** (finest + i - 1e-6)) ** 2 for i in range(len(strides))]


def _levels(boxes: Float[Tensor, "R 4"], areas: Sequence[float]) -> Int64[Tensor, "R"]:
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    level = torch.zeros_like(area, dtype=torch.int64)
    for smallest in areas[1:]:
        level = level + (area >= smallest)
    return level


def pool(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    scales: Sequence[float],
    areas: Sequence[float],
    how: Sampling,
    backend: Backend,
    validate: bool,
) -> Float[Tensor, "R C PH PW"]:
    """Pool boxes in pixels from the levels whose smallest `areas` they reach, with `scales` cells a pixel."""
    check_pooling(features, boxes, image_index, scales, validate)
    if use_triton(backend, features[0]) and takes(features[0], boxes, backend):
        from minimaskrcnn.ops.triton_rois import pool_by_triton

        return pool_by_triton(features, boxes, image_index, scales, areas, how)
    return pool_by_torch(features, boxes, image_index, scales, areas, how)


def pool_by_torch(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    scales: Sequence[float],
    areas: Sequence[float],
    how: Sampling,
) -> Float[Tensor, "R C PH PW"]:
    """`pool` by the torch path."""
    rois = locate(features, boxes, image_index, _levels(boxes.detach(), areas), scales)
    if how.quantise:
        rois = quantised(rois)
    return pool_samples(features, rois, how)


def pool_samples(
    features: Sequence[Float[Tensor, "B C _ _"]],
    rois: Rois,
    how: Sampling,
) -> Float[Tensor, "R C PH PW"]:
    """The average or the largest bilinear sample of each bin, from maps that `locate` has seen."""
    (height, width), sampling_ratio, aligned, mode, _ = how
    table = cell_table(features)
    if mode == "max":
        pooled = _largest_samples(table, rois, height, width, sampling_ratio, aligned)
    else:
        if sampling_ratio > 0:
            entries = _fixed_entries(rois, height, width, sampling_ratio, aligned)
        else:
            entries = _adaptive_entries(rois, height, width, aligned)
        pooled = weighted_bags(table, entries.weight.to(table.dtype), entries.cell, entries.offsets)
    return as_output(pooled, rois, height, width, features[0].dtype)


def _fixed_entries(rois: Rois, height: int, width: int, sampling_ratio: int, aligned: bool) -> _Entries:
    """(2 · sampling_ratio)² entries for each bin: all sizes are known beforehand."""
    cell, weight = _bin_samples(rois, sampling_ratio, sampling_ratio, height, width, aligned)
    each = 4 * sampling_ratio**2
    offsets = torch.arange(len(rois.boxes) * height * width + 1, device=cell.device) * each
    return _Entries(weight.flatten() / sampling_ratio**2, cell.flatten(), offsets)


def _adaptive_entries(rois: Rois, height: int, width: int, aligned: bool) -> _Entries:
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


def _largest_samples(
    table: Float[Tensor, "cells C"], rois: Rois, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Float[Tensor, "K C"]:
    """The largest sample of each bin; 0 for a bin without samples."""
    if sampling_ratio > 0:
        order, groups = None, [_Group(rois, sampling_ratio, sampling_ratio)]
    else:
        order, groups = _by_samples(rois, height, width, aligned)
    entries = [_bin_samples(*group, height, width, aligned) for group in groups]
    cell = torch.cat([cell.flatten() for cell, _ in entries])
    weight = torch.cat([weight.flatten() for _, weight in entries]).to(table.dtype)
    offsets = torch.arange(len(cell) // 4 + 1, device=cell.device) * 4
    bins = [len(group.rois.boxes) * height * width for group in groups]
    samples = weighted_bags(table, weight, cell, offsets)
    pieces = samples.split([count * group.ny * group.nx for count, group in zip(bins, groups)])
    pooled = torch.cat([_first_largest(piece, count) for piece, count in zip(pieces, bins)])
    if order is None:
        return pooled
    return pooled.unflatten(0, (len(order), -1)).index_select(0, order.argsort()).flatten(0, 1)


class _Group(NamedTuple):
    """Rois that take ny · nx samples a bin."""

    rois: Rois
    ny: int
    nx: int


def _by_samples(
    rois: Rois, height: int, width: int, aligned: bool
) -> tuple[Int64[Tensor, "R"] | None, list[_Group]]:
    """Rois grouped by the samples that they need, and their order in the groups.  Host syncs: sizes are data."""
    x1, y1, x2, y2 = rois.boxes.unbind(1)
    ny, nx = samples_per_bin(y1, y2, height, aligned), samples_per_bin(x1, x2, width, aligned)
    pairs, group, counts = torch.stack([ny, nx], 1).unique(dim=0, return_inverse=True, return_counts=True)
    if not len(pairs):
        return None, [_Group(rois, 0, 0)]
    order = group.argsort()
    members = order.split(counts.tolist())
    parts = [Rois(*(t if t is None else t.index_select(0, rows) for t in rois)) for rows in members]
    return order, [_Group(part, *pair) for part, pair in zip(parts, pairs.tolist())]


def _bin_samples(
    rois: Rois, ny: int, nx: int, height: int, width: int, aligned: bool
) -> tuple[Int64[Tensor, "R PH PW ny nx 2 2"], Float[Tensor, "R PH PW ny nx 2 2"]]:
    """The four cells of each sample of each bin, and their bilinear weights."""
    x1, y1, x2, y2 = rois.boxes.unbind(1)
    y, wy = axis_samples(y1, y2, rois.height, height, torch.full_like(rois.first, ny), ny, aligned)
    x, wx = axis_samples(x1, x2, rois.width, width, torch.full_like(rois.first, nx), nx, aligned)
    y = y * rois.width[:, None, None, None] + rois.first[:, None, None, None]
    cell = y[:, :, None, :, None, :, None] + x[:, None, :, None, :, None, :]
    return cell, wy[:, :, None, :, None, :, None] * wx[:, None, :, None, :, None, :]


def _first_largest(samples: Float[Tensor, "S C"], bins: int) -> Float[Tensor, "bins C"]:
    """The largest of each run of S / bins samples; its gradient goes to the first of equal ones."""
    if not len(samples):
        return pad(samples, (0, 0, 0, bins))
    runs = samples.view(bins, len(samples) // bins, samples.shape[1])
    # amax splits its gradient among equal numbers, max does not; where no one asks, amax took a quarter of the time.
    return runs.max(1).values if runs.requires_grad else runs.amax(1)
