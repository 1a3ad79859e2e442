"""Box head: what is in each proposal, and where exactly.

Fast R-CNN's second stage on a pyramid (Girshick 2015; FPN, section 4.2; Mask R-CNN, figure 4 right): pooled 7×7
features, two fully connected layers, then K + 1 class logits (0 is the background) and four deltas for each
class.  In training it sees proposals sampled by IoU, a quarter of them objects; at test time every class of
every proposal above a score is a candidate and NMS within each class leaves the detections.

Without a pyramid the head is ResNet's fifth stage, run on every RoI (figure 4 left), and the mask head reads what it
computes: `Res5BoxHead`.

Letters: B images, K proposals, S sampled RoIs (P of them can be objects), R rows that are computed, N classes with
background, D detections, J joints.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minimaskrcnn.boxes import BOX_HEAD_WEIGHTS, Weights, decode_deltas, encode_deltas
from minimaskrcnn.data.targets import GroundTruth
from minimaskrcnn.losses import Loss, full_precision
from minimaskrcnn.matching import Generators, match, sample, sampling_keys
from minimaskrcnn.norms import Norm, make_norm
from minimaskrcnn.ops import clip_boxes_to_image, nms_padded
from minimaskrcnn.options import CheckedOptions
from minimaskrcnn.padded import Rows, gather_rows
from minimaskrcnn.resnet import BackboneConfig, ResNetConfig, init_convolutions, make_stage
from minimaskrcnn.rpn import Proposals


@dataclass(frozen=True, kw_only=True)
class BoxHeadConfig(CheckedOptions):
    """Numbers of Mask R-CNN, sections 3.1 and 4, and of Fast R-CNN where these are silent.

    The base of the heads' configurations, and of your own.
    """

    pooled_size: int = 7
    """Bins along each side (FPN, section 4.2; Mask R-CNN, figure 4 left)."""
    rois_per_image: int = 512
    """Sampled in training (Mask R-CNN, section 3.1, with FPN)."""
    positive_fraction: float = 0.25
    """At most one in four is an object (section 3.1: 1 to 3)."""
    positive_iou: float = 0.5
    """A RoI is an object from this IoU on and background below (section 3.1)."""
    delta_weights: Weights = BOX_HEAD_WEIGHTS
    smooth_l1_beta: float = 1 / 9
    """Where the box loss turns from quadratic to linear (torchvision); 0 is plain L1 (detectron2)."""
    score_threshold: float = 0.05
    """Candidates have a higher score than this (Fast R-CNN's implementations)."""
    nms_iou: float = 0.5
    """Within a class (ibid.)."""
    detections_per_image: int = 100
    """The mask branch runs on these (Mask R-CNN, section 3.1, Inference)."""
    min_size: float = 1e-2
    """Candidates narrower than this many pixels are dropped."""

    def build(self, channels: int, num_classes: int, backbone: BackboneConfig | None) -> "BoxHead":
        """The head on maps of `channels`: the last one of `backbone`, or a pyramid's where that is None."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class FCBoxHeadConfig(BoxHeadConfig):
    """Two fully connected layers (FPN, section 4.2; Mask R-CNN, figure 4 right)."""

    convs: int = 0
    """3×3 convolutions before them, as wide as the pyramid; 4 in Wu & He 2018, section 5.1."""
    norm: Norm = "none"
    """After each of these convolutions; for training from scratch."""
    hidden: int = 1024
    """Width of the two layers (FPN, section 4.2)."""

    def build(self, channels: int, num_classes: int, backbone: BackboneConfig | None) -> "FCBoxHead":
        """The head with random weights."""
        return FCBoxHead(channels, num_classes, self)


@dataclass(frozen=True, kw_only=True)
class Res5BoxHeadConfig(BoxHeadConfig):
    """ResNet's fifth stage and an average (figure 4 left)."""

    stride: int = 1
    """Of that stage: 1 on 7×7 bins (figure 4 left), 2 on 14×14 (He et al. 2015; detectron2)."""

    def build(self, channels: int, num_classes: int, backbone: BackboneConfig | None) -> "Res5BoxHead":
        """The head with random weights; ValueError unless RoIs are pooled from a ResNet's C4."""
        if not isinstance(backbone, ResNetConfig) or backbone.stages != 3:
            raise ValueError(
                "Res5BoxHeadConfig is ResNet's fourth stage: it needs resnet.stages=3 and fpn=None"
            )
        return Res5BoxHead(num_classes, self, backbone)


@dataclass(frozen=True)
class RoIs:
    """Proposals sampled for training; positives are in the first columns (`matching.Samples`)."""

    boxes: Float[Tensor, "B S 4"]
    gt_index: Int[Tensor, "B S"]
    labels: Int[Tensor, "B S"]
    valid: Bool[Tensor, "B S"]
    positive: Bool[Tensor, "B P"]
    """Which of the first P, the most that can be, are objects."""


@dataclass(frozen=True)
class Detections:
    """The best boxes of each image, best first, in pixels of the resized picture."""

    boxes: Float[Tensor, "B D 4"]
    scores: Float[Tensor, "B D"]
    labels: Int[Tensor, "B D"]
    valid: Bool[Tensor, "B D"]
    mask_probs: Float[Tensor, "B D m m"] | None = None
    """Of the mask head, if there is one and it has run; so are the others of the keypoint head."""
    keypoints: Float[Tensor, "B D J 3"] | None = None
    keypoints_scores: Float[Tensor, "B D J"] | None = None


def sample_rois(
    proposals: Proposals, truth: GroundTruth, config: BoxHeadConfig, generator: Generators
) -> RoIs:
    """Sample RoIs from the proposals and, so that there are always some positives, the ground truth itself.

    Their coordinates carry the proposals' gradient, if any (`RPNConfig.end_to_end`).
    """
    boxes = torch.cat([proposals.boxes, truth.boxes], dim=1)
    valid = torch.cat([proposals.valid, truth.valid], dim=1)
    matches = match(
        truth.boxes,
        truth.valid,
        boxes.detach(),
        valid,
        positive_iou=config.positive_iou,
        negative_iou=config.positive_iou,
        allow_low_quality=False,
    )
    keys = sampling_keys(matches.label.shape, matches.label.device, generator)
    chosen = sample(matches.label, keys, config.rois_per_image, config.positive_fraction)
    gt_index = gather_rows(matches.index, chosen.index)
    labels = torch.where(chosen.positive, gather_rows(truth.labels, gt_index), 0)
    most_positive = int(config.rois_per_image * config.positive_fraction)
    positive = chosen.positive[:, :most_positive]
    return RoIs(gather_rows(boxes, chosen.index), gt_index, labels, chosen.valid, positive)


def box_losses(
    logits: Float[Tensor, "R N"],
    deltas: Float[Tensor, "R N 4"],
    rois: RoIs,
    truth: GroundTruth,
    rows: Rows,
    config: BoxHeadConfig,
) -> dict[str, Loss]:
    """Classification (cross-entropy) and box (smooth L1, objects only) loss; both count all RoIs.

    `logits` and `deltas` are those of `rows` of the RoIs.
    """
    boxes = rows.of(rois.boxes)
    labels = rows.of(rois.labels)
    valid = rows.of(rois.valid)
    has_object = (valid & (labels > 0))[:, None]
    gt_boxes = truth.boxes[rows.image, rows.of(rois.gt_index)]
    # Rows without an object encode a unit box against itself: a NaN there would reach the gradient through 0 · NaN.
    unit = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    targets = encode_deltas(
        torch.where(has_object, gt_boxes, unit), torch.where(has_object, boxes, unit), config.delta_weights
    )
    class_loss = F.cross_entropy(logits, labels, reduction="none")
    of_label = deltas[torch.arange(len(labels), device=labels.device), labels]
    box_loss = F.smooth_l1_loss(of_label, targets, beta=config.smooth_l1_beta, reduction="none")
    count = valid.sum()
    return {
        "loss_classifier": Loss((class_loss * valid).sum(), count),
        "loss_box_reg": Loss((box_loss * has_object).sum(), count),
    }


def candidates(
    scores: Float[Tensor, "B K N"], valid: Bool[Tensor, "B K"], config: BoxHeadConfig
) -> tuple[Float[Tensor, "B M"], Int[Tensor, "B M"], Bool[Tensor, "B M"]]:
    """(score, index into K × (N - 1), validity) of every class of every proposal above the threshold.

    At most 1 / threshold classes of a proposal can pass, as its scores sum to one: M is bounded by K / threshold
    without looking at the scores.  On the CPU M is the count itself.
    """
    foreground = torch.where(valid[..., None], scores[..., 1:], 0.0).flatten(1)
    passing = foreground > config.score_threshold
    most = foreground.shape[1]
    if config.score_threshold > 0:
        most = min(most, int(scores.shape[1] / config.score_threshold))
    if scores.device.type == "cpu":
        most = int(passing.sum(dim=1).max())
    best, index = foreground.topk(most, dim=1)
    return best, index, best > config.score_threshold


@torch.no_grad()
def detect(
    logits: Float[Tensor, "B K N"],
    deltas: Float[Tensor, "B K N 4"],
    proposals: Proposals,
    image_sizes: list[tuple[int, int]],
    config: BoxHeadConfig,
) -> Detections:
    """Thresholded, moved, clipped and thinned detections from the head's output for every proposal."""
    classes = logits.shape[-1]
    scores, index, valid = candidates(logits.softmax(-1), proposals.valid, config)
    row = index // (classes - 1)
    label = index % (classes - 1) + 1
    image = torch.arange(len(image_sizes), device=logits.device)[:, None]
    boxes = decode_deltas(deltas[image, row, label], proposals.boxes[image, row], config.delta_weights)
    boxes = clip_boxes_to_image(boxes, image_sizes)
    valid = valid & (boxes[..., 2:] - boxes[..., :2] >= config.min_size).all(dim=-1)
    limit = min(config.detections_per_image, scores.shape[1])
    keep, valid = nms_padded(boxes, scores, label, valid, config.nms_iou, limit)
    return Detections(gather_rows(boxes, keep), gather_rows(scores, keep), gather_rows(label, keep), valid)


LogitsAndDeltas = tuple[Float[Tensor, "R N"], Float[Tensor, "R N 4"]]


class BoxHead(nn.Module):
    """From pooled features to class logits and deltas for each class; the base of the heads, and of your own.

    A subclass makes the layers `classifier` (N outputs) and `deltas` (4 N), and says what they read: `hidden`.
    """

    shared_shape: tuple[int, int] | None = None
    """(channels, size) of what `shared` returns where the mask head reads that; None: it pools for itself."""

    def __init__(self, config: BoxHeadConfig) -> None:
        super().__init__()
        self.config = config

    def shared(self, pooled: Float[Tensor, "R C PH PW"]) -> Float[Tensor, "R C2 _ _"]:
        """What the mask head may read too; here the pooled features as they are."""
        return pooled

    def hidden(self, shared: Float[Tensor, "R C _ _"]) -> Float[Tensor, "R D"]:
        """What logits and deltas are linear functions of, from `shared`'s output."""
        raise NotImplementedError

    def predict(self, shared: Float[Tensor, "R C _ _"]) -> LogitsAndDeltas:
        """Logits and deltas from `shared`'s output."""
        hidden = self.hidden(shared)
        logits = full_precision(self.classifier(hidden))
        return logits, full_precision(self.deltas(hidden)).unflatten(1, (-1, 4))

    def forward(self, pooled: Float[Tensor, "R C PH PW"]) -> LogitsAndDeltas:
        """Logits and deltas of pooled RoIs."""
        return self.predict(self.shared(pooled))


class FCBoxHead(BoxHead):
    """Convolutions, if any, and two fully connected layers."""

    def __init__(self, channels: int, num_classes: int, config: FCBoxHeadConfig) -> None:
        super().__init__(config)
        convs = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.convs))
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(make_norm(config.norm, channels) for _ in range(config.convs))
        self.fc1 = nn.Linear(channels * config.pooled_size**2, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.hidden)
        self.classifier = nn.Linear(config.hidden, num_classes)
        self.deltas = nn.Linear(config.hidden, 4 * num_classes)

    def hidden(self, shared: Float[Tensor, "R C _ _"]) -> Float[Tensor, "R D"]:
        """The second layer's output."""
        for conv, norm in zip(self.convs, self.norms):
            shared = F.relu(norm(conv(shared)))
        return F.relu(self.fc2(F.relu(self.fc1(shared.flatten(1)))))


class Res5BoxHead(BoxHead):
    """ResNet's fifth stage, which the mask head reads too, and the average of its cells."""

    def __init__(self, num_classes: int, config: Res5BoxHeadConfig, resnet: ResNetConfig) -> None:
        super().__init__(config)
        width = resnet.stage_channels(3)
        self.shared_shape = (width, -(-config.pooled_size // config.stride))
        self.res5 = make_stage(3, config.stride, 1, resnet)
        init_convolutions(self.res5)
        self.classifier = nn.Linear(width, num_classes)
        self.deltas = nn.Linear(width, 4 * num_classes)

    def shared(self, pooled: Float[Tensor, "R C PH PW"]) -> Float[Tensor, "R C2 _ _"]:
        """The stage's output."""
        return self.res5(pooled)

    def hidden(self, shared: Float[Tensor, "R C _ _"]) -> Float[Tensor, "R D"]:
        """The average of each channel."""
        return shared.mean(dim=(2, 3))
