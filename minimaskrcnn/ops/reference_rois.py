"""The definitions of the pooling of boxes as loops; `reference` is where to start, and re-exports these.

Everything is computed one number at a time in Python's floats (float64).  The exception is the rounding of `roi_pool`
and `roi_warp`, which by contract is computed in the boxes' own precision, because the last bit decides between cells.

Lesson 05, `lessons/05_roi_align.ipynb`, teaches this.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor


def bilinear(plane: list[list[float]], y: float, x: float) -> float:
    """Value between the four cells around a point of a plane [H][W].

    0 beyond one cell outside of the map and in a map without cells; the edge's value within that cell.
    """
    height = len(plane)
    width = len(plane[0]) if plane else 0
    if not height or not width or y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y = min(max(y, 0.0), height - 1)
    x = min(max(x, 0.0), width - 1)
    top = int(y)
    left = int(x)
    bottom = min(top + 1, height - 1)
    right = min(left + 1, width - 1)
    fy = y - top
    fx = x - left
    upper = (1 - fx) * plane[top][left] + fx * plane[top][right]
    lower = (1 - fx) * plane[bottom][left] + fx * plane[bottom][right]
    return (1 - fy) * upper + fy * lower


def roi_align(
    input: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "R 5"],
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    aligned: bool = False,
    mode: str = "avg",
) -> Float[Tensor, "R C PH PW"]:
    """Mean (or, with mode "max", largest) of regularly spaced bilinear samples in each bin of each box.

    `boxes` are rows of (image index, x1, y1, x2, y2).  A bin without samples is 0; a box that is not finite is NaN.
    """
    out = torch.zeros(len(boxes), input.shape[1], *output_size, dtype=torch.float64)
    for r, (image, *corners) in enumerate(boxes.tolist()):
        if not all(math.isfinite(corner) for corner in corners):
            out[r] = math.nan
            continue
        x1, y1, x2, y2 = (corner * spatial_scale - (0.5 if aligned else 0.0) for corner in corners)
        ys = _sample_points(y1, y2, output_size[0], sampling_ratio, aligned)
        xs = _sample_points(x1, x2, output_size[1], sampling_ratio, aligned)
        for c in range(input.shape[1]):
            plane = input[int(image), c].tolist()
            for ph, bin_ys in enumerate(ys):
                for pw, bin_xs in enumerate(xs):
                    samples = [bilinear(plane, y, x) for y in bin_ys for x in bin_xs]
                    if mode == "max":
                        out[r, c, ph, pw] = max(samples, default=0.0)
                    else:
                        out[r, c, ph, pw] = sum(samples) / max(len(samples), 1)
    return out


def _sample_points(
    start: float, end: float, bins: int, sampling_ratio: int, aligned: bool
) -> list[list[float]]:
    """Coordinates of the samples of each bin on one axis."""
    length = end - start if aligned else max(end - start, 1.0)
    count = sampling_ratio if sampling_ratio > 0 else max(math.ceil(length / bins), 0)
    size = length / bins
    return [[start + b * size + (i + 0.5) * size / count for i in range(count)] for b in range(bins)]


def multiscale_roi_align(
    features: Sequence[Float[Tensor, "B C _ _"]],
    boxes: Float[Tensor, "R 4"],
    image_index: Int64[Tensor, "R"],
    output_size: tuple[int, int],
    strides: Sequence[int | float],
    *,
    sampling_ratio: int,
    aligned: bool,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
    mode: str = "avg",
) -> Float[Tensor, "R C PH PW"]:
    """`roi_align` of each box on the level that `fpn_level` gives it."""
    out = torch.zeros(len(boxes), features[0].shape[1], *output_size, dtype=torch.float64)
    for r, box in enumerate(boxes):
        level = fpn_level(box, list(strides), canonical_size, canonical_level)
        roi = torch.cat([image_index[r : r + 1].to(box), box])[None]
        out[r] = roi_align(
            features[level], roi, output_size, 1 / strides[level], sampling_ratio, aligned, mode
        )[0]
    return out


def fpn_level(
    box: Num[Tensor, "4"], strides: list[float], canonical_size: float = 224.0, canonical_level: int = 4
) -> int:
    """Equation 1 of the FPN paper, as an index into `strides`: a box of 224 pixels belongs to level 4, stride 16."""
    x1, y1, x2, y2 = box.tolist()
    area = (x2 - x1) * (y2 - y1)
    finest = round(math.log2(strides[0]))
    if area <= 0:
        return 0
    level = math.floor(canonical_level + math.log2(math.sqrt(area) / canonical_size) + 1e-6)
    return min(max(level, finest), finest + len(strides) - 1) - finest


def roi_pool(
    input: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "R 5"],
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
) -> Float[Tensor, "R C PH PW"]:
    """Largest cell of each bin, of a box whose corners are rounded to cells.

    `boxes` are rows of (image index, x1, y1, x2, y2).  A bin without cells is 0; NaN cells are passed over; a box
    that is not finite is NaN.  Rounding, and the borders of bins, are computed in the precision of the boxes
    (float64 with float64 features), because the last bit decides which cells a bin has.
    """
    out = torch.zeros(len(boxes), input.shape[1], *output_size, dtype=torch.float64)
    for r, (image, x1, y1, x2, y2) in enumerate(_in_cells(boxes, input, spatial_scale)):
        if not all(np.isfinite([x1, y1, x2, y2])):
            out[r] = math.nan
            continue
        rows = _cells_of_bins(y1, y2, output_size[0], input.shape[2])
        columns = _cells_of_bins(x1, x2, output_size[1], input.shape[3])
        for c in range(input.shape[1]):
            plane = input[int(image), c].tolist()
            for ph, bin_rows in enumerate(rows):
                for pw, bin_columns in enumerate(columns):
                    cells = [plane[y][x] for y in bin_rows for x in bin_columns]
                    numbers = [cell for cell in cells if not math.isnan(cell)]
                    out[r, c, ph, pw] = max(numbers, default=-math.inf if cells else 0.0)
    return out


def roi_warp(
    input: Float[Tensor, "B C H W"],
    boxes: Float[Tensor, "R 5"],
    output_size: tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = -1,
    mode: str = "avg",
) -> Float[Tensor, "R C PH PW"]:
    """Bilinear samples, as in `roi_align`, of the whole cells that `roi_pool` gives a box: cell i is [i, i + 1)."""
    cells = boxes.double().clone()
    for r, (_, *corners) in enumerate(_in_cells(boxes, input, spatial_scale)):
        if all(np.isfinite(corners)):
            left, width = _whole_cells(*corners[0::2])
            top, height = _whole_cells(*corners[1::2])
            cells[r, 1:] = torch.tensor([left, top, left + width, top + height])
    return roi_align(input, cells, output_size, 1.0, sampling_ratio, aligned=True, mode=mode)


def _in_cells(boxes: Float[Tensor, "R 5"], input: Tensor, spatial_scale: float) -> np.ndarray:
    """Rows of (image index, x1, y1, x2, y2), the corners times the scale, each product rounded once."""
    dtype = torch.promote_types(torch.promote_types(boxes.dtype, input.dtype), torch.float32)
    rows = boxes.detach().to(dtype).numpy()
    return np.concatenate([rows[:, :1], rows[:, 1:] * rows.dtype.type(spatial_scale)], 1)


def _whole_cells(start: np.floating, end: np.floating) -> tuple[int, int]:
    """The first cell of a box on one axis, and how many there are: at least 1, the last one included."""
    first = _half_away_from_zero(float(start))
    last = _half_away_from_zero(float(end))
    return first, max(last - first + 1, 1)


def _half_away_from_zero(x: float) -> int:
    """C's `round`."""
    whole = math.trunc(x)
    return whole + int(math.copysign(1, x)) if abs(x - whole) >= 0.5 else whole


def _cells_of_bins(start: np.floating, end: np.floating, bins: int, extent: int) -> list[range]:
    """The cells 0..extent - 1 that each bin of a box covers on one axis, those that it covers in part included."""
    first, length = _whole_cells(start, end)
    number = type(start)
    size = number(length) / number(bins)
    borders = [(math.floor(number(b) * size), math.ceil(number(b + 1) * size)) for b in range(bins)]
    return [range(*(min(max(first + border, 0), extent) for border in pair)) for pair in borders]
