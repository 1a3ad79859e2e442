"""Mask R-CNN: the whole network, from pictures to losses or to detections with masks.

He, Gkioxari, Dollár, Girshick, "Mask R-CNN" (2017).  The road through the parts, each in its own file:

    preprocess   resize, normalise, pad                                data/transforms.py
    backbone     ResNet, then a feature pyramid                        resnet.py, fpn.py
    proposals    where objects may be                                  anchors.py, rpn.py
    RoIs         in training, proposals sampled with their targets     matching.py, box_head.py
    box head     what it is, and its exact box                         pooler.py, box_head.py
    mask head    which of its pixels                                   mask_head.py
    postprocess  back to the caller's pixels, masks pasted             ops/paste.py

Pass no mask head's configuration and it is Faster R-CNN with RoIAlign (the paper's table 3).

Lesson 00, `lessons/00_tour.ipynb`, opens it up stage by stage.
"""

from dataclasses import dataclass, field
from typing import NotRequired, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from minimaskrcnn.anchors import AnchorConfig
from minimaskrcnn.box_head import (
    BoxHead,
    BoxHeadConfig,
    Detections,
    RoIs,
    box_losses,
    detect,
    rows_to_compute,
    sample_rois,
)
from minimaskrcnn.data.transforms import (
    Batch,
    GroundTruth,
    Target,
    TransformConfig,
    preprocess,
    preprocess_targets,
    resize_boxes,
)
from minimaskrcnn.fpn import FPN, FPNConfig
from minimaskrcnn.mask_head import MaskHead, MaskHeadConfig, mask_loss, mask_probs
from minimaskrcnn.ops import crop_masks, paste_masks
from minimaskrcnn.pooler import PoolerConfig, pool_rois
from minimaskrcnn.resnet import ResNet, ResNetConfig
from minimaskrcnn.rpn import RPN, Proposals, RPNConfig, propose, rpn_losses


@dataclass(frozen=True, kw_only=True)
class MaskRCNNConfig:
    """Everything that defines a network; `dataclasses.replace` makes a variant."""

    num_classes: int = 91
    """Counts the background: 91 for COCO's category ids."""
    transform: TransformConfig = field(default_factory=TransformConfig)
    resnet: ResNetConfig = field(default_factory=ResNetConfig)
    fpn: FPNConfig = field(default_factory=FPNConfig)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    pooler: PoolerConfig = field(default_factory=PoolerConfig)
    box_head: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask_head: MaskHeadConfig | None = field(default_factory=MaskHeadConfig)


