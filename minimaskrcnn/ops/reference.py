"""The definitions as loops: slow, obviously right, the judge of every faster implementation.

Everything is computed one number at a time in Python's floats (float64).  The one exception is the IoU inside
`nms`, which by contract is computed in the boxes' own precision, so that all implementations agree to the last bit.
`roi_align`, `roi_pool` and `roi_warp` have their own file, `reference_rois.py`.

Used by tests and lessons only.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

from minimaskrcnn.ops.reference_rois import (
    bilinear,
    fpn_level,
    multiscale_roi_align,
    roi_align,
    roi_pool,
    roi_warp,
)

__all__ = [
    "MatchedBoxes",
    "bilinear",
    "box_iou",
    "fpn_level",
    "match_boxes",
    "multiscale_roi_align",
    "nms",
    "paste_mask",
    "paste_masks",
    "paste_masks_rle",
    "roi_align",
    "roi_pool",
    "roi_warp",
]


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


def batched_nms(
    boxes: Float[Tensor, "N 4"],
    scores: Float[Tensor, "N"],
    idxs: Int64[Tensor, "N"] | None,
    iou_threshold: float,
) -> Int64[Tensor, "K"]:
    """`nms` among boxes of equal `idxs`."""
    return nms(boxes, scores, iou_threshold, idxs)


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


class MatchedBoxes(NamedTuple):
    """What `match_boxes` returns."""

    iou: Float[Tensor, "B K"]
    index: Int64[Tensor, "B K"]
    best_for_gt: Bool[Tensor, "B K"]


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


def paste_masks_rle(
    masks: Float[Tensor, "n m m"],
    boxes: Float[Tensor, "n 4"],
    image_size: tuple[int, int],
    threshold: float = 0.5,
) -> list[list[int]]:
    """The run lengths of each pasted mask, column after column, background first: COCO's uncompressed counts."""
    return [run_lengths(bitmap) for bitmap in paste_masks(masks, boxes, image_size, threshold)]


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
