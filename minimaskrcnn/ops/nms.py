"""Greedy non-maximum suppression, exact.

Contract, the same for every implementation: sort by score descending, stable, ties to the lower index; keep a box
iff no kept earlier box of its group has IoU > threshold; a degenerate union gives IoU 0.  IoU is
`inter / (area_a + area_b - inter)` in float32 (float64 for float64 boxes), compared with the threshold in double.
Groups are compared, never turned into an offset of the coordinates.

Without a loop over boxes, and without a sync on a GPU, the definition is a fixed point: keep_j = no kept i before j
hits j.  Iterated from "all kept" it settles the first box, then the second, ...: row by row in the worst case, a few
rounds for real boxes.  It runs on blocks of boxes sorted by score; a settled block suppresses what follows it.  The
CPU, where looking at the data is free, skips most pairs instead (`nms_by_pairs.py`), unless nearly all of them hit.
The Triton kernels do the same on blocks of each group, with one bit for a pair (`minimaskrcnn_kernels/nms.py`).

Axis letters: B images, N candidates an image, n rows of a block.
Left out: soft and weighted NMS.

Lesson 04, `lessons/04_rpn.ipynb`, teaches this.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer, Real
from torch import Tensor

from minimaskrcnn.ops.backend import Backend, use_triton
from minimaskrcnn.ops.nms_by_pairs import keep_by_pairs

# Boxes in a block: its pairs with all later ones are held at once, B · BLOCK · N numbers a few times over.
BLOCK = 128


def nms(
    boxes: Float[Tensor, "N 4"],
    scores: Real[Tensor, "N"],
    iou_threshold: float,
    *,
    backend: Backend = "auto",
) -> Int64[Tensor, "K"]:
    """Indices of the kept boxes, by descending score.  One host sync: their number is data.

    `backend` and errors as in `nms_padded`.
    """
    return batched_nms(boxes, scores, None, iou_threshold, backend=backend)


def batched_nms(
    boxes: Float[Tensor, "N 4"],
    scores: Real[Tensor, "N"],
    idxs: Integer[Tensor, "N"] | None,
    iou_threshold: float,
    *,
    backend: Backend = "auto",
) -> Int64[Tensor, "K"]:
    """`nms` among boxes of equal `idxs` (a class, a level; None: all equal); one list by descending score."""
    groups = idxs if idxs is None else idxs[None]
    valid = torch.ones_like(scores, dtype=torch.bool)
    args = boxes[None], scores[None], groups, valid[None], iou_threshold, len(scores)
    index, kept = nms_padded(*args, backend=backend)
    return index[0, : int(kept.sum())]


def nms_padded(
    boxes: Float[Tensor, "B N 4"],
    scores: Real[Tensor, "B N"],
    groups: Integer[Tensor, "B N"] | None,
    valid: Bool[Tensor, "B N"],
    iou_threshold: float,
    max_keep: int,
    *,
    backend: Backend = "auto",
) -> tuple[Int64[Tensor, "B max_keep"], Bool[Tensor, "B max_keep"]]:
    """The first `max_keep` survivors of each image by descending score: indices into N, and which are real.

    `groups` None: all rows of an image are one group.  Rows that are not `valid` neither survive nor suppress.
    Beyond the survivors the index is 0 and the mask False.  No gradient.

    Half-precision boxes are compared in float32.  `backend` as in `use_triton`; the kernels take boxes below float64
    and at most 2**17 of them an image, in N² / 8 bytes of memory an image, and all else runs in torch.  Raises
    ValueError for shapes and devices that do not match and for a negative number, TypeError for dtypes.
    """
    _check_candidates(boxes, scores, groups, valid)
    if not iou_threshold >= 0:
        raise ValueError(f"iou_threshold {iou_threshold}: expected at least 0")
    if max_keep < 0:
        raise ValueError(f"max_keep {max_keep}: expected at least 0")
    boxes = boxes.detach() if boxes.dtype == torch.float64 else boxes.detach().float()
    threshold = _rounded_down(iou_threshold, boxes.dtype)
    order = scores.detach().argsort(dim=1, descending=True, stable=True)
    boxes = boxes.take_along_dim(order[..., None], 1)
    alive = valid.gather(1, order)
    groups = groups if groups is None else groups.long().gather(1, order)
    kept = _keep_by_kernels(boxes, groups, alive, threshold) if use_triton(backend, boxes) else None
    if kept is None:
        groups = torch.zeros_like(order) if groups is None else groups
        kept = _keep_in_torch(boxes, groups, alive, threshold)
    return _first(order, kept, max_keep)


def _check_candidates(boxes: Tensor, scores: Tensor, groups: Tensor | None, valid: Tensor) -> None:
    given = [t for t in (boxes, scores, groups, valid) if t is not None]
    names = f"boxes, scores, {'' if groups is None else 'groups, '}valid"
    if boxes.shape != (*scores.shape, 4) or any(t.shape != scores.shape for t in given[1:]):
        shapes = ", ".join(str(tuple(t.shape)) for t in given)
        raise ValueError(f"{names} {shapes}: expected [B,N,4] and for the others [B,N]")
    whole = groups is None or not (groups.is_floating_point() or groups.dtype == torch.bool)
    if not boxes.is_floating_point() or scores.dtype == torch.bool or not whole or valid.dtype != torch.bool:
        kinds = ", ".join(str(t.dtype) for t in given)
        raise TypeError(f"{names} {kinds}: expected floating point boxes, integer groups, and bool for valid")
    devices = {str(t.device) for t in given}
    if len(devices) > 1:
        raise ValueError(f"{names} on {sorted(devices)}: expected one device")


def _keep_by_kernels(
    boxes: Float[Tensor, "B N 4"],
    groups: Int64[Tensor, "B N"] | None,
    alive: Bool[Tensor, "B N"],
    threshold: float,
) -> Bool[Tensor, "B N"] | None:
    """Which candidates are kept, of those sorted by descending score; None for what the kernels do not take.

    They want the rows of a group in one piece: a stable sort by group leaves each from the best on.
    """
    from minimaskrcnn_kernels.nms import MAX_ROWS, nms_keep

    if boxes.dtype != torch.float32 or boxes.shape[1] > MAX_ROWS:
        return None
    if groups is None:
        return nms_keep(boxes, torch.zeros_like(alive, dtype=torch.int64), alive, threshold)
    groups, by_group = groups.sort(dim=1, stable=True)
    boxes = boxes.take_along_dim(by_group[..., None], 1)
    alive = alive.gather(1, by_group)
    kept = nms_keep(boxes, groups, alive, threshold)
    return torch.empty_like(kept).scatter_(1, by_group, kept)


# A custom op, so that a compiled graph holds one call and neither breaks nor unrolls the rounds of `_settle`.
@torch.library.custom_op("minimaskrcnn::nms_keep", mutates_args=())
def _keep_in_torch(boxes: Tensor, groups: Tensor, alive: Tensor, threshold: float) -> Tensor:
    kept = _keep_on_cpu(boxes, groups, alive, threshold) if boxes.device.type == "cpu" else None
    # A copy: an operation may not hand back its argument, which is what is left of no candidates.
    return _keep_by_blocks(boxes, groups, alive, threshold).clone() if kept is None else kept


@_keep_in_torch.register_fake
def _(boxes, groups, alive, threshold):
    return torch.empty_like(alive)


def _first(
    order: Int64[Tensor, "B N"], kept: Bool[Tensor, "B N"], max_keep: int
) -> tuple[Int64[Tensor, "B max_keep"], Bool[Tensor, "B max_keep"]]:
    """The kept entries of `order` moved to the front, without a sync: each is written to the slot of its rank."""
    rank = kept.cumsum(1) - 1
    slot = torch.where(kept, rank, max_keep).clamp(max=max_keep)
    index = order.new_zeros(len(order), max_keep + 1).scatter_(1, slot, order)[:, :max_keep]
    real = torch.arange(max_keep, device=order.device) < kept.sum(1, keepdim=True)
    return index.masked_fill(~real, 0), real


def _keep_on_cpu(
    boxes: Float[Tensor, "B N 4"], groups: Int64[Tensor, "B N"], alive: Bool[Tensor, "B N"], threshold: float
) -> Bool[Tensor, "B N"] | None:
    """The candidates of all images at once, each image's groups numbered apart."""
    rows = np.flatnonzero(alive.numpy())
    distinct, group = np.unique(groups.flatten().numpy()[rows], return_inverse=True)
    image = rows // max(1, alive.shape[1])
    survives = keep_by_pairs(boxes.flatten(0, 1).numpy()[rows], image * len(distinct) + group, threshold)
    if survives is None:
        return None
    kept = np.zeros(alive.shape, dtype=bool)
    kept.flat[rows] = survives
    return torch.from_numpy(kept)