class Detection(TypedDict):
    """What was found in one picture, best first, in its own pixels.

    `masks` are the float masks of the picture's size, or, with `paste=False`, `mask_probs` those of the head.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]
    masks: NotRequired[Float[Tensor, "n 1 h w"]]
    mask_probs: NotRequired[Float[Tensor, "n m m"]]


class MaskRCNN(nn.Module):
    """`model(images, targets)` gives a dict of losses; `model(images)` gives a list of detections."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        if config.num_classes < 2:
            raise ValueError(f"num_classes counts the background and is at least 2, got {config.num_classes}")
        self.config = config
        channels = config.fpn.channels
        self.resnet = ResNet(config.resnet)
        self.fpn = FPN(config.resnet.channels, self.resnet.strides, config.fpn)
        self.rpn = RPN(channels, config.anchors, config.rpn)
        self.box_head = BoxHead(channels, config.num_classes, config.box_head)
        self.mask_head = None
        if config.mask_head is not None:
            self.mask_head = MaskHead(channels, config.num_classes, config.mask_head)

    def forward(
        self,
        images: list[Float[Tensor, "3 _ _"]],
        targets: list[Target] | None = None,
        *,
        paste: bool = True,
        generator: torch.Generator | None = None,
    ) -> dict[str, Float[Tensor, ""]] | list[Detection]:
        """Losses where `targets` are given, detections where they are not (whatever `self.training` says).

        `images` are RGB, 0..1, of any sizes; targets and detections are in their pixels.  A target's
        `min_size` is the shorter side that multi-scale training drew for it.  `generator` draws the samples of
        the losses.  Raises ValueError or TypeError for malformed images or targets.
        """
        batch = preprocess(images, self.config.transform, drawn_sizes(targets))
        features = self.fpn(self.resnet(batch.tensor.contiguous(memory_format=torch.channels_last)))
        proposal_output = self.rpn(features, self.fpn.strides, padded_size(batch))
        if targets is None:
            proposals = propose(proposal_output, batch.image_sizes, self.config.rpn, training=False)
            return self._detections(features, proposals, batch, paste)

        truth = self._ground_truth(targets, batch)
        proposals = propose(proposal_output, batch.image_sizes, self.config.rpn, training=True)
        losses = rpn_losses(proposal_output, truth, self.config.rpn, generator)
        rois = sample_rois(proposals, truth, self.config.box_head, generator)
        return losses | self._head_losses(features, rois, truth)

    def _ground_truth(self, targets: list[Target], batch: Batch) -> GroundTruth:
        for index, target in enumerate(targets):
            if self.mask_head is not None and "masks" not in target:
                raise ValueError(f"targets[{index}] has no 'masks', and this model has a mask head")
        truth = preprocess_targets(targets, batch.original_sizes, batch.image_sizes, padded_size(batch))
        # A label out of range would index stray weights; on a GPU looking would wait, and indexing asserts there.
        if truth.labels.device.type == "cpu":
            labels = truth.labels[truth.valid]
            if not ((labels >= 1) & (labels < self.config.num_classes)).all():
                found = [target["labels"].tolist() for target in targets]
                raise ValueError(f"labels must lie in 1..{self.config.num_classes - 1}, got {found}")
        return truth

    def _pool(self, features: list[Tensor], boxes: Tensor, image_index: Tensor, size: int) -> Tensor:
        # RoIs are never read from the pooled level, which only serves the largest anchors (FPN, section 4.1).
        levels = len(self.resnet.strides)
        strides = self.fpn.strides[:levels]
        return pool_rois(features[:levels], strides, boxes, image_index, size, self.config.pooler)

    def _head_losses(self, features: list[Tensor], rois: RoIs, truth: GroundTruth) -> dict[str, Tensor]:
        config = self.config.box_head
        rows = rows_to_compute(rois.valid)
        logits, deltas = self.box_head(self._pool(features, rois.boxes[rows], rows[0], config.pooled_size))
        losses = box_losses(logits, deltas, rois, truth, rows, config)
        if self.mask_head is None:
            return losses

        most_positive = int(config.rois_per_image * config.positive_fraction)
        positive = (rois.valid & (rois.labels > 0))[:, :most_positive]
        rows = rows_to_compute(positive)
        boxes, image = rois.boxes[rows], rows[0]
        logits = self.mask_head(self._pool(features, boxes, image, self.mask_head.config.pooled_size))
        targets = crop_masks(
            truth.masks, boxes, truth.mask_offset[image] + rois.gt_index[rows], logits.shape[-1]
        )
        return losses | {"loss_mask": mask_loss(logits, rois.labels[rows], targets, positive[rows])}

    def _detections(
        self, features: list[Tensor], proposals: Proposals, batch: Batch, paste: bool
    ) -> list[Detection]:
        config = self.config.box_head
        rows = rows_to_compute(proposals.valid)
        logits, deltas = self.box_head(
            self._pool(features, proposals.boxes[rows], rows[0], config.pooled_size)
        )
        shape = proposals.valid.shape
        # Rows left out stay zero: their proposals are not valid and make no candidates.
        all_logits = logits.new_zeros(*shape, logits.shape[1]).index_put(rows, logits)
        all_deltas = deltas.new_zeros(*shape, *deltas.shape[1:]).index_put(rows, deltas)
        found = detect(all_logits, all_deltas, proposals, batch.image_sizes, config)
        probs = self._mask_probs(features, found) if self.mask_head is not None else None
        return to_pictures(found, probs, batch, paste)

    def _mask_probs(self, features: list[Tensor], found: Detections) -> Float[Tensor, "B D m m"]:
        rows = rows_to_compute(found.valid)
        pooled = self._pool(features, found.boxes[rows], rows[0], self.mask_head.config.pooled_size)
        probs = mask_probs(self.mask_head(pooled), found.labels[rows])
        return probs.new_zeros(*found.valid.shape, *probs.shape[1:]).index_put(rows, probs)


def padded_size(batch: Batch) -> tuple[int, int]:
    """(height, width) of the batch's tensor."""
    return batch.tensor.shape[-2], batch.tensor.shape[-1]


def drawn_sizes(targets: list[Target] | None) -> list[int] | None:
    """The shorter sides that multi-scale training drew, where it drew any."""
    if targets is None or any("min_size" not in target for target in targets):
        return None
    return [target["min_size"] for target in targets]


def to_pictures(
    found: Detections, probs: Float[Tensor, "B D m m"] | None, batch: Batch, paste: bool
) -> list[Detection]:
    """Padded detections as one dict an image, scaled back to the caller's pixels, with masks pasted."""
    results = []
    for image, (size, original) in enumerate(zip(batch.image_sizes, batch.original_sizes)):
        valid = found.valid[image]
        boxes = resize_boxes(found.boxes[image][valid], size, original)
        result = Detection(boxes=boxes, labels=found.labels[image][valid], scores=found.scores[image][valid])
        if probs is not None:
            masks = probs[image][valid]
            if paste:
                result["masks"] = paste_masks(masks, boxes, original, threshold=None)[:, None]
            else:
                result["mask_probs"] = masks
        results.append(result)
    return results
