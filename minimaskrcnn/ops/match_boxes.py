"""Which ground truth each box overlaps most, and which boxes each ground truth overlaps most.

Both questions need every pair of the two, but never all pairs at once: ground truths come in chunks, all boxes of
the batch with each, and a box remembers the best that it has seen.  What a ground truth asks is answered within its
chunk.

Axis letters: B images, G ground truths (padded), K boxes.

Lesson 02, `lessons/02_anchors.ipynb`, measures its memory; lesson 04 teaches matching.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

# Pairs of a chunk, of which a few numbers are held at once.  A GPU takes 64 times as many.
CHUNK = 2**18


class MatchedBoxes(NamedTuple):
    """What each box has found among the valid ground truths of its image."""

    iou: Float[Tensor, "B K"]
    """The largest IoU; -1 where the box is not valid or has no valid ground truth."""
    index: Int64[Tensor, "B K"]
    """The first ground truth that attains it; 0 where the IoU is -1."""
    best_for_gt: Bool[Tensor, "B K"]
    """Whether some valid ground truth overlaps this box, and no valid box more."""


def match_boxes(
    gt_boxes: Float[Tensor, "B G 4"],
    gt_valid: Bool[Tensor, "B G"],
    boxes: Float[Tensor, "B K 4"],
    valid: Bool[Tensor, "B K"],
) -> MatchedBoxes:
    """Match every box to the ground truth of its image that it overlaps most.  No gradient, no sync on a GPU.

    IoU is `box_iou`'s, but 0 for a pair without a union.  Memory: B · K and CHUNK numbers a few times, for any G.
    Raises ValueError for shapes and devices that do not match, TypeError for dtypes.
    """
    shapes = (gt_boxes.shape, gt_valid.shape, boxes.shape, valid.shape)
    if shapes != ((*gt_valid.shape, 4), gt_valid.shape, (*valid.shape, 4), valid.shape) or (
        gt_valid.ndim != 2 or valid.ndim != 2 or len(gt_valid) != len(valid)
    ):
        found = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(
            f"gt_boxes, gt_valid, boxes, valid {found}: expected [B,G,4], [B,G], [B,K,4] and [B,K]"
        )
    if not gt_boxes.is_floating_point() or not boxes.is_floating_point():
        raise TypeError(f"gt_boxes {gt_boxes.dtype}, boxes {boxes.dtype}: expected floating point")
    if gt_valid.dtype != torch.bool or valid.dtype != torch.bool:
        raise TypeError(f"gt_valid {gt_valid.dtype}, valid {valid.dtype}: expected bool")
    devices = {str(t.device) for t in (gt_boxes, gt_valid, boxes, valid)}
    if len(devices) > 1:
        raise ValueError(f"tensors on {sorted(devices)}: expected one device")
    dtype = torch.promote_types(torch.promote_types(gt_boxes.dtype, boxes.dtype), torch.float32)
    return MatchedBoxes(
        *_match_boxes(gt_boxes.detach().to(dtype), gt_valid, boxes.detach().to(dtype), valid)
    )


# A custom op: a compiled graph holds one call, not a copy of the loop's body for each chunk.
@torch.library.custom_op("minimaskrcnn::match_boxes", mutates_args=())
def _match_boxes(
    gt_boxes: Tensor, gt_valid: Tensor, boxes: Tensor, valid: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    images, count = valid.shape
    objects = gt_valid.shape[1]
    # Boxes of zeros overlap nothing, so what is not valid takes no part.
    corners = torch.where(valid[..., None], boxes, 0).permute(2, 0, 1).unsqueeze(2).contiguous()
    gt_corners = torch.where(gt_valid[..., None], gt_boxes, 0).permute(2, 0, 1).unsqueeze(3)
    best = boxes.new_zeros(images, count)
    # Among overlaps of 0 the first valid ground truth counts; only larger ones replace it.
    anyone = gt_valid.any(1, keepdim=True)
    index = _first(gt_valid[:, :, None]).repeat(1, count)
    best_for_gt = torch.zeros_like(valid)
    chunk = CHUNK if boxes.device.type == "cpu" else 64 * CHUNK
    step = max(1, chunk // max(1, images * count))
    for start in range(0, objects if count else 0, step):
        iou = _iou(gt_corners[:, :, start : start + step], corners)
        highest = iou.amax(dim=2, keepdim=True)
        best_for_gt |= (iou == torch.where(highest > 0, highest, torch.inf)).any(dim=1)
        largest = iou.amax(dim=1)
        found = _first(iou == largest[:, None]) + start
        index = torch.where(largest > best, found, index)
        best = torch.maximum(largest, best)
    matched = valid & anyone
    return torch.where(matched, best, -1), torch.where(matched, index, 0), best_for_gt


@_match_boxes.register_fake
def _(gt_boxes, gt_valid, boxes, valid):
    best = boxes.new_empty(valid.shape)
    return best, best.new_empty(valid.shape, dtype=torch.int64), torch.empty_like(valid)


def _iou(gt_corners: Float[Tensor, "4 B g 1"], corners: Float[Tensor, "4 B 1 K"]) -> Float[Tensor, "B g K"]:
    """`box_iou` of all pairs, operation by operation, in place; 0 instead of NaN."""
    ax1, ay1, ax2, ay2 = gt_corners
    bx1, by1, bx2, by2 = corners
    inter = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).clamp_(min=0)
    inter.mul_(torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).clamp_(min=0))
    union = ((ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1)).sub_(inter)
    return inter.div_(union).nan_to_num_(nan=0.0)


def _first(true: Bool[Tensor, "B G K"]) -> Int64[Tensor, "B K"]:
    """The first true of each column; 0 where there is none."""
    if not true.shape[1]:
        return true.new_zeros(len(true), true.shape[2], dtype=torch.int64)
    # argmax and the index of max took 20 times as long on the CPU.
    place = torch.arange(true.shape[1], 0, -1, device=true.device, dtype=torch.int32)
    last = torch.where(true, place[:, None], 0).amax(dim=1)
    return ((true.shape[1] - last) % true.shape[1]).long()
