"""The definitions as loops: slow, obviously right, the judge of every faster implementation.

Everything is computed one number at a time in Python's floats (float64).  The one exception is the IoU inside
`nms`, which by contract is computed in the boxes' own precision, so that all implementations agree to the last bit.

Used by tests and lessons only.
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor


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
    corners = boxes.detach().cpu().numpy()
    kept: list[int] = []
    for j in sorted(range(len(boxes)), key=lambda row: -scores[row].item()):
        earlier = [i for i in kept if group[i] == group[j]]
        if not any(_nms_iou(corners[i], corners[j]) > iou_threshold for i in earlier):
            kept.append(j)
    return torch.tensor(kept, dtype=torch.int64)


def _nms_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU in the arrays' precision, each operation rounded; 0 for a union without area."""
    zero = a.dtype.type(0)
    with np.errstate(over="ignore", invalid="ignore"):
        width = max(min(a[2], b[2]) - max(a[0], b[0]), zero)
        height = max(min(a[3], b[3]) - max(a[1], b[1]), zero)
        inter = width * height
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
        return float(inter / union) if union > 0 else 0.0


def bilinear(plane: list[list[float]], y: float, x: float) -> float:
    """Value between the four cells around a point of a plane [H][W].

    0 beyond one cell outside of the map, the edge's value within that cell.
    """
    height, width = len(plane), len(plane[0])
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    fy, fx = y - top, x - left
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
) -> Float[Tensor, "R C PH PW"]:
    """Mean of regularly spaced bilinear samples in each bin of each box, (image index, x1, y1, x2, y2)."""
    out = torch.zeros(len(boxes), input.shape[1], *output_size, dtype=torch.float64)
    for r, (image, *corners) in enumerate(boxes.tolist()):
        x1, y1, x2, y2 = (corner * spatial_scale - (0.5 if aligned else 0.0) for corner in corners)
        ys = _sample_points(y1, y2, output_size[0], sampling_ratio, aligned)
        xs = _sample_points(x1, x2, output_size[1], sampling_ratio, aligned)
        for c in range(input.shape[1]):
            plane = input[int(image), c].tolist()
            for ph, bin_ys in enumerate(ys):
                for pw, bin_xs in enumerate(xs):
                    samples = [bilinear(plane, y, x) for y in bin_ys for x in bin_xs]
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


def _grown(box: list[float], factor: float) -> tuple[int, int, int, int]:
    """The box about its centre, `factor` times as large, cut towards zero to integers."""
    x1, y1, x2, y2 = box
    cx, cy, half_w, half_h = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2 * factor, (y2 - y1) / 2 * factor
    return int(cx - half_w), int(cy - half_h), int(cx + half_w), int(cy + half_h)
