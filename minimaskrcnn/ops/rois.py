"""What RoIAlign, RoIPool and RoIWarp share: boxes in cells of their own map, and all maps as one table of cells.

A table has a row of C numbers for each cell: level by level, image by image, row by row.  That is how a channels_last
map lies in memory anyway, and a pooled bin needs all channels of a few cells.

What cannot be pooled, an unknown image or a box that is not finite, is known beforehand, row by row.  Such a box is
pooled as zeros and its row then filled with NaN, so that no NaN travels back into anybody's gradient.

Axis letters: B images, C channels, H W map, L levels, R rois, PH PW bins.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

# Corners are clamped to this many cells, so that neither they nor sides overflow.
FARTHEST = 2.0**30


class Rois(NamedTuple):
    """Boxes in cells of their own map, and where that map lies in the table."""

    boxes: Float[Tensor, "R 4"]
    first: Int64[Tensor, "R"]
    """The table's row of cell (0, 0)."""
    height: Int64[Tensor, "R"]
    width: Int64[Tensor, "R"]
    known: Bool[Tensor, "R"] | None
    """Which rows can be pooled; None where all of them can."""


class Sampling(NamedTuple):
    """How boxes are pooled: `size` (PH, PW), samples per bin and axis (0 or less: adaptive), and the rest."""

    size: tuple[int, int]
    ratio: int
    aligned: bool
    mode: str
    quantise: bool = False
    """Grow each box to whole cells first (RoIWarp)."""


def rows_and_images(
    boxes: Float[Tensor, "R 5"] | Sequence[Float[Tensor, "_ 4"]], input: Float[Tensor, "B C H W"]
) -> tuple[Float[Tensor, "R 4"], Int64[Tensor, "R"]]:
    """torchvision's two forms of boxes, as coordinates and image indices."""
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


def check_index(index: Int64[Tensor, "R"], count: int, validate: bool = False) -> None:
    """Raise ValueError for an index outside of 0..count - 1, where looking is free or asked for."""
    if torch.compiler.is_compiling() or not (validate or index.device.type == "cpu"):
        return
    wrong = index[(index < 0) | (index >= count)]
    if len(wrong):
        raise ValueError(
            f"index {int(wrong[0])}: expected 0..{count - 1}, one of the {count} images or masks"
        )


def bins_of(output_size: int | tuple[int, int]) -> tuple[int, int]:
    """(PH, PW) of an output size; TypeError unless it is one or two integers, ValueError unless both are above 0."""
    size = output_size if isinstance(output_size, Sequence) else (output_size, output_size)
    if len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise TypeError(f"output_size {output_size}: expected an integer or two")
    height, width = size
    if height <= 0 or width <= 0:
        raise ValueError(f"output_size {output_size}: expected numbers above 0")
    return height, width


def check_mode(mode: str) -> str:
    """`mode`; ValueError unless it is "avg" or "max"."""
    if mode not in ("avg", "max"):
        raise ValueError(f"mode {mode!r}: expected 'avg' or 'max'")
    return mode


def check_pooling(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    scales: Sequence[float],
    validate: bool = False,
) -> None:
    """TypeError for features or boxes that are not floating point, ValueError for those that do not fit together and,
    where `check_index` may look, for an unknown image."""
    one = features[0]
    if any(f.ndim != 4 or f.shape[:2] != one.shape[:2] for f in features):
        shapes = [tuple(f.shape) for f in features]
        raise ValueError(f"features {shapes}: expected [B, C, H, W], the same B and C on all levels")
    if any(f.dtype != one.dtype or f.device != one.device for f in features):
        kinds = [f"{f.dtype} on {f.device}" for f in features]
        raise ValueError(f"features {kinds}: expected one dtype and one device")
    if not one.is_floating_point() or not boxes.is_floating_point():
        raise TypeError(f"features {one.dtype}, boxes {boxes.dtype}: expected floating point")
    if boxes.shape != (len(image_index), 4) or image_index.ndim != 1:
        raise ValueError(
            f"boxes {tuple(boxes.shape)}, image_index {tuple(image_index.shape)}: expected [R, 4] and [R]"
        )
    if image_index.dtype != torch.int64:
        raise TypeError(f"image_index {image_index.dtype}: expected int64")
    if boxes.device != one.device or image_index.device != one.device:
        raise ValueError(
            f"features on {one.device}, boxes on {boxes.device}, image_index on {image_index.device}: "
            f"expected one device"
        )
    if not all(math.isfinite(scale) for scale in scales):
        raise ValueError(f"scales {list(scales)}: expected finite numbers")
    check_index(image_index, len(one), validate)


