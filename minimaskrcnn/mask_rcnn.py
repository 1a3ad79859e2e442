"""Mask R-CNN: the whole network, from pictures to losses or to detections with masks.

He, Gkioxari, Dollár, Girshick, "Mask R-CNN" (2017).  The road through the parts, each in its own file:

    preprocess   resize, normalise, pad                                data/transforms.py
    features     ResNet, then a feature pyramid                        resnet.py, fpn.py
    propose      where objects may be                                  anchors.py, rpn.py
    sample       in training, proposals with their targets             matching.py, box_head.py
    detect       what each is, and its exact box                       pooler.py, box_head.py
    add_masks    which of its pixels                                   mask_head.py
    add_keypoints  where its joints are                                  keypoint_head.py
    to_pictures  back to the caller's pixels, masks pasted             postprocess.py

A head without a configuration is left out: without masks and keypoints it is Faster R-CNN with RoIAlign (the paper's
table 3).  Without a pyramid everything is read from the backbone's last map, C4 or C5 (tables 2a to 2d).

Letters: B images, C channels, S RoIs of an image, P those of them that can be positive, D detections, R rows that are
computed (`padded.py`), K keypoints, m cells along a mask's or a heat map's side.

Lesson 00, `lessons/00_tour.ipynb`, opens it up stage by stage.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from minimaskrcnn.anchors import AnchorConfig
from minimaskrcnn.box_head import (
    BoxHeadConfig,
    Detections,
    FCBoxHeadConfig,
    RoIs,
    box_losses,
    detect,
    sample_rois,
)
from minimaskrcnn.data.targets import GroundTruth, check_labels, check_parts, drawn_sizes, preprocess_targets
from minimaskrcnn.data.transforms import Batch, ImageSize, Target, TransformConfig, preprocess
from minimaskrcnn.distributed import shared_means
from minimaskrcnn.fpn import FPN, FeatureMaps, FPNConfig
from minimaskrcnn.keypoint_head import KeypointHead, KeypointHeadConfig, keypoint_losses
from minimaskrcnn.losses import Loss
from minimaskrcnn.mask_head import FCNMaskHeadConfig, MaskHeadConfig, mask_losses
from minimaskrcnn.matching import Generators
from minimaskrcnn.ops import decode_keypoints
from minimaskrcnn.padded import RowFeatures, Rows, rows_to_compute
from minimaskrcnn.pooler import PoolerConfig, RoIAlignConfig
from minimaskrcnn.postprocess import Detection, to_pictures
from minimaskrcnn.resnet import BackboneConfig, ResNetConfig
from minimaskrcnn.rpn import RPN, Proposals, RPNConfig, RPNOutput, propose, rpn_losses


@dataclass(frozen=True, kw_only=True)
class MaskRCNNConfig:
    """Everything that defines a network; `dataclasses.replace` makes a variant.

    Backbone, pooler and heads have a base class each, whose subclasses build the part: yours can be one.
    """

    num_classes: int = 91
    """Counts the background: 91 for COCO's category ids."""
    transform: TransformConfig = field(default_factory=TransformConfig)
    resnet: BackboneConfig = field(default_factory=ResNetConfig)
    fpn: FPNConfig | None = field(default_factory=FPNConfig)
    """None reads the backbone's last map."""
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    pooler: PoolerConfig = field(default_factory=RoIAlignConfig)
    box_head: BoxHeadConfig = field(default_factory=FCBoxHeadConfig)
    mask_head: MaskHeadConfig | None = field(default_factory=FCNMaskHeadConfig)
    keypoint_head: KeypointHeadConfig | None = None


