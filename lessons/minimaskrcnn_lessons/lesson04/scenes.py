"""Scenes of the toybox that lesson 04's model has not seen, and what its region proposal network says of them."""

from typing import NamedTuple

import torch
from torch import Tensor

from minimaskrcnn import MaskRCNN
from minimaskrcnn.data.targets import GroundTruth, preprocess_targets
from minimaskrcnn.data.toybox import ToyboxConfig, make_scene
from minimaskrcnn.data.transforms import Batch, Sample, Target, preprocess
from minimaskrcnn.ops import box_iou, masks_to_boxes
from minimaskrcnn.rpn import RPNConfig, RPNOutput, propose

# A series of scenes of its own: the splits of the toybox have other seeds.
SEED = 4


class Prediction(NamedTuple):
    """One picture's way through the backbone and the head of the region proposal network."""

    batch: Batch
    features: list[Tensor]
    output: RPNOutput
    truth: GroundTruth

    @property
    def grids(self) -> list[tuple[int, int]]:
        """(rows, columns) of each level."""
        return [(feature.shape[-2], feature.shape[-1]) for feature in self.features]


def sample(index: int) -> Sample:
    """Scene number `index` with its objects' boxes; crowds left out."""
    scene = make_scene(ToyboxConfig(), SEED, index)
    image = torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255
    masks = [torch.from_numpy(thing.mask) for thing in scene.objects if not thing.iscrowd]
    boxes = torch.zeros(0, 4)
    if masks:
        # `masks_to_boxes` gives the last pixel's index; the box ends where that pixel does.
        boxes = masks_to_boxes(torch.stack(masks)) + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return Sample(image, Target(boxes=boxes, labels=torch.ones(len(boxes), dtype=torch.int64)))


@torch.no_grad()
def predict(model: MaskRCNN, scene: Sample) -> Prediction:
    """What `MaskRCNN.forward` computes first: preprocessing, features, logits and deltas of every anchor."""
    batch = preprocess([scene.image], model.config.transform)
    features = model.fpn(model.resnet(batch.tensor))
    output = model.rpn(features, model.strides, batch.padded_size)
    truth = preprocess_targets([scene.target], batch)
    return Prediction(batch, features, output, truth)


def nearest_object(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """For each box the object that it overlaps most; -1 where it overlaps none by more than 0.3."""
    iou, index = box_iou(gt_boxes, boxes).max(dim=0)
    return torch.where(iou > 0.3, index, -1)


def found(boxes: Tensor, gt_boxes: Tensor, least: float = 0.5) -> int:
    """How many objects some box overlaps by at least `least`."""
    if not len(boxes) or not len(gt_boxes):
        return 0
    return int((box_iou(gt_boxes, boxes).amax(dim=1) >= least).sum())


def best_anchor(prediction: Prediction) -> Tensor:
    """For each object the highest IoU of any anchor with it."""
    gt_boxes = prediction.truth.boxes[0][prediction.truth.valid[0]]
    return box_iou(gt_boxes, torch.cat(prediction.output.anchors)).amax(dim=1)


def recall(predictions: list[Prediction], config: RPNConfig, count: int) -> float:
    """Share of all objects that one of the `count` best proposals of their picture overlaps by 0.5 or more."""
    reached = objects = 0
    for one in predictions:
        gt_boxes = one.truth.boxes[0][one.truth.valid[0]]
        proposals = propose(one.output, one.batch.image_sizes, config, training=False)
        boxes = proposals.boxes[0][proposals.valid[0]][:count]
        reached += found(boxes, gt_boxes)
        objects += len(gt_boxes)
    return reached / objects
