"""Lesson 05's experiments: the three poolings under one signature, and where in the picture they really look.

Axis letters: R boxes; H W map; P bins a side.  `name` is one of POOLINGS.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from minimaskrcnn.data.toybox import Scene, ToyboxConfig, make_scene
from minimaskrcnn.ops import paste_masks, roi_align, roi_pool, roi_warp

POOLINGS = ("RoIPool", "RoIWarp", "RoIAlign")
# RoIAlign with `aligned=False`, as torchvision's models have it.
UNALIGNED = "RoIAlign, aligned=False"


def star_scene() -> tuple[Scene, Tensor, Tensor]:
    """A scene of 320 × 320 pixels, the mask of its star [320, 320], and the star's box [4]."""
    scene = make_scene(ToyboxConfig(min_size=(320, 320), max_size=(320, 320)), seed=5, index=11)
    star = torch.from_numpy(scene.objects[3].mask)
    ys, xs = star.nonzero().unbind(1)
    # Pixel i covers [i, i + 1).
    return scene, star, torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).double()


def cells_of(picture: Tensor, stride: int) -> Tensor:
    """A picture [C, h, w] as a feature map [1, C, h / stride, w / stride]: each cell is the mean of its pixels."""
    return avg_pool2d(picture[None].double(), stride)


def pool_with(name: str, feature: Tensor, boxes: Tensor, bins: int, stride: int) -> Tensor:
    """`boxes` [R, 4] in pixels pooled from `feature` [1, C, H, W] to [R, C, bins, bins]."""
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], 1)
    if name == "RoIPool":
        return roi_pool(feature, rois, bins, 1 / stride)
    if name == "RoIWarp":
        return roi_warp(feature, rois, bins, 1 / stride, sampling_ratio=2)
    return roi_align(feature, rois, bins, 1 / stride, sampling_ratio=2, aligned=name == "RoIAlign")


def spread_boxes(count: int) -> Tensor:
    """Boxes of 64 to 320 pixels within 0..1024, whose sides fall evenly on all places within a cell."""
    # Multiples of irrational numbers, modulo 1: as good as random, and more even.
    steps = torch.tensor([2, 3, 5, 7]).double().sqrt()
    place = (torch.arange(count).double()[:, None] * steps) % 1
    corner = 100 + 512 * place[:, :2]
    return torch.cat([corner, corner + 64 + 256 * place[:, 2:]], 1)


def where_bins_look(name: str, boxes: Tensor, bins: int, stride: int) -> Tensor:
    """The x in pixels of the middle of what each column of bins reads [R, bins], boxes within 0..1024."""
    cells = 1024 // stride
    x = ((torch.arange(cells).double() + 0.5) * stride).expand(1, 1, cells, cells)
    # The largest x and the largest -x are the two ends of what a bin of RoIPool takes.
    ends = pool_with(name, x, boxes, bins, stride) - pool_with(name, -x, boxes, bins, stride)
    return ends.mean(2)[:, 0] / 2


def misplacement(name: str, boxes: Tensor, bins: int, stride: int) -> dict[str, float]:
    """Pixels by which bins miss their place: what all boxes share, and the rest, its mean and its worst."""
    middle = (torch.arange(bins).double() + 0.5) / bins
    wanted = boxes[:, :1] + middle * (boxes[:, 2:3] - boxes[:, :1])
    miss = where_bins_look(name, boxes, bins, stride) - wanted
    shared = miss.mean(0)
    rest = (miss - shared).abs()
    return {"shared": shared.mean().item(), "mean": rest.mean().item(), "worst": rest.max().item()}


def mask_through(
    name: str, mask: Tensor, boxes: Tensor, stride: int, bins: int = 28, back: float = 0.0
) -> Tensor:
    """A mask [h, w] as features, pooled from each box and pasted back: bool [R, h, w].

    Pooling is told that the boxes lie `back` pixels further up and to the left.
    """
    pooled = pool_with(name, cells_of(mask[None], stride), boxes - back, bins, stride)
    return paste_masks(pooled[:, 0].float(), boxes.float(), tuple(mask.shape))


def mask_iou(masks: Tensor, truth: Tensor) -> Tensor:
    """IoU of each mask [R, h, w] with the truth [h, w]."""
    masks, truth = masks.flatten(1).float(), truth.flatten().float()
    inter = masks @ truth
    return inter / (masks.sum(1) + truth.sum() - inter)


def edge_seen(pooled: Tensor, boxes: Tensor) -> Tensor:
    """Where each row of bins [R, P], read back into its box, crosses 1/2: x in pixels."""
    rising = (pooled[:, 1:] >= 0.5).int().argmax(1)[:, None]
    low, high = pooled.gather(1, rising), pooled.gather(1, rising + 1)
    place = (rising + 0.5 + (0.5 - low) / (high - low)) / pooled.shape[1]
    return (boxes[:, :1] + place * (boxes[:, 2:3] - boxes[:, :1]))[:, 0]
