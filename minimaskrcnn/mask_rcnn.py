"""Mask R-CNN: the whole network, from pictures to losses or to detections with masks.

He, Gkioxari, Dollár, Girshick, "Mask R-CNN" (2017).  The road through the parts, each in its own file:

    preprocess   resize, normalise, pad                                data/transforms.py
    backbone     ResNet, then a feature pyramid                        resnet.py, fpn.py
    proposals    where objects may be                                  anchors.py, rpn.py
    RoIs         in training, proposals sampled with their targets     matching.py, box_head.py
    box head     what it is, and its exact box                         pooler.py, box_head.py
    mask head    which of its pixels                                   mask_head.py
    keypoints    where its joints are                                  keypoint_head.py
    postprocess  back to the caller's pixels, masks pasted             ops/paste.py

A head without a configuration is left out: without masks and keypoints it is Faster R-CNN with RoIAlign (the paper's
table 3).  Without a pyramid everything is read from the backbone's last map, C4 or C5 (tables 2a to 2d).

Lesson 00, `lessons/00_tour.ipynb`, opens it up stage by stage.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, NotRequired, TypedDict

import torch
from jaxtyping import Bool, Float, Int
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
    resize_keypoints,
)
from minimaskrcnn.fpn import FPN, FPNConfig
from minimaskrcnn.keypoint_head import KeypointHead, KeypointHeadConfig, keypoint_loss
from minimaskrcnn.mask_head import MaskHead, MaskHeadConfig, mask_loss, mask_probs, mask_targets
from minimaskrcnn.matching import Generators
from minimaskrcnn.ops import decode_keypoints, paste_masks
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
    fpn: FPNConfig | None = field(default_factory=FPNConfig)
    """None reads the backbone's last map."""
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    pooler: PoolerConfig = field(default_factory=PoolerConfig)
    box_head: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask_head: MaskHeadConfig | None = field(default_factory=MaskHeadConfig)
    keypoint_head: KeypointHeadConfig | None = None


class Detection(TypedDict):
    """What was found in one picture, best first, in its own pixels.

    `masks` are the float masks of the picture's size, or, with `paste=False`, `mask_probs` those of the head.
    `keypoints` are (x, y, 1), `keypoints_scores` what `KeypointHeadConfig.score` says.
    """

    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    scores: Float[Tensor, " n"]
    masks: NotRequired[Float[Tensor, "n 1 h w"]]
    mask_probs: NotRequired[Float[Tensor, "n m m"]]
    keypoints: NotRequired[Float[Tensor, "n K 3"]]
    keypoints_scores: NotRequired[Float[Tensor, "n K"]]


class HeadOutputs(NamedTuple):
    """What the other heads say of each detection, in resized pixels; None for a head that is not there."""

    mask_probs: Float[Tensor, "B D m m"] | None
    keypoints: Float[Tensor, "B D K 3"] | None
    keypoints_scores: Float[Tensor, "B D K"] | None


