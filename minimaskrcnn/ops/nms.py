"""Greedy non-maximum suppression, exact.

Contract, the same for every implementation: sort by score descending, stable, ties to the lower index; keep a box
iff no kept earlier box of its group has IoU > threshold; a degenerate union gives IoU 0.  IoU is
`inter / (area_a + area_b - inter)` in the boxes' precision (float32 or float64), compared with the threshold in
double.  Groups are compared, never turned into an offset of the coordinates.

Two ways to the same answer:

- `_keep_by_blocks`, any device, no host sync.  The definition is a fixed point: keep_j = no kept i before j hits j.
  Iterated from "all kept" it settles the first box, then the second, ...: row by row in the worst case, a few
  rounds for real boxes.  It runs on blocks of boxes sorted by score; a settled block then suppresses what follows.
- `_keep_by_sweep`, CPU.  Sorted by x1, a box can only hit those that start within (1 - threshold) of its width, a
  few percent of all pairs; what they hit is listed, and walked through by descending score.

Axis letters: B images, N candidates an image, M candidates of all images, n rows of a block.
Left out: soft and weighted NMS.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

# Rows of a block: 64 to 128 timed alike on 1000 boxes; fewer pay per call, more make idle pairs.
BLOCK = 96
# Listed pairs that hit, at most (64 MiB); heaps of boxes beyond that go by blocks, which store none.
MAX_HITS = 2**22


class _Candidates(NamedTuple):
    """Boxes in the order of some sort, coordinates first so that a block of one is contiguous."""

    corners: Float[Tensor, "4 *B N"]
    area: Float[Tensor, "*B N"]
    group: Int64[Tensor, "*B N"]


def nms(boxes: Float[Tensor, "N 4"], scores: Float[Tensor, "N"], iou_threshold: float) -> Int64[Tensor, "K"]:
    """Indices of the kept boxes, by descending score.  One host sync: their number is data.

    Raises ValueError for shapes that do not match and for a negative threshold.
    """
    return batched_nms(boxes, scores, torch.zeros_like(scores, dtype=torch.int64), iou_threshold)


def batched_nms(
    boxes: Float[Tensor, "N 4"], scores: Float[Tensor, "N"], idxs: Int64[Tensor, "N"], iou_threshold: float
) -> Int64[Tensor, "K"]:
    """`nms` among boxes of equal `idxs` (a class, a level); one list by descending score."""
    valid = torch.ones_like(scores, dtype=torch.bool)
    index, kept = nms_padded(boxes[None], scores[None], idxs[None], valid[None], iou_threshold, len(scores))
    return index[kept]


def nms_padded(
    boxes: Float[Tensor, "B N 4"],
    scores: Float[Tensor, "B N"],
    groups: Int64[Tensor, "B N"],
    valid: Bool[Tensor, "B N"],
    iou_threshold: float,
    max_keep: int,
) -> tuple[Int64[Tensor, "B max_keep"], Bool[Tensor, "B max_keep"]]:
    """The first `max_keep` survivors of each image by descending score: indices into N, and which are real.

    Rows that are not `valid` neither survive nor suppress.  Beyond the survivors the index is 0 and the mask False.
    Raises ValueError for shapes that do not match and for a negative threshold.
    """
    if boxes.shape != (*scores.shape, 4) or groups.shape != scores.shape or valid.shape != scores.shape:
        shapes = [tuple(t.shape) for t in (boxes, scores, groups, valid)]
        raise ValueError(f"boxes, scores, groups, valid {shapes}: expected [B,N,4] and three of [B,N]")
    if not iou_threshold >= 0:
        raise ValueError(f"iou_threshold {iou_threshold}: expected a number from 0 on")
    order = scores.detach().argsort(dim=1, descending=True, stable=True)
    corners = boxes.detach().gather(1, order[..., None].expand(-1, -1, 4)).permute(2, 0, 1)
    candidates = _candidates(corners, groups.gather(1, order))
    alive, threshold = valid.gather(1, order), _rounded_down(iou_threshold, boxes.dtype)
    kept = None
    if boxes.device.type == "cpu" and not torch.compiler.is_compiling():
        kept = _keep_by_sweep(candidates, alive, threshold)
    if kept is None:
        kept = _keep_by_blocks(candidates, alive, threshold)
    return _first(order, kept, max_keep)


def _first(
    order: Int64[Tensor, "B N"], kept: Bool[Tensor, "B N"], max_keep: int
) -> tuple[Int64[Tensor, "B max_keep"], Bool[Tensor, "B max_keep"]]:
    """The kept entries of `order` moved to the front, without a sync: each is written to the slot of its rank."""
    rank = kept.cumsum(1) - 1
    slot = torch.where(kept, rank, max_keep).clamp(max=max_keep)
    index = order.new_zeros(len(order), max_keep + 1).scatter_(1, slot, order)[:, :max_keep]
    real = torch.arange(max_keep, device=order.device) < kept.sum(1, keepdim=True)
    return index.masked_fill(~real, 0), real


def _candidates(corners: Float[Tensor, "4 *B N"], group: Int64[Tensor, "*B N"]) -> _Candidates:
    x1, y1, x2, y2 = corners
    return _Candidates(corners.contiguous(), (x2 - x1) * (y2 - y1), group)


def _hits(
    boxes: _Candidates, start: int, stop: int, end: int, threshold: float
) -> Bool[Tensor, "*B n columns"]:
    """IoU > threshold within the group, of each box start..stop with each box start..end."""
    corners, area, group = boxes
    # One call for x and y.  Two proper boxes have a union above 0; all others give 0, -0 or NaN, none a hit.
    lower = torch.maximum(corners[:2, ..., start:stop, None], corners[:2, ..., None, start:end])
    size = torch.minimum(corners[2:, ..., start:stop, None], corners[2:, ..., None, start:end])
    width, height = size.sub_(lower).clamp_(min=0)
    inter = width.mul_(height)
    union = (area[..., start:stop, None] + area[..., None, start:end]).sub_(inter)
    same = group[..., start:stop, None] == group[..., None, start:end]
    return (inter.div_(union) > threshold).logical_and_(same)


def _keep_by_blocks(boxes: _Candidates, alive: Bool[Tensor, "B N"], threshold: float) -> Bool[Tensor, "B N"]:
    n = alive.shape[1]
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        hits = _hits(boxes, start, stop, n, threshold)
        settled = _settle(hits[..., : stop - start].triu(1), alive[:, start:stop])
        later = alive[:, stop:] & ~(hits[..., stop - start :] & settled[..., None]).any(1)
        alive = torch.cat([alive[:, :start], settled, later], 1)
    return alive


def _settle(hits: Bool[Tensor, "B n n"], alive: Bool[Tensor, "B n"]) -> Bool[Tensor, "B n"]:
    """Which rows of a block are kept, where hits[b, i, j], i before j, says that i would suppress j."""
    kept, matrix = alive, hits.float()
    # n rounds always suffice.  Only on the CPU is it free to look whether fewer did.
    may_look = hits.device.type == "cpu" and not torch.compiler.is_compiling()
    for _ in range(hits.shape[-1]):
        suppressed = (kept[:, None].float() @ matrix)[:, 0] > 0
        previous, kept = kept, alive & ~suppressed
        if may_look and torch.equal(previous, kept):
            break
    return kept


def _keep_by_sweep(
    boxes: _Candidates, alive: Bool[Tensor, "B N"], threshold: float
) -> Bool[Tensor, "B N"] | None:
    """Which candidates are kept, those of all images at once; None where more than MAX_HITS pairs hit."""
    rows = alive.flatten().nonzero()[:, 0]
    groups, group = boxes.group.flatten()[rows].unique(return_inverse=True)
    image = rows // max(1, alive.shape[1])
    pairs = _listed_hits(boxes.corners.flatten(1)[:, rows], image * len(groups) + group, threshold)
    if pairs is None:
        return None
    kept = torch.zeros_like(alive).flatten()
    kept[rows] = _walk(*pairs, len(rows))
    return kept.view_as(alive)


def _listed_hits(
    corners: Float[Tensor, "4 M"], group: Int64[Tensor, "M"], threshold: float
) -> tuple[Int64[Tensor, "E"], Int64[Tensor, "E"]] | None:
    """All pairs (a, b), a before b, that hit each other; None where they are more than MAX_HITS.

    Of two boxes, IoU is at most that of their x intervals, so at most 1 - gap / width for the left one's width and
    the gap between their left sides.  1e-5 covers the rounding of a float32 IoU (about 4e-7).
    """
    x1 = corners[0].double()
    reach = (corners[2].double() - x1) * (1 - threshold + 1e-5)
    # A box with a coordinate that is not finite hits nothing: it may stand anywhere.
    x1, reach = (t.nan_to_num(0, 0, 0) for t in (x1, reach))
    origin = group * ((x1 + reach).max() - x1.min() + 1) - x1.min() if len(x1) else x1
    key, order = (origin + x1).sort()
    ends = torch.searchsorted(key, (origin + (x1 + reach))[order], right=True)
    boxes = _candidates(corners[:, order], group[order])
    pairs, count = [], 0
    for start, block in zip(range(0, len(key), BLOCK), ends.split(BLOCK)):
        hits = _hits(boxes, start, start + len(block), int(block.max()), threshold)
        pairs.append(hits.triu_(1).nonzero() + start)
        count += len(pairs[-1])
        if count > MAX_HITS:
            return None
    pair = order[torch.cat(pairs)] if pairs else order.new_zeros(0, 2)
    return pair.amin(1), pair.amax(1)


def _walk(first: Int64[Tensor, "E"], second: Int64[Tensor, "E"], count: int) -> Bool[Tensor, "M"]:
    """The greedy choice itself: down the boxes that hit a later one, each kept one removes what it hits."""
    first, order = first.sort()
    hit = second[order].numpy()
    boxes, hits = first.unique_consecutive(return_counts=True)
    kept, ends = np.ones(count, dtype=bool), hits.cumsum(0)
    for box, start, end in zip(boxes.tolist(), (ends - hits).tolist(), ends.tolist()):
        if kept[box]:
            kept[hit[start:end]] = False
    return torch.from_numpy(kept)


def _rounded_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of `dtype` not above the threshold.

    A float32 IoU exceeds the double threshold iff it exceeds this one; torch would round it to the nearest.
    """
    if dtype != torch.float32:
        return threshold
    nearest = np.float32(threshold)
    return float(nearest if nearest <= threshold else np.nextafter(nearest, np.float32(-np.inf)))
