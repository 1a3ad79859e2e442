"""Small functions on boxes, with torchvision's names and meaning.

A box is (x1, y1, x2, y2) in absolute pixels of a continuous plane: pixel i covers [i, i + 1), so a box around
the first pixel of a row is 0..1 and the width is x2 - x1, without the + 1 of older code.

Axis letters: N, M boxes; H, W image rows and columns; `*B` any leading axes.
Left out: rotated boxes (torchvision has them since 0.23), and the generalised, distance and complete IoU losses.

Lesson 01, `lessons/01_boxes_masks_coco.ipynb`, teaches this.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64, Num
from torch import Tensor

FORMATS = ("xyxy", "xywh", "cxcywh")


def box_area(boxes: Float[Tensor, "*B 4"], fmt: str = "xyxy") -> Float[Tensor, "*B"]:
    """Width times height; negative where exactly one side is inverted.  Half precision is computed in float32."""
    x1, y1, x2, y2 = box_convert(_at_least_float32(boxes), fmt, "xyxy").unbind(-1)
    return (x2 - x1) * (y2 - y1)


def box_iou(
    boxes1: Float[Tensor, "*B N 4"], boxes2: Float[Tensor, "*B M 4"], fmt: str = "xyxy"
) -> Float[Tensor, "*B N M"]:
    """Intersection over union of every pair, the leading axes in step.

    NaN where the union is zero (two boxes without area), as in torchvision.  `nms` counts such a pair as 0.
    """
    boxes1 = box_convert(_at_least_float32(boxes1), fmt, "xyxy")[..., :, None, :]
    boxes2 = box_convert(_at_least_float32(boxes2), fmt, "xyxy")[..., None, :, :]
    lower = torch.maximum(boxes1[..., :2], boxes2[..., :2])
    upper = torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    inter = (upper - lower).clamp(min=0).prod(-1)
    return inter / (box_area(boxes1) + box_area(boxes2) - inter)


def box_convert(boxes: Num[Tensor, "*B 4"], in_fmt: str, out_fmt: str) -> Num[Tensor, "*B 4"]:
    """Rewrite boxes from one of "xyxy", "xywh" (corner and size), "cxcywh" (centre and size) to another.

    Raises ValueError for any other format.  The result never shares memory with `boxes`.
    """
    if in_fmt not in FORMATS or out_fmt not in FORMATS:
        raise ValueError(f"box format {in_fmt!r} to {out_fmt!r}: expected two of {', '.join(FORMATS)}")
    if in_fmt == out_fmt:
        return boxes.clone()
    corner = boxes[..., :2]
    other = boxes[..., 2:]
    if in_fmt == "xywh":
        other = corner + other
    elif in_fmt == "cxcywh":
        half = 0.5 * other
        other = corner + half
        corner = corner - half
    if out_fmt == "xywh":
        other = other - corner
    elif out_fmt == "cxcywh":
        size = other - corner
        corner = (corner + other) / 2
        other = size
    return torch.cat([corner, other], -1)


def clip_boxes_to_image(
    boxes: Float[Tensor, "*B 4"], size: tuple[int, int] | Sequence[tuple[int, int]]
) -> Float[Tensor, "*B 4"]:
    """Clamp x to 0..width and y to 0..height; `size` is (height, width).

    Of a batch [B, K, 4] each image may have its own: `size` is then B of them (one copy from the host).
    """
    if not size or isinstance(size[0], Sequence):
        bounds = boxes.new_tensor([(width, height, width, height) for height, width in size]).view(-1, 1, 4)
        return torch.minimum(boxes.clamp(min=0), bounds)
    height, width = size
    x = boxes[..., 0::2].clamp(0, width)
    y = boxes[..., 1::2].clamp(0, height)
    return torch.stack([x, y], -1).flatten(-2)


def remove_small_boxes(boxes: Float[Tensor, "N 4"], min_size: float) -> Int64[Tensor, "K"]:
    """Indices of the boxes with both sides at least `min_size` pixels.  (One host sync: the count is data.)"""
    size = boxes[:, 2:] - boxes[:, :2]
    return torch.where((size >= min_size).all(-1))[0]


def masks_to_boxes(masks: Num[Tensor, "N H W"] | Bool[Tensor, "N H W"]) -> Float[Tensor, "N 4"]:
    """Tightest box of the pixel *indices* of each mask, float32; zeros for an empty mask.

    As in torchvision x2 and y2 are the last pixel's index, so add 1 to them for a box that covers the pixels.
    """
    masks = masks.bool()
    x1, x2 = _first_and_last(masks.any(1))
    y1, y2 = _first_and_last(masks.any(2))
    return torch.stack([x1, y1, x2, y2], -1).float()


def _first_and_last(hit: Bool[Tensor, "N S"]) -> tuple[Int64[Tensor, "N"], Int64[Tensor, "N"]]:
    """First and last true position of each row, both 0 where there is none."""
    place = torch.arange(hit.shape[1], device=hit.device)
    if hit.numel() == 0:
        return place.new_zeros(hit.shape[0]), place.new_zeros(hit.shape[0])
    last = (place * hit).amax(1)
    first = torch.where(hit, place, hit.shape[1]).amin(1)
    return torch.minimum(first, last), last


def _at_least_float32(boxes: Tensor) -> Tensor:
    return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes
