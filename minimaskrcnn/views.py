"""Test-time augmentation: one picture seen at several sizes and mirrored, and what is found in all of them, merged.

The paper's appendix A reports it ("test-time augmentation"); its tables are without.  As in detectron2: the
detections of all views are moved back to the picture and thinned together, then every view's mask and keypoint head
runs on the boxes that are left, and their masks and heat maps are averaged.

Letters: D detections, K keypoints, m cells along each side of a mask or heat map.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from minimaskrcnn.box_head import BoxHeadConfig, Detections
from minimaskrcnn.data.transforms import FLIPPED_KEYPOINT, Batch, ImageSize, preprocess, resize_boxes
from minimaskrcnn.fpn import FeatureMaps
from minimaskrcnn.mask_rcnn import MaskRCNN
from minimaskrcnn.ops import decode_keypoints, nms_padded
from minimaskrcnn.padded import gather_rows
from minimaskrcnn.postprocess import Detection


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """Which views of a picture are taken."""

    scales: tuple[float, ...] = (0.5, 0.625, 0.75, 0.875, 1.0, 1.125, 1.25, 1.375, 1.5)
    """Of the model's own size: shorter sides of 400, 500, ..., 1200 where that is 800 (detectron2).  The limit of the
    longer side is scaled too (there it is 4000)."""
    flip: bool = True
    """Each of them mirrored too."""


@dataclass(frozen=True)
class View:
    """The picture at one size, and its features."""

    batch: Batch
    features: FeatureMaps
    flipped: bool


@torch.no_grad()
def detect_in_views(
    model: MaskRCNN, image: Float[Tensor, "3 h w"], config: ViewsConfig, *, paste: bool = True
) -> Detection:
    """What `model([image], paste=paste)` returns for one picture, from all its views.

    ValueError for a picture that the model would refuse, and for no scale or one that is not positive.
    """
    if not config.scales or min(config.scales) <= 0:
        raise ValueError(f"scales {config.scales}: expected at least one, all above 0")
    size = (image.shape[-2], image.shape[-1])
    flips = (False, True) if config.flip else (False,)
    views = [_view(model, image, scale, flipped) for scale in config.scales for flipped in flips]
    found = _merge([_boxes_in(model, view, size) for view in views], model.config.box_head)
    probs = []
    heat_maps = []
    for view in views:
        if model.mask_head is not None:
            moved = replace(found, boxes=_into_view(found.boxes[0], view, size)[None])
            seen = model.add_masks(view.features, moved).mask_probs
            probs.append(seen.flip(-1) if view.flipped else seen)
        if model.keypoint_head is not None:
            places = _into_view(
                found.boxes[0], view, size, indices=not model.keypoint_head.config.pixel_centres
            )
            seen = model.keypoint_logits(view.features, places, torch.zeros_like(found.labels[0]))
            heat_maps.append(_mirror_heat_maps(seen) if view.flipped else seen)
    if probs:
        found = replace(found, mask_probs=torch.stack(probs).mean(dim=0))
    if heat_maps:
        heat_map = torch.stack(heat_maps).mean(dim=0)
        points, scores = decode_keypoints(heat_map, found.boxes[0], model.keypoint_head.config.score)
        found = replace(found, keypoints=points[None], keypoints_scores=scores[None])
    unresized = Batch(image[None], [size], [size])
    return model.to_pictures(found, unresized, paste=paste)[0]


def mirror(boxes: Float[Tensor, "n 4"], width: int) -> Float[Tensor, "n 4"]:
    """Boxes in the mirrored picture, `width` pixels wide: an edge at x becomes one at width - x."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def _view(model: MaskRCNN, image: Float[Tensor, "3 h w"], scale: float, flipped: bool) -> View:
    transform = model.config.transform
    shorter = max(1, round(scale * transform.min_sizes[-1]))
    transform = replace(transform, min_sizes=(shorter,), max_size=max(1, round(scale * transform.max_size)))
    batch = preprocess([image.flip(-1) if flipped else image], transform)
    return View(batch, model.features(batch.tensor), flipped)


def _boxes_in(model: MaskRCNN, view: View, size: ImageSize) -> Detections:
    """One view's detections, in the picture's pixels."""
    image_sizes = view.batch.image_sizes
    scored = model.rpn(view.features, model.strides, view.batch.padded_size)
    found = model.detect(view.features, model.propose(scored, image_sizes, training=False), image_sizes)
    boxes = resize_boxes(found.boxes[0], image_sizes[0], size)
    return replace(found, boxes=(mirror(boxes, size[1]) if view.flipped else boxes)[None])


def _into_view(
    boxes: Float[Tensor, "D 4"], view: View, size: ImageSize, *, indices: bool = False
) -> Float[Tensor, "D 4"]:
    """The picture's boxes in one view's pixels.

    With `indices`, for a head that reads where the index x of a pixel lies in a box: a mirrored pixel has the index
    width - 1 - x, where a mirrored coordinate is width - x.
    """
    there = mirror(boxes, size[1] - indices) if view.flipped else boxes
    return resize_boxes(there, size, view.batch.image_sizes[0])


def _merge(views: list[Detections], config: BoxHeadConfig) -> Detections:
    """The detections of all views, thinned within their class; rows that are not valid are left out."""
    boxes = torch.cat([view.boxes for view in views], dim=1)
    scores = torch.cat([view.scores for view in views], dim=1)
    labels = torch.cat([view.labels for view in views], dim=1)
    valid = torch.cat([view.valid for view in views], dim=1)
    limit = min(config.detections_per_image, scores.shape[1])
    keep, kept = nms_padded(boxes, scores, labels, valid, config.nms_iou, limit)
    # At the model's boundary: one picture, whose rows are counted once.
    keep = keep[:, : int(kept.sum())]
    rows = (gather_rows(values, keep) for values in (boxes, scores, labels))
    return Detections(*rows, torch.ones_like(keep, dtype=torch.bool))


def _mirror_heat_maps(maps: Float[Tensor, "D K m m"]) -> Float[Tensor, "D K m m"]:
    """Left and right of the map change places, and so do left and right joints."""
    if maps.shape[1] != len(FLIPPED_KEYPOINT):
        raise ValueError(f"only COCO's 17 keypoints can be mirrored, got {maps.shape[1]}: set flip=False")
    return maps[:, list(FLIPPED_KEYPOINT)].flip(-1)