def check_levels(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    strides: Sequence[int | float],
) -> None:
    """ValueError unless there is a stride for each map and an image for each box."""
    if not features or len(features) != len(strides) or boxes.shape != (len(image_index), 4):
        raise ValueError(
            f"{len(features)} maps, strides {list(strides)}, boxes {tuple(boxes.shape)}, image_index "
            f"{tuple(image_index.shape)}: expected a stride for each map and an image for each box"
        )


def locate(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    level: Int64[Tensor, "R"],
    scales: Sequence[float],
) -> Rois:
    """`boxes` in pixels of images, each with its image and its level, in cells of that level's map.

    float32, or float64 where boxes or features are.  All of it has passed `check_pooling`.
    """
    dtype = torch.promote_types(torch.promote_types(features[0].dtype, boxes.dtype), torch.float32)
    maps, first = [], 0
    for feature in features:
        images, _, height, width = with_a_cell(feature).shape
        maps.append((first, height, width))
        first += images * height * width
    first, height, width = _constants(maps, image_index)[level].unbind(1)
    first = first + image_index.clamp(0, max(len(features[0]), 1) - 1) * height * width
    cells = boxes.to(dtype)
    cells = cells * _constants([scales], cells)[0, level, None]
    known = _known(image_index, len(features[0]), cells)
    if known is not None:
        cells = torch.where(known[:, None], cells, 0)
    return Rois(cells, first, height, width, known)


def quantised(rois: Rois) -> Rois:
    """Each box grown to the whole cells that RoIPool reads: cell i covers i..i + 1."""
    corner, size = whole_cells(rois.boxes.detach()).split(2, 1)
    return rois._replace(boxes=torch.cat([corner, corner + size], 1).to(rois.boxes.dtype))


def cell_table(features: Sequence[Float[Tensor, "B C _ _"]]) -> Float[Tensor, "cells C"]:
    """All cells as rows, level by level, image by image; a view of a single map that is channels_last."""
    dtype = torch.promote_types(features[0].dtype, torch.float32)
    tables = [with_a_cell(feature).permute(0, 2, 3, 1).flatten(0, 2).to(dtype) for feature in features]
    return tables[0] if len(tables) == 1 else torch.cat(tables)


def as_output(
    pooled: Float[Tensor, "K C"], rois: Rois, height: int, width: int, dtype: torch.dtype
) -> Float[Tensor, "R C PH PW"]:
    """One row per bin as the result of a pooling: channels-last in memory, NaN where a roi is not known."""
    grid = pooled.view(len(rois.boxes), height, width, pooled.shape[1]).permute(0, 3, 1, 2).to(dtype)
    return grid if rois.known is None else torch.where(rois.known[:, None, None, None], grid, torch.nan)


def with_a_cell(feature: Float[Tensor, "B C H W"]) -> Float[Tensor, "B1 C H1 W1"]:
    """A map without images, rows or columns gets one of zeros, so that every roi has a cell to be read from."""
    images, _, height, width = feature.shape
    if images and height and width:
        return feature
    return pad(feature, (0, int(not width), 0, int(not height), 0, 0, 0, int(not images)))


def _known(
    image_index: Int64[Tensor, "R"], count: int, cells: Float[Tensor, "R 4"]
) -> Bool[Tensor, "R"] | None:
    """Which rows have an image and a box of finite corners and sides."""
    finite = (cells[:, 2:] - cells[:, :2]).detach().isfinite().all(1)
    known = (image_index >= 0) & (image_index < count) & finite
    if known.device.type == "cpu" and not torch.compiler.is_compiling() and known.all():
        return None
    return known


def _constants(rows: Sequence[Sequence[int | float]], like: Tensor) -> Tensor:
    """Numbers as a tensor, by fills: a copy from the host would sync a GPU."""
    return torch.stack([torch.stack([like.new_full((), x) for x in row]) for row in rows])


# A custom op: no compiler may contract or reorder its rounding.
@torch.library.custom_op("minimaskrcnn::whole_cells", mutates_args=())
def whole_cells(boxes: Tensor) -> Tensor:
    """The cells of boxes [R, 4]: int64 (left, top, columns, rows), at least one of each, the last one included."""
    corners = _half_away_from_zero(boxes.clamp(-FARTHEST, FARTHEST)).long()
    return torch.cat([corners[:, :2], (corners[:, 2:] - corners[:, :2] + 1).clamp(min=1)], 1)


@whole_cells.register_fake
def _(boxes):
    return boxes.new_empty(boxes.shape, dtype=torch.int64)


def _half_away_from_zero(x: Float[Tensor, "*N"]) -> Float[Tensor, "*N"]:
    """C's `round`.  torch's takes halves to even numbers; floor(x + 0.5) is wrong next to a half."""
    whole = x.trunc()
    return whole + ((x - whole).abs() >= 0.5) * x.sign()