class MaskRCNN(nn.Module):
    """`model(images, targets)` gives losses, `model(images)` detections; `forward` is the list of the stages."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        if config.num_classes < 2:
            raise ValueError(f"num_classes counts the background and is at least 2, got {config.num_classes}")
        self.config = config
        self.resnet = config.resnet.build()
        self.fpn = None
        channels = config.resnet.channels[-1]
        self.strides = config.resnet.strides[-1:]
        if config.fpn is not None:
            self.fpn = FPN(config.resnet.channels, config.resnet.strides, config.fpn)
            channels = config.fpn.channels
            self.strides = self.fpn.strides
        # RoIs are never read from the pooled level, which only serves the largest anchors (FPN, section 4.1).
        self.pooler = config.pooler.build(self.strides[: len(config.resnet.strides)])
        self.rpn = RPN(channels, config.anchors, config.rpn)
        backbone = config.resnet if config.fpn is None else None
        self.box_head = config.box_head.build(channels, config.num_classes, backbone)
        self.mask_head = self.keypoint_head = None
        if config.mask_head is not None:
            own_shape = (channels, config.mask_head.pooled_size)
            in_channels, in_size = self.box_head.shared_shape or own_shape
            self.mask_head = config.mask_head.build(in_channels, in_size, config.num_classes)
        if config.keypoint_head is not None:
            self.keypoint_head = KeypointHead(channels, config.keypoint_head)
        self.pixel_centres = config.keypoint_head is not None and config.keypoint_head.pixel_centres
        heads = [head for head in (self.box_head, self.mask_head, self.keypoint_head) if head is not None]
        self.heads_count_rows = any(isinstance(m, nn.BatchNorm2d) for head in heads for m in head.modules())

    def forward(
        self,
        images: list[Float[Tensor, "3 _ _"]],
        targets: list[Target] | None = None,
        *,
        paste: bool = True,
        generator: Generators = None,
    ) -> dict[str, Float[Tensor, ""]] | list[Detection]:
        """Losses where `targets` are given, detections where they are not (whatever `self.training` says).

        `images` are RGB, 0..1, of any sizes; targets and detections are in their pixels.  A target's
        `min_size` is the shorter side that multi-scale training drew for it.  `generator` draws the samples of
        the losses, one for the batch or one for each image.  Raises ValueError or TypeError for malformed images or
        targets.
        """
        batch = preprocess(images, self.config.transform, drawn_sizes(targets))
        features = self.features(batch.tensor)
        scored = self.rpn(features, self.strides, batch.padded_size)
        if targets is None:
            proposals = self.propose(scored, batch.image_sizes, training=False)
            found = self.detect(features, proposals, batch.image_sizes)
            found = self.add_masks(features, found)
            found = self.add_keypoints(features, found)
            return self.to_pictures(found, batch, paste=paste)

        truth = self.ground_truth(targets, batch)
        proposals = self.propose(scored, batch.image_sizes, training=True)
        losses = rpn_losses(scored, truth, self.config.rpn, generator)
        rois = self.sample(proposals, truth, generator)
        box_features = self.box_features(features, rois.boxes, rois.valid)
        losses |= self.box_losses(box_features, rois, truth)
        losses |= self.mask_losses(features, box_features, rois, truth)
        losses |= self.keypoint_losses(features, rois, truth)
        return shared_means(losses)

    def features(self, pictures: Float[Tensor, "B 3 H W"]) -> FeatureMaps:
        """The pyramid's maps, or the backbone's last one, with pixels per cell `self.strides`."""
        maps = self.resnet(pictures.contiguous(memory_format=torch.channels_last))
        return maps[-1:] if self.fpn is None else self.fpn(maps)

    def propose(self, scored: RPNOutput, image_sizes: list[ImageSize], *, training: bool) -> Proposals:
        """The best of the anchors that `self.rpn` scored; training keeps another number of them."""
        return propose(scored, image_sizes, self.config.rpn, training=training)

    def detect(self, features: FeatureMaps, proposals: Proposals, image_sizes: list[ImageSize]) -> Detections:
        """What the box head makes of the proposals, in resized pixels."""
        seen = self.box_features(features, proposals.boxes, proposals.valid)
        # Rows left out stay zero: their proposals are not valid and make no candidates.
        logits, deltas = (seen.rows.to_table(values) for values in self.box_head.predict(seen.values))
        return detect(logits, deltas, proposals, image_sizes, self.config.box_head)

    def add_masks(self, features: FeatureMaps, found: Detections) -> Detections:
        """The detections with a mask each: the branch runs on these alone (section 3.1, Inference)."""
        if self.mask_head is None:
            return found
        seen = self.mask_features(features, found.boxes, found.valid)
        logits = self.mask_head(seen.values)
        probs = self.config.mask_head.activation.probs(logits, seen.rows.of(found.labels))
        return replace(found, mask_probs=seen.rows.to_table(probs))

    def add_keypoints(self, features: FeatureMaps, found: Detections) -> Detections:
        """The detections with keypoints each, in resized pixels."""
        if self.keypoint_head is None:
            return found
        rows = self.rows(found.valid)
        boxes = rows.of(found.boxes)
        logits = self.keypoint_logits(features, boxes, rows.image)
        points, scores = decode_keypoints(logits, boxes, self.keypoint_head.config.score)
        return replace(found, keypoints=rows.to_table(points), keypoints_scores=rows.to_table(scores))

    def to_pictures(self, found: Detections, batch: Batch, *, paste: bool) -> list[Detection]:
        """What was found in each picture, in its own pixels."""
        exact = self.mask_head is not None and self.mask_head.config.exact_paste
        return to_pictures(found, batch, paste=paste, exact_paste=exact, pixel_centres=self.pixel_centres)

    def ground_truth(self, targets: list[Target], batch: Batch) -> GroundTruth:
        """The targets beside the batch; ValueError or TypeError where they are malformed or lack what heads need."""
        check_parts(targets, masks=self.mask_head is not None, keypoints=self.keypoint_head is not None)
        truth = preprocess_targets(targets, batch, pixel_centres=self.pixel_centres)
        check_labels(targets, self.config.num_classes)
        return truth

    def sample(self, proposals: Proposals, truth: GroundTruth, generator: Generators = None) -> RoIs:
        """The RoIs that the heads learn from, with their targets."""
        return sample_rois(proposals, truth, self.config.box_head, generator)

    def box_losses(self, seen: RowFeatures, rois: RoIs, truth: GroundTruth) -> dict[str, Loss]:
        """The box head's losses, from the `box_features` of the RoIs."""
        logits, deltas = self.box_head.predict(seen.values)
        return box_losses(logits, deltas, rois, truth, seen.rows, self.config.box_head)

    def mask_losses(
        self, features: FeatureMaps, seen: RowFeatures, rois: RoIs, truth: GroundTruth
    ) -> dict[str, Loss]:
        """The mask head's loss on the positive RoIs; `seen` are the `box_features` of all RoIs."""
        if self.mask_head is None:
            return {}
        seen = self.mask_features(features, rois.boxes, rois.positive, seen)
        logits = self.mask_head(seen.values)
        return mask_losses(logits, rois, truth, seen.rows, self.mask_head.config)

    def keypoint_losses(self, features: FeatureMaps, rois: RoIs, truth: GroundTruth) -> dict[str, Loss]:
        """The keypoint head's loss on the positive RoIs."""
        if self.keypoint_head is None:
            return {}
        rows = self.rows(rois.positive)
        logits = self.keypoint_logits(features, rows.of(rois.boxes), rows.image)
        return keypoint_losses(logits, rois, truth, rows, self.keypoint_head.config)

    def rows(self, valid: Bool[Tensor, "B S"]) -> Rows:
        """The rows that a head runs on."""
        # Rows that mean nothing would enter the statistics of a head's batch norm.
        return rows_to_compute(valid, everywhere=self.heads_count_rows)

    def box_features(
        self, features: FeatureMaps, boxes: Float[Tensor, "B S 4"], valid: Bool[Tensor, "B S"]
    ) -> RowFeatures:
        """What the box head predicts from: its bins of each box, or what it makes of them for the mask head too."""
        rows = self.rows(valid)
        pooled = self.pooler(features, rows.of(boxes), rows.image, self.config.box_head.pooled_size)
        return RowFeatures(rows, self.box_head.shared(pooled))

    def mask_features(
        self,
        features: FeatureMaps,
        boxes: Float[Tensor, "B S 4"],
        valid: Bool[Tensor, "B P"],
        seen: RowFeatures | None = None,
    ) -> RowFeatures:
        """What the mask head predicts from: its own bins of each box, or the box head's features, among `seen`."""
        if self.box_head.shared_shape is not None:
            return self.box_features(features, boxes, valid) if seen is None else seen.at(self.rows(valid))
        rows = self.rows(valid)
        size = self.config.mask_head.pooled_size
        return RowFeatures(rows, self.pooler(features, rows.of(boxes), rows.image, size))

    def keypoint_logits(
        self, features: FeatureMaps, boxes: Float[Tensor, "R 4"], image_index: Int[Tensor, " R"]
    ) -> Float[Tensor, "R K m m"]:
        """The keypoint head's heat maps of each box."""
        size = self.config.keypoint_head.pooled_size
        return self.keypoint_head(self.pooler(features, boxes, image_index, size))
