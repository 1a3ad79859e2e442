"""What RoIAlign, RoIPool and RoIWarp share: the request, boxes in cells of their own map, and one table of all cells.

A table has a row of C numbers for each cell: level by level, image by image, row by row.  That is how a channels_last
map lies in memory anyway, and a pooled bin needs all channels of a few cells.

What cannot be pooled, an unknown image or a box that is not finite, is known beforehand, row by row.  Such a box is
pooled as zeros and its row then filled with NaN, so that no NaN travels back into anybody's gradient.

Axis letters: B images, C channels, H W map, L levels, R rois, PH PW bins.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from minimaskrcnn.ops.levels import reached_levels


@dataclass(frozen=True, kw_only=True)
class PoolingRequest:
    """What is pooled, from where, and how: the one object that every step of a pooling is given.

    Raises ValueError for what does not fit together, a scale that is not finite and an unknown mode, TypeError for a
    wrong dtype.  Whether the images exist is `check_index`'s question.
    """

    features: Sequence[Float[Tensor, "B C _ _"]]
    """L maps, finest first."""
    boxes: Float[Tensor, "R 4"]
    """In pixels of the images."""
    image_index: Int64[Tensor, "R"]
    output_size: tuple[int, int]
    """Bins (PH, PW)."""
    scales: Sequence[float]
    """Cells a pixel, of each map."""
    areas: Sequence[float] = (0.0,)
    """The smallest box that each map is read for, square pixels; the first is not used."""
    sampling_ratio: int = 0
    """Samples per bin and axis; 0 or less takes as many as the bin has cells.  RoIPool has no samples."""
    aligned: bool = False
    """Shift by half a cell, so that a cell's value lies at its centre."""
    mode: str = "avg"
    """The average ("avg") or the largest ("max") of a bin's samples."""
    quantise: bool = False
    """Grow each box to whole cells first (RoIWarp)."""

    def __post_init__(self) -> None:
        if not self.features or len(self.features) != len(self.scales):
            maps = f"{len(self.features)} maps, scales {list(self.scales)}"
            raise ValueError(f"{maps}: expected a stride for each map, and so a scale")
        one = self.features[0]
        boxes = self.boxes
        image_index = self.image_index
        if any(f.ndim != 4 or f.shape[:2] != one.shape[:2] for f in self.features):
            shapes = [tuple(f.shape) for f in self.features]
            raise ValueError(f"features {shapes}: expected [B, C, H, W], the same B and C on all levels")
        if boxes.shape != (len(image_index), 4) or image_index.ndim != 1:
            shapes = f"boxes {tuple(boxes.shape)}, image_index {tuple(image_index.shape)}"
            raise ValueError(f"{shapes}: expected [R, 4] and [R]")
        if not one.is_floating_point() or not boxes.is_floating_point():
            raise TypeError(f"features {one.dtype}, boxes {boxes.dtype}: expected floating point")
        if image_index.dtype != torch.int64:
            raise TypeError(f"image_index {image_index.dtype}: expected int64")
        if any(f.dtype != one.dtype for f in self.features):
            raise ValueError(f"features {[f.dtype for f in self.features]}: expected one dtype")
        if any(t.device != one.device for t in (*self.features, boxes, image_index)):
            places = f"{[str(f.device) for f in self.features]}, boxes on {boxes.device}"
            raise ValueError(f"features on {places}, image_index on {image_index.device}: expected one device")
        if not all(math.isfinite(scale) for scale in self.scales):
            raise ValueError(f"scales {list(self.scales)}: expected finite numbers")
        if self.mode not in ("avg", "max"):
            raise ValueError(f"mode {self.mode!r}: expected 'avg' or 'max'")


class BoxesInCells(NamedTuple):
    """Boxes in cells of their own map, and where that map lies in the table."""

    boxes: Float[Tensor, "R 4"]
    first: Int64[Tensor, "R"]  # the table's row of cell (0, 0)
    height: Int64[Tensor, "R"]
    width: Int64[Tensor, "R"]
    known: Bool[Tensor, "R"] | None  # which rows can be pooled; None where all of them can


