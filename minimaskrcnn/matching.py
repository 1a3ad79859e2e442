"""Matching and sampling: which anchor or proposal learns which object, and which of them are asked at all.

Both stages train on "is this box an object, and how far off is it?"  `match` answers from IoU alone: positive
above a threshold, negative below another, ignored between.  `sample` then keeps a fixed number of them in a
fixed proportion, because negatives outnumber positives by thousands (Faster R-CNN, section 3.1.3; Fast R-CNN,
section 2.3).

Letters: B images, G ground truths (padded), K boxes to be matched, S samples.  Everything is batched and
padded, with validity masks; nothing here asks a GPU for a number.

Lesson 04, `lessons/04_rpn.ipynb`, teaches this.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from minimaskrcnn.ops import match_boxes


@dataclass(frozen=True)
class Matches:
    """For every box the index of its ground truth and 1 positive, 0 negative, -1 ignored."""

    index: Int[Tensor, "B K"]
    label: Int[Tensor, "B K"]


@dataclass(frozen=True)
class Samples:
    """Chosen boxes: positives first, then negatives, then padding.

    All positives lie in the first `int(number · positive_fraction)` columns.
    """

    index: Int[Tensor, "B S"]
    positive: Bool[Tensor, "B S"]
    valid: Bool[Tensor, "B S"]


def match(
    gt_boxes: Float[Tensor, "B G 4"],
    gt_valid: Bool[Tensor, "B G"],
    boxes: Float[Tensor, "B K 4"],
    valid: Bool[Tensor, "B K"],
    *,
    positive_iou: float,
    negative_iou: float,
    allow_low_quality: bool,
) -> Matches:
    """Match every box to the ground truth it overlaps most.

    Positive from `positive_iou` on, negative under `negative_iou`, ignored between and where not `valid`.  With
    `allow_low_quality` every ground truth also takes the boxes that overlap it as much as any does, so that
    none goes without (Faster R-CNN, section 3.1.2, condition i); a ground truth that no box touches takes none.
    An image without ground truth makes all its boxes negative.
    """
    best = match_boxes(gt_boxes, gt_valid, boxes, valid)
    positive = best.iou >= positive_iou
    if allow_low_quality:
        positive = positive | best.best_for_gt
    negative = (best.iou < negative_iou) & ~positive
    label = torch.where(positive, 1, torch.where(negative, 0, -1))
    return Matches(best.index, torch.where(valid, label, -1))


Generators = torch.Generator | list[torch.Generator] | None


def sampling_keys(
    shape: tuple[int, int], device: torch.device, generator: Generators
) -> Float[Tensor, "B K"]:
    """A random number for each box; `sample` keeps the boxes with the highest.

    With a generator for each image its numbers do not depend on what else is in the batch.
    """
    if isinstance(generator, list):
        return torch.stack([torch.rand(shape[1], device=device, generator=one) for one in generator])
    return torch.rand(shape, device=device, generator=generator)


def sample(
    label: Int[Tensor, "B K"], keys: Float[Tensor, "B K"], number: int, positive_fraction: float
) -> Samples:
    """Choose up to `number` boxes an image, at most `positive_fraction` of them positive, the rest negative.

    `label` is 1 or more for positives, 0 for negatives, -1 for neither.  Where positives are few, negatives fill
    their places; where both are few, fewer are chosen.
    """
    places = label.shape[1]
    most_positive = int(number * positive_fraction)
    positive_key, positive = torch.where(label > 0, keys, -torch.inf).topk(min(most_positive, places))
    negative_key, negative = torch.where(label == 0, keys, -torch.inf).topk(min(number, places))
    is_positive = positive_key > -torch.inf
    is_negative = negative_key > -torch.inf
    room = number - is_positive.sum(dim=1, keepdim=True)
    is_negative &= torch.arange(negative.shape[1], device=label.device) < room

    valid = torch.cat([is_positive, is_negative], dim=1)
    # Stable: valid ones move to the front and keep their order, so positives stay ahead of negatives.
    order = torch.argsort(valid, dim=1, descending=True, stable=True)[:, : min(number, valid.shape[1])]
    index = torch.cat([positive, negative], dim=1).gather(1, order)
    all_positive = torch.cat([is_positive, torch.zeros_like(is_negative)], dim=1)
    return Samples(index, all_positive.gather(1, order), valid.gather(1, order))
