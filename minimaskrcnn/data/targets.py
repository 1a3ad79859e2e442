"""Targets beside a batch of pictures: checked, resized with their pictures and padded to one size.

Axes: B images, G objects of an image (padded to the most of any image), M objects of the whole batch, K keypoints,
H W the padded picture.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from minimaskrcnn.data.transforms import (
    Batch,
    ImageSize,
    Target,
    resize_boxes,
    resize_keypoints,
    resize_masks,
    shift_keypoints,
)


@dataclass(frozen=True)
class GroundTruth:
    """Targets beside a Batch: in resized pixels, padded to G objects an image."""

    boxes: Float[Tensor, "B G 4"]  # zero where padded
    labels: Int64[Tensor, "B G"]  # 0 where padded
    valid: Bool[Tensor, "B G"]
    masks: Bool[Tensor, "M H W"] | None  # object g of image b is masks[mask_offset[b] + g]
    mask_offset: Int64[Tensor, " B"]  # how many objects come before image b's
    keypoints: Float[Tensor, "B G K 3"] | None  # zero where padded


def preprocess_targets(targets: list[Target], batch: Batch, *, pixel_centres: bool = False) -> GroundTruth:
    """Resize targets with their pictures and pad them to one size.

    G is the most objects of any image, at least 1, so that a batch without objects has a shape like any other.  Boxes
    stay float64 where they are, else become float32.  `pixel_centres` takes keypoints for indices of pixels and gives
    these pixels' centres.  Raises ValueError or TypeError as `check_targets` does.
    """
    check_targets(targets, batch.original_sizes)
    counts = [len(target["boxes"]) for target in targets]
    first = targets[0]["boxes"]
    dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
    shape = (len(targets), max(1, *counts))
    boxes = torch.zeros(*shape, 4, dtype=dtype, device=first.device)
    labels = torch.zeros(shape, dtype=torch.int64, device=first.device)
    for b, (target, count) in enumerate(zip(targets, counts)):
        own = target["boxes"].to(dtype)
        boxes[b, :count] = resize_boxes(own, batch.original_sizes[b], batch.image_sizes[b])
        labels[b, :count] = target["labels"]
    count = torch.tensor(counts, device=first.device)
    valid = torch.arange(shape[1], device=first.device) < count[:, None]
    masks = _stack_masks(targets, batch) if "masks" in targets[0] else None
    keypoints = None
    if "keypoints" in targets[0]:
        keypoints = _pad_keypoints(targets, batch, boxes, offset=0.5 if pixel_centres else 0.0)
    return GroundTruth(boxes, labels, valid, masks, count.cumsum(0) - count, keypoints)


def drawn_sizes(targets: list[Target] | None) -> list[int] | None:
    """The shorter sides that multi-scale training drew, where it drew any."""
    if targets is None or any("min_size" not in target for target in targets):
        return None
    return [target["min_size"] for target in targets]


def check_targets(targets: list[Target], original_sizes: list[ImageSize]) -> None:
    """ValueError or TypeError unless every target fits its picture of `original_sizes`.

    Values (finite, x2 > x1, y2 > y1) are checked for tensors on the CPU only: elsewhere that would wait for
    the device in every step.
    """
    if len(targets) != len(original_sizes):
        raise ValueError(f"{len(targets)} targets for {len(original_sizes)} pictures")
    for b, (target, size) in enumerate(zip(targets, original_sizes)):
        for key in ("boxes", "labels"):
            if key not in target:
                raise ValueError(f"target {b} has no {key!r}; it has {sorted(target)}")
        for key in ("masks", "keypoints"):
            if (key in target) != (key in targets[0]):
                raise ValueError(f"either all targets have {key!r} or none: targets 0 and {b} differ")
        _check_shapes(b, target, size)
        _check_values(b, target)


def check_parts(targets: list[Target], *, masks: bool, keypoints: bool) -> None:
    """ValueError where a target lacks the masks or keypoints that a model's head learns from."""
    for part, needed in (("masks", masks), ("keypoints", keypoints)):
        for index, target in enumerate(targets):
            if needed and part not in target:
                raise ValueError(f"targets[{index}] has no {part!r}, and this model has a {part[:-1]} head")


def check_labels(targets: list[Target], num_classes: int) -> None:
    """ValueError where a label is not one of 1..`num_classes` - 1: it would index stray weights.

    On the CPU only: elsewhere looking would wait for the device, and indexing asserts there.
    """
    labels = [target["labels"] for target in targets]
    if any(each.device.type == "cpu" and ((each < 1) | (each >= num_classes)).any() for each in labels):
        found = [each.tolist() for each in labels]
        raise ValueError(f"labels must lie in 1..{num_classes - 1}, got {found}")


def _check_shapes(b: int, target: Target, size: ImageSize) -> None:
    boxes = target["boxes"]
    labels = target["labels"]
    if boxes.dim() != 2 or boxes.shape[1] != 4:
        raise ValueError(f"target {b}: boxes must be [G, 4], got {list(boxes.shape)}")
    if not boxes.is_floating_point():
        raise TypeError(f"target {b}: boxes must be floating, got {boxes.dtype}")
    count = boxes.shape[0]
    if labels.dtype != torch.int64 or labels.shape != (count,):
        raise ValueError(
            f"target {b}: labels must be int64 [{count}], got {labels.dtype} {list(labels.shape)}"
        )
    if "masks" in target:
        masks = target["masks"]
        if masks.dtype not in (torch.bool, torch.uint8) or masks.shape != (count, *size):
            found = f"{masks.dtype} {list(masks.shape)}"
            raise ValueError(f"target {b}: masks must be bool {[count, *size]}, got {found}")
    if "keypoints" in target:
        points = target["keypoints"]
        if points.dim() != 3 or points.shape[0] != count or points.shape[2] != 3:
            raise ValueError(f"target {b}: keypoints must be [{count}, K, 3], got {list(points.shape)}")


def _check_values(b: int, target: Target) -> None:
    boxes = target["boxes"]
    if boxes.device.type != "cpu":
        return
    good = boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if not bool(good.all()):
        g = int((~good).nonzero()[0])
        raise ValueError(f"target {b}: box {g} needs finite x1 < x2 and y1 < y2, got {boxes[g].tolist()}")
    if "keypoints" in target and not bool(target["keypoints"].isfinite().all()):
        raise ValueError(f"target {b}: keypoints must be finite")


def _stack_masks(targets: list[Target], batch: Batch) -> Bool[Tensor, "M H W"]:
    total = sum(len(target["masks"]) for target in targets)
    stack = torch.zeros(total, *batch.padded_size, dtype=torch.bool, device=targets[0]["masks"].device)
    start = 0
    for target, (h, w) in zip(targets, batch.image_sizes):
        end = start + len(target["masks"])
        stack[start:end, :h, :w] = resize_masks(target["masks"].bool(), (h, w))
        start = end
    return stack


def _pad_keypoints(
    targets: list[Target], batch: Batch, boxes: Float[Tensor, "B G 4"], *, offset: float
) -> Float[Tensor, "B G K 3"]:
    """Keypoints beside the padded `boxes`, moved by `offset` pixels before they are resized."""
    padded = boxes.new_zeros(*boxes.shape[:2], targets[0]["keypoints"].shape[1], 3)
    for b, target in enumerate(targets):
        points = target["keypoints"]
        if offset:
            points = shift_keypoints(points, offset)
        sizes = (batch.original_sizes[b], batch.image_sizes[b])
        padded[b, : len(points)] = resize_keypoints(points.to(padded), *sizes)
    return padded
