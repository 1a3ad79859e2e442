"""The definitions as loops: slow, obviously right, the judge of every faster implementation.

Everything is computed one number at a time in Python's floats (float64).  Two exceptions are computed in the boxes'
own precision, by contract, because the last bit decides: the IoU inside `nms`, so that all implementations agree, and
the rounding of `roi_pool` and `roi_warp`, which chooses between cells.

Used by tests and lessons only.  Lesson 05, `lessons/05_roi_align.ipynb`, teaches the pooling of boxes.
"""

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from minimaskrcnn.ops.match_boxes import MatchedBoxes


def box_iou(boxes1: Num[Tensor, "N 4"], boxes2: Num[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """Intersection over union of each pair; NaN where the union is zero."""
    out = torch.zeros(len(boxes1), len(boxes2), dtype=torch.float64)
    for i, (ax1, ay1, ax2, ay2) in enumerate(boxes1.tolist()):
        for j, (bx1, by1, bx2, by2) in enumerate(boxes2.tolist()):
            inter = max(min(ax2, bx2) - max(ax1, bx1), 0.0) * max(min(ay2, by2) - max(ay1, by1), 0.0)
            union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - inter
            out[i, j] = inter / union if union != 0 else math.nan
    return out


def nms(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, "N"],
    iou_threshold: float,
    groups: Int64[Tensor, "N"] | None = None,
) -> Int64[Tensor, "K"]:
    """Sort by score descending, stable, ties to the lower index; keep a box iff no kept earlier box of its group
    has IoU > threshold; a degenerate union gives IoU 0."""
    group = [0] * len(boxes) if groups is None else groups.tolist()
    # Half precision has neither the areas nor the quotients.
    corners = (boxes if boxes.dtype == torch.float64 else boxes.float()).detach().cpu().numpy()
    kept: list[int] = []
    for j in sorted(range(len(boxes)), key=lambda row: -scores[row].item()):
        earlier = [i for i in kept if group[i] == group[j]]
        if not any(_nms_iou(corners[i], corners[j]) > iou_threshold for i in earlier):
            kept.append(j)
    return torch.tensor(kept, dtype=torch.int64)


def nms_padded(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int64[Tensor, "B N"] | None,
    valid: Bool[Tensor, "B N"],
    iou_threshold: float,
    max_keep: int,
) -> tuple[Int64[Tensor, "B max_keep"], Bool[Tensor, "B max_keep"]]:
    """`nms` of the valid rows of each image: the first `max_keep` survivors, and which entries are survivors."""
    index = torch.zeros(len(boxes), max_keep, dtype=torch.int64)
    kept = torch.zeros(len(boxes), max_keep, dtype=torch.bool)
    for b in range(len(boxes)):
        rows = torch.tensor([row for row, is_valid in enumerate(valid[b].tolist()) if is_valid]).long()
        group = None if groups is None else groups[b, rows]
        survivors = rows[nms(boxes[b, rows], scores[b, rows], iou_threshold, group)]
        for place, row in enumerate(survivors.tolist()[:max_keep]):
            index[b, place] = row
            kept[b, place] = True
    return index, kept


def _nms_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU in the arrays' precision, each operation rounded; 0 for a union without area."""
    zero = a.dtype.type(0)
    with np.errstate(over="ignore", invalid="ignore"):
        width = max(min(a[2], b[2]) - max(a[0], b[0]), zero)
        height = max(min(a[3], b[3]) - max(a[1], b[1]), zero)
        inter = width * height
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
        return float(inter / union) if union > 0 else 0.0


def match_boxes(
    gt_boxes: Float[Tensor, "B G 4"],
    gt_valid: Bool[Tensor, "B G"],
    boxes: Float[Tensor, "B K 4"],
    valid: Bool[Tensor, "B K"],
) -> MatchedBoxes:
    """For each box the largest IoU with a valid ground truth of its image, the first ground truth that has it, and
    whether some valid ground truth overlaps no valid box more than this one, and this one at all.

    IoU -1 and index 0 for a box that is not valid or has no valid ground truth.  A pair without union has IoU 0.
    """
    images, count = valid.shape
    iou = torch.full((images, count), -1.0, dtype=torch.float64)
    index = torch.zeros(images, count, dtype=torch.int64)
    best_for_gt = torch.zeros(images, count, dtype=torch.bool)
    for b in range(images):
        overlap = box_iou(gt_boxes[b], boxes[b]).nan_to_num(nan=0.0).tolist()
        asked = [k for k in range(count) if valid[b, k]]
        for g in (g for g in range(len(overlap)) if gt_valid[b, g]):
            highest = max((overlap[g][k] for k in asked), default=0.0)
            for k in asked:
                if overlap[g][k] > iou[b, k]:
                    iou[b, k] = overlap[g][k]
                    index[b, k] = g
                if overlap[g][k] == highest > 0:
                    best_for_gt[b, k] = True
    return MatchedBoxes(iou, index, best_for_gt)


def paste_mask(
    mask: Float[Tensor, "m m"], box: Float[Tensor, "4"], image_size: tuple[int, int], threshold: float = 0.5
) -> tuple[Bool[Tensor, "h w"], Float[Tensor, "h w"]]:
    """One mask resized onto its box pixel by pixel: where it exceeds the threshold, and its values."""
    height, width = image_size
    m = mask.shape[0]
    padded = torch.zeros(m + 2, m + 2, dtype=torch.float64)
    padded[1:-1, 1:-1] = mask
    samples = padded.tolist()
    x1, y1, x2, y2 = _grown(box.tolist(), (m + 2) / m)
    values = torch.zeros(height, width, dtype=torch.float64)
    for y in range(max(y1, 0), min(y2 + 1, height)):
        for x in range(max(x1, 0), min(x2 + 1, width)):
            # The centre of pixel i of n lies at (i + 0.5) / n of the mask, whose samples lie at (k + 0.5) / (m + 2).
            sy = max((y - y1 + 0.5) * (m + 2) / (y2 - y1 + 1) - 0.5, 0.0)
            sx = max((x - x1 + 0.5) * (m + 2) / (x2 - x1 + 1) - 0.5, 0.0)
            values[y, x] = bilinear(samples, sy, sx)
    return values > threshold, values


def paste_masks(
    masks: Float[Tensor, "n m m"],
    boxes: Float[Tensor, "n 4"],
    image_size: tuple[int, int],
    threshold: float | None = 0.5,
) -> Bool[Tensor, "n h w"] | Float[Tensor, "n h w"]:
    """`paste_mask` of each mask; with `threshold=None` its values."""
    out = torch.zeros(len(masks), *image_size, dtype=torch.float64 if threshold is None else torch.bool)
    for i, (mask, box) in enumerate(zip(masks, boxes)):
        inside, values = paste_mask(mask, box, image_size, threshold or 0.0)
        out[i] = values if threshold is None else inside
    return out


def run_lengths(bitmap: Bool[Tensor, "h w"]) -> list[int]:
    """How many pixels are background, then foreground, then background, ..., down the columns."""
    counts = [0]
    current = False
    for column in bitmap.T.tolist():
        for pixel in column:
            if pixel != current:
                counts.append(0)
                current = pixel
            counts[-1] += 1
    return counts


def _grown(box: list[float], factor: float) -> tuple[int, int, int, int]:
    """The box about its centre, `factor` times as large, cut towards zero to integers."""
    x1, y1, x2, y2 = box
    cx = (x1 + x2) / 2
    cy = (y1 + y2) / 2
    half_w = (x2 - x1) / 2 * factor
    half_h = (y2 - y1) / 2 * factor
    return int(cx - half_w), int(cy - half_h), int(cx + half_w), int(cy + half_h)


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
    # C's `round`: ROUND_HALF_UP takes halves away from zero.
    first, last = (int(Decimal(float(x)).to_integral_value(ROUND_HALF_UP)) for x in (start, end))
    return first, max(last - first + 1, 1)


def _cells_of_bins(start: np.floating, end: np.floating, bins: int, extent: int) -> list[range]:
    """The cells 0..extent - 1 that each bin of a box covers on one axis, those that it covers in part included."""
    first, length = _whole_cells(start, end)
    number = type(start)
    size = number(length) / number(bins)
    borders = [(math.floor(number(b) * size), math.ceil(number(b + 1) * size)) for b in range(bins)]
    return [range(*(min(max(first + border, 0), extent) for border in pair)) for pair in borders]