def rows_and_images(
    boxes: Float[Tensor, "R 5"] | Sequence[Float[Tensor, "_ 4"]], input: Float[Tensor, "B C H W"]
) -> tuple[Float[Tensor, "R 4"], Int64[Tensor, "R"]]:
    """torchvision's two forms of boxes, as coordinates and image indices; ValueError for any other shape."""
    if isinstance(boxes, Tensor):
        if boxes.ndim != 2 or boxes.shape[1] != 5:
            raise ValueError(f"boxes {tuple(boxes.shape)}: expected [R, 5] of (image index, x1, y1, x2, y2)")
        return boxes[:, 1:], boxes[:, 0].detach().nan_to_num(nan=-1).long()
    if len(boxes) > len(input) or any(b.ndim != 2 or b.shape[1] != 4 for b in boxes):
        shapes = [tuple(b.shape) for b in boxes]
        raise ValueError(f"boxes {shapes}: expected at most {len(input)}, the number of images, each [L, 4]")
    if not boxes:
        return input.new_zeros(0, 4), input.new_zeros(0, dtype=torch.int64)
    image_index = [b.new_full((len(b),), i, dtype=torch.int64) for i, b in enumerate(boxes)]
    return torch.cat(list(boxes)), torch.cat(image_index)


def bins_of(output_size: int | tuple[int, int]) -> tuple[int, int]:
    """(PH, PW) of an output size; TypeError unless it is one or two integers, ValueError unless both are above 0."""
    size = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    if len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise TypeError(f"output_size {output_size}: expected an integer or two")
    if min(size) <= 0:
        raise ValueError(f"output_size {output_size}: expected numbers above 0")
    return size[0], size[1]


def check_index(index: Int64[Tensor, "R"], count: int, validate: bool = False) -> None:
    """Raise ValueError for an index outside of 0..count - 1, where looking is free or asked for."""
    if torch.compiler.is_compiling() or not (validate or index.device.type == "cpu"):
        return
    wrong = index[(index < 0) | (index >= count)]
    if len(wrong):
        raise ValueError(f"index {int(wrong[0])}: expected 0..{count - 1}, one of the {count} images or masks")


def locate(request: PoolingRequest) -> BoxesInCells:
    """The boxes in cells, each of its own level's map: float32, or float64 where boxes or features are."""
    image_index = request.image_index
    images = len(request.features[0])
    shapes = []
    rows = 0
    for count, _, height, width in (with_a_cell(feature).shape for feature in request.features):
        shapes.append((rows, height, width))
        rows += count * height * width
    level = reached_levels(request.boxes.detach(), request.areas)
    first, height, width = _constants(shapes, image_index)[level].unbind(1)
    first = first + image_index.clamp(0, max(images, 1) - 1) * height * width
    dtype = torch.promote_types(request.features[0].dtype, request.boxes.dtype)
    cells = request.boxes.to(torch.promote_types(dtype, torch.float32))
    cells = cells * _constants([request.scales], cells)[0, level, None]
    finite = (cells[:, 2:] - cells[:, :2]).detach().isfinite().all(1)
    known = (image_index >= 0) & (image_index < images) & finite
    if known.device.type == "cpu" and not torch.compiler.is_compiling() and known.all():
        return BoxesInCells(cells, first, height, width, None)
    return BoxesInCells(torch.where(known[:, None], cells, 0), first, height, width, known)


def cell_table(features: Sequence[Float[Tensor, "B C _ _"]]) -> Float[Tensor, "cells C"]:
    """All cells as rows, level by level, image by image; a view of a single map that is channels_last."""
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    tables = [with_a_cell(feature).permute(0, 2, 3, 1).flatten(0, 2).to(dtype) for feature in features]
    return tables[0] if len(tables) == 1 else torch.cat(tables)


def as_output(
    pooled: Float[Tensor, "K C"], located: BoxesInCells, request: PoolingRequest
) -> Float[Tensor, "R C PH PW"]:
    """One row per bin as the result of a pooling: channels-last in memory, NaN where a roi is not known."""
    grid = pooled.view(len(located.boxes), *request.output_size, pooled.shape[1])
    grid = grid.permute(0, 3, 1, 2).to(request.features[0].dtype)
    return grid if located.known is None else torch.where(located.known[:, None, None, None], grid, torch.nan)


def with_a_cell(feature: Float[Tensor, "B C H W"]) -> Float[Tensor, "B1 C H1 W1"]:
    """A map without images, rows or columns gets one of zeros, so that every roi has a cell to be read from."""
    images, _, height, width = feature.shape
    if images and height and width:
        return feature
    return pad(feature, (0, int(not width), 0, int(not height), 0, 0, 0, int(not images)))


def _constants(rows: Sequence[Sequence[int | float]], like: Tensor) -> Tensor:
    """Numbers as a tensor, by fills: a copy from the host would sync a GPU."""
    return torch.stack([torch.stack([like.new_full((), x) for x in row]) for row in rows])