def _keep_by_blocks(
    boxes: Float[Tensor, "B N 4"], groups: Int64[Tensor, "B N"], alive: Bool[Tensor, "B N"], threshold: float
) -> Bool[Tensor, "B N"]:
    """Which candidates are kept, of those sorted by descending score.  No host sync on a GPU."""
    corners = boxes.permute(2, 0, 1).contiguous()
    for start in range(0, alive.shape[1], BLOCK):
        stop = min(start + BLOCK, alive.shape[1])
        # Reading a value to decide on it is free on the CPU only.
        if alive.device.type == "cpu" and not alive[:, start:stop].any():
            continue
        hits = _hits(corners, groups, start, stop, threshold)
        settled = _settle(hits[..., : stop - start].triu(1), alive[:, start:stop])
        later = alive[:, stop:] & ~(hits[..., stop - start :] & settled[..., None]).any(1)
        alive = torch.cat([alive[:, :start], settled, later], 1)
    return alive


def _hits(
    corners: Float[Tensor, "4 B N"], groups: Int64[Tensor, "B N"], start: int, stop: int, threshold: float
) -> Bool[Tensor, "B n later"]:
    """IoU > threshold within the group, of each box start..stop with each from start on."""
    x1, y1, x2, y2 = corners
    area = (x2 - x1) * (y2 - y1)
    lower = torch.maximum(corners[:2, :, start:stop, None], corners[:2, :, None, start:])
    upper = torch.minimum(corners[2:, :, start:stop, None], corners[2:, :, None, start:])
    width, height = upper.sub_(lower).clamp_(min=0)
    inter = width.mul_(height)
    union = (area[:, start:stop, None] + area[:, None, start:]).sub_(inter)
    same = groups[:, start:stop, None] == groups[:, None, start:]
    # Two proper boxes have a union above 0; all others give 0, -0 or NaN, none of them a hit.
    return (inter.div_(union) > threshold).logical_and_(same)


def _settle(hits: Bool[Tensor, "B n n"], alive: Bool[Tensor, "B n"]) -> Bool[Tensor, "B n"]:
    """Which rows of a block are kept, where hits[b, i, j], i before j, says that i would suppress j."""
    kept = alive
    matrix = hits.float()
    # n rounds always suffice.
    for _ in range(hits.shape[-1]):
        suppressed = (kept[:, None].float() @ matrix)[:, 0] > 0
        previous = kept
        kept = alive & ~suppressed
        if kept.device.type == "cpu" and torch.equal(previous, kept):
            break
    return kept


def _rounded_down(threshold: float, dtype: torch.dtype) -> float:
    """The largest number of `dtype` not above the threshold.

    A float32 IoU exceeds the double threshold iff it exceeds this one; torch would round it to the nearest.
    """
    if dtype != torch.float32:
        return threshold
    nearest = np.float32(threshold)
    # Compared as Python floats: NumPy would round the threshold first.
    return float(nearest if float(nearest) <= threshold else np.nextafter(nearest, np.float32(-np.inf)))