class MaskRCNN(nn.Module):
    """`model(images, targets)` gives a dict of losses; `model(images)` gives a list of detections."""

    def __init__(self, config: MaskRCNNConfig) -> None:
        super().__init__()
        if config.num_classes < 2:
            raise ValueError(f"num_classes counts the background and is at least 2, got {config.num_classes}")
        if config.box_head.trunk == "res5" and (config.fpn is not None or config.resnet.stages != 3):
            raise ValueError("box_head.trunk 'res5' is the fourth stage: it needs resnet.stages=3 and fpn=None")
        if config.fpn is not None and config.resnet.dilated_c5:
            raise ValueError("a pyramid needs strides that double: resnet.dilated_c5 needs fpn=None")
        self.config = config
        self.resnet = ResNet(config.resnet)
        self.fpn = None
        channels, self.strides = config.resnet.channels[-1], config.resnet.strides[-1:]
        if config.fpn is not None:
            self.fpn = FPN(config.resnet.channels, self.resnet.strides, config.fpn)
            channels, self.strides = config.fpn.channels, self.fpn.strides
        self.rpn = RPN(channels, config.anchors, config.rpn)
        self.box_head = BoxHead(channels, config.num_classes, config.box_head, config.resnet)
        self.mask_head = self.keypoint_head = None
        if config.mask_head is not None:
            shared = self.box_head.shared_channels, self.box_head.shared_size
            self.mask_head = MaskHead(shared[0], config.num_classes, config.mask_head, shared[1])
        if config.keypoint_head is not None:
            self.keypoint_head = KeypointHead(channels, config.keypoint_head)
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
        proposal_output = self.rpn(features, self.strides, padded_size(batch))
        if targets is None:
            proposals = propose(proposal_output, batch.image_sizes, self.config.rpn, training=False)
            found = self._detect(features, proposals, batch)
            heads = HeadOutputs(self._mask_probs(features, found), *self._keypoints(features, found))
            return to_pictures(found, heads, batch, self.config, paste)

        truth = self._ground_truth(targets, batch)
        proposals = propose(proposal_output, batch.image_sizes, self.config.rpn, training=True)
        losses = rpn_losses(proposal_output, truth, self.config.rpn, generator)
        rois = sample_rois(proposals, truth, self.config.box_head, generator)
        shared, box = self._box_losses(features, rois, truth)
        losses |= box
        if self.mask_head is not None:
            losses["loss_mask"] = self._mask_loss(features, shared, rois, truth)
        if self.keypoint_head is not None:
            losses["loss_keypoint"] = self._keypoint_loss(features, rois, truth)
        return losses

    def features(self, pictures: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C _ _"]]:
        """The pyramid's maps, or the backbone's last one, with pixels per cell `self.strides`."""
        maps = self.resnet(pictures.contiguous(memory_format=torch.channels_last))
        return maps[-1:] if self.fpn is None else self.fpn(maps)

    def _ground_truth(self, targets: list[Target], batch: Batch) -> GroundTruth:
        for index, target in enumerate(targets):
            if self.mask_head is not None and "masks" not in target:
                raise ValueError(f"targets[{index}] has no 'masks', and this model has a mask head")
            if self.keypoint_head is not None and "keypoints" not in target:
                raise ValueError(f"targets[{index}] has no 'keypoints', and this model has a keypoint head")
        targets = [self._with_centres(target) for target in targets]
        truth = preprocess_targets(targets, batch.original_sizes, batch.image_sizes, padded_size(batch))
        # A label out of range would index stray weights; on a GPU looking would wait, and indexing asserts there.
        if truth.labels.device.type == "cpu":
            labels = truth.labels[truth.valid]
            if not ((labels >= 1) & (labels < self.config.num_classes)).all():
                found = [target["labels"].tolist() for target in targets]
                raise ValueError(f"labels must lie in 1..{self.config.num_classes - 1}, got {found}")
        return truth

    def _with_centres(self, target: Target) -> Target:
        if self.keypoint_head is None or not self.keypoint_head.config.pixel_centres:
            return target
        return {**target, "keypoints": shifted(target["keypoints"], 0.5)}

    def _pool(self, features: list[Tensor], boxes: Tensor, image_index: Tensor, size: int) -> Tensor:
        # RoIs are never read from the pooled level, which only serves the largest anchors (FPN, section 4.1).
        levels = len(self.resnet.strides) if self.fpn is not None else 1
        strides = self.strides[:levels]
        return pool_rois(features[:levels], strides, boxes, image_index, size, self.config.pooler)

    def _rows(self, valid: Bool[Tensor, "B S"]) -> tuple[Tensor, Tensor]:
        # Rows that mean nothing would enter the statistics of a head's batch norm.
        return rows_to_compute(valid, everywhere=self.heads_count_rows)

    def _box_losses(
        self, features: list[Tensor], rois: RoIs, truth: GroundTruth
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the box head shares with the mask head, for all `rows_to_compute`, and the box head's losses."""
        config, rows = self.config.box_head, self._rows(rois.valid)
        shared = self.box_head.shared(self._pool(features, rois.boxes[rows], rows[0], config.pooled_size))
        return shared, box_losses(*self.box_head.predict(shared), rois, truth, rows, config)

    def _mask_loss(self, features: list[Tensor], shared: Tensor, rois: RoIs, truth: GroundTruth) -> Tensor:
        config, positive = self.mask_head.config, positives(rois, self.config.box_head)
        rows = self._rows(positive)
        boxes, image = rois.boxes[rows], rows[0]
        if self.config.box_head.trunk == "res5":
            pooled = shared[places(rows, self._rows(rois.valid), rois.valid.shape)]
        else:
            pooled = self._pool(features, boxes, image, config.pooled_size)
        logits, counts = self.mask_head(pooled), positive[rows]
        # A GPU's other rows have no mask, and after the last one there is none: a target of NaN would survive as a
        # gradient, whatever the loss multiplies it with.
        mask_index = torch.where(counts, truth.mask_offset[image] + rois.gt_index[rows], 0)
        targets = mask_targets(truth.masks, mask_index, boxes, logits.shape[-1], config)
        return mask_loss(logits, rois.labels[rows], targets, counts, config)

    def _keypoint_loss(self, features: list[Tensor], rois: RoIs, truth: GroundTruth) -> Tensor:
        config, positive = self.keypoint_head.config, positives(rois, self.config.box_head)
        rows = self._rows(positive)
        boxes, image = rois.boxes[rows], rows[0]
        logits = self._keypoint_logits(features, boxes, image)
        points, divisor = truth.keypoints[image, rois.gt_index[rows]], None
        if config.loss_divisor == "nominal":
            divisor = float(positive.numel() * config.num_keypoints)
        return keypoint_loss(logits, points, boxes.detach(), positive[rows], divisor)

    def _keypoint_logits(self, features: list[Tensor], boxes: Tensor, image_index: Tensor) -> Tensor:
        size = self.keypoint_head.config.pooled_size
        return self.keypoint_head(self._pool(features, boxes, image_index, size))

    def _detect(self, features: list[Tensor], proposals: Proposals, batch: Batch) -> Detections:
        config = self.config.box_head
        rows = self._rows(proposals.valid)
        logits, deltas = self.box_head(
            self._pool(features, proposals.boxes[rows], rows[0], config.pooled_size)
        )
        # Rows left out stay zero: their proposals are not valid and make no candidates.
        logits, deltas = (padded_rows(values, rows, proposals.valid) for values in (logits, deltas))
        return detect(logits, deltas, proposals, batch.image_sizes, config)

    def _mask_probs(self, features: list[Tensor], found: Detections) -> Float[Tensor, "B D m m"] | None:
        """Of the detections alone (section 3.1, Inference); so are the keypoints."""
        if self.mask_head is None:
            return None
        rows, config = self._rows(found.valid), self.mask_head.config
        boxes, image = found.boxes[rows], rows[0]
        if self.config.box_head.trunk == "res5":
            size = self.config.box_head.pooled_size
            pooled = self.box_head.shared(self._pool(features, boxes, image, size))
        else:
            pooled = self._pool(features, boxes, image, config.pooled_size)
        return padded_rows(mask_probs(self.mask_head(pooled), found.labels[rows], config), rows, found.valid)

    def _keypoints(
        self, features: list[Tensor], found: Detections
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        if self.keypoint_head is None:
            return None, None
        rows = self._rows(found.valid)
        boxes = found.boxes[rows]
        logits = self._keypoint_logits(features, boxes, rows[0])
        keypoints, scores = decode_keypoints(logits, boxes, self.keypoint_head.config.score)
        return padded_rows(keypoints, rows, found.valid), padded_rows(scores, rows, found.valid)


def positives(rois: RoIs, config: BoxHeadConfig) -> Bool[Tensor, "B P"]:
    """Which of the sampled RoIs are objects; P is the most that can be."""
    return (rois.valid & (rois.labels > 0))[:, : int(config.rois_per_image * config.positive_fraction)]


def padded_rows(
    values: Float[Tensor, "R *rest"],
    rows: tuple[Int[Tensor, " R"], Int[Tensor, " R"]],
    valid: Bool[Tensor, "B D"],
) -> Float[Tensor, "B D *rest"]:
    """Rows that were computed, (image, column) each, back in their table; zero elsewhere."""
    return values.new_zeros(*valid.shape, *values.shape[1:]).index_put(rows, values)


def places(
    wanted: tuple[Int[Tensor, " P"], Int[Tensor, " P"]],
    rows: tuple[Int[Tensor, " R"], Int[Tensor, " R"]],
    shape: tuple[int, int],
) -> Int[Tensor, " P"]:
    """Where each of `wanted`, (image, column), stands among the `rows` that were computed of a table of `shape`."""
    place = torch.zeros(shape, dtype=torch.int64, device=rows[0].device)
    return place.index_put(rows, torch.arange(len(rows[0]), device=rows[0].device))[wanted]


def shifted(keypoints: Float[Tensor, "n K 3"], offset: float) -> Float[Tensor, "n K 3"]:
    """Keypoints (x, y, v) moved by `offset` pixels right and down."""
    return keypoints + keypoints.new_tensor([offset, offset, 0.0])


def padded_size(batch: Batch) -> tuple[int, int]:
    """(height, width) of the batch's tensor."""
    return batch.tensor.shape[-2], batch.tensor.shape[-1]


def drawn_sizes(targets: list[Target] | None) -> list[int] | None:
    """The shorter sides that multi-scale training drew, where it drew any."""
    if targets is None or any("min_size" not in target for target in targets):
        return None
    return [target["min_size"] for target in targets]


def to_pictures(
    found: Detections, heads: HeadOutputs, batch: Batch, config: MaskRCNNConfig, paste: bool
) -> list[Detection]:
    """Padded detections as one dict an image, scaled back to the caller's pixels, with masks pasted."""
    results = []
    for image, (size, original) in enumerate(zip(batch.image_sizes, batch.original_sizes)):
        valid = found.valid[image]
        boxes = resize_boxes(found.boxes[image][valid], size, original)
        result = Detection(boxes=boxes, labels=found.labels[image][valid], scores=found.scores[image][valid])
        if heads.mask_probs is not None:
            masks, exact = heads.mask_probs[image][valid], config.mask_head.exact_paste
            if paste:
                result["masks"] = paste_masks(masks, boxes, original, threshold=None, exact=exact)[:, None]
            else:
                result["mask_probs"] = masks
        if heads.keypoints is not None:
            points = resize_keypoints(heads.keypoints[image][valid], size, original)
            result["keypoints"] = shifted(points, -0.5) if config.keypoint_head.pixel_centres else points
            result["keypoints_scores"] = heads.keypoints_scores[image][valid]
        results.append(result)
    return results
