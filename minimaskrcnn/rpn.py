"""Region proposal network: from feature maps to a few hundred boxes that may hold an object.

Ren et al., "Faster R-CNN" (2015), section 3.  One small convolutional head slides over every level and says for
each anchor how likely it holds an object (one logit) and how to move it (four deltas).  Proposals are the best
anchors of each level, moved, clipped to the picture, and thinned by NMS within their level.  In training the
head learns from anchors sampled by IoU with the ground truth.  Training is joint with the other heads, and no
gradient runs through the proposals' coordinates unless `end_to_end` asks for it.

Letters: B images, A anchors of all levels, K proposals (padded), S sampled anchors, G ground truths.

Lesson 04, `lessons/04_rpn.ipynb`, teaches this.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minimaskrcnn.anchors import AnchorConfig, grid_anchors
from minimaskrcnn.boxes import RPN_WEIGHTS, decode_deltas, encode_deltas
from minimaskrcnn.data.targets import GroundTruth
from minimaskrcnn.fpn import FeatureMaps
from minimaskrcnn.losses import Loss, full_precision
from minimaskrcnn.matching import Generators, match, sample, sampling_keys
from minimaskrcnn.ops import clip_boxes_to_image, nms_padded
from minimaskrcnn.options import CheckedOptions
from minimaskrcnn.padded import gather_rows


@dataclass(frozen=True, kw_only=True)
class RPNConfig(CheckedOptions):
    """Numbers of Faster R-CNN and FPN, with torchvision's counts of proposals."""

    positive_iou: float = 0.7
    """Anchors from this IoU on are positive (Faster R-CNN, section 3.1.2)."""
    negative_iou: float = 0.3
    """Anchors under this IoU with every object are negative (ibid.)."""
    anchors_per_image: int = 256
    """Sampled for the loss, at most half of them positive (section 3.1.3)."""
    positive_fraction: float = 0.5
    smooth_l1_beta: float = 1 / 9
    """Where the box loss turns from quadratic to linear (torchvision); 0 is plain L1 (detectron2)."""
    loss_divisor: Literal["sampled", "nominal"] = "sampled"
    """Both losses are divided by the anchors that were sampled (torchvision) or asked for (detectron2)."""
    nms_iou: float = 0.7
    """Of proposals of one level (section 3.1.2)."""
    pre_nms_train: int = 2000
    """Proposals a level before NMS (FPN's implementations; the same below)."""
    pre_nms_test: int = 1000
    post_nms_train: int = 2000
    """Proposals an image after NMS; the paper's inference uses 1000 on a pyramid (Mask R-CNN, section 3.1)."""
    post_nms_test: int = 1000
    min_size: float = 1e-3
    """Proposals narrower than this many pixels are dropped."""
    end_to_end: bool = False
    """Let the heads' losses reach this network through the RoIs' coordinates; the paper's end-to-end training leaves
    that gradient out (appendix B)."""


@dataclass(frozen=True)
class Proposals:
    """Boxes in pixels of the resized picture, best first; rows that are not `valid` are padding."""

    boxes: Float[Tensor, "B K 4"]
    valid: Bool[Tensor, "B K"]


@dataclass(frozen=True)
class RPNOutput:
    """The head's predictions for every anchor."""

    anchors: list[Float[Tensor, "_ 4"]]
    logits: Float[Tensor, "B A"]
    deltas: Float[Tensor, "B A 4"]


def select_best(
    output: RPNOutput, pre_nms: int
) -> tuple[Float[Tensor, "B N"], Float[Tensor, "B N 4"], Int[Tensor, " N"]]:
    """The `pre_nms` best anchors of each level: logits, moved boxes, and the level of each column."""
    counts = [len(level) for level in output.anchors]
    logits = []
    boxes = []
    levels = []
    for level, (anchors, level_logits, level_deltas) in enumerate(
        zip(output.anchors, output.logits.split(counts, 1), output.deltas.split(counts, 1))
    ):
        best, index = level_logits.topk(min(pre_nms, level_logits.shape[1]), dim=1)
        logits.append(best)
        boxes.append(decode_deltas(gather_rows(level_deltas, index), anchors[index], RPN_WEIGHTS))
        levels.append(torch.full_like(index[0], level))
    return torch.cat(logits, 1), torch.cat(boxes, 1), torch.cat(levels)


def propose(
    output: RPNOutput, image_sizes: list[tuple[int, int]], config: RPNConfig, *, training: bool
) -> Proposals:
    """The proposals of each image, from the head's output; image sizes are (height, width) without padding.

    Their coordinates carry a gradient in training with `config.end_to_end` alone.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and training and config.end_to_end):
        return _propose(output, image_sizes, config, training)


def _propose(
    output: RPNOutput, image_sizes: list[tuple[int, int]], config: RPNConfig, training: bool
) -> Proposals:
    logits, boxes, levels = select_best(output, config.pre_nms_train if training else config.pre_nms_test)
    boxes = clip_boxes_to_image(boxes, image_sizes)
    valid = (boxes[..., 2:] - boxes[..., :2] >= config.min_size).all(dim=-1)
    scores = logits.sigmoid()
    limit = config.post_nms_train if training else config.post_nms_test
    keep, valid = nms_padded(
        boxes.detach(),
        scores.detach(),
        levels.expand(scores.shape),
        valid,
        config.nms_iou,
        min(limit, scores.shape[1]),
    )
    return Proposals(gather_rows(boxes, keep), valid)


def rpn_losses(
    output: RPNOutput, truth: GroundTruth, config: RPNConfig, generator: Generators
) -> dict[str, Loss]:
    """Objectness (cross-entropy) and box (smooth L1) loss over sampled anchors; both count all of these."""
    images = output.logits.shape[0]
    anchors = torch.cat(output.anchors).expand(images, -1, -1)
    everywhere = torch.ones(output.logits.shape, dtype=torch.bool, device=output.logits.device)
    matches = match(
        truth.boxes,
        truth.valid,
        anchors,
        everywhere,
        positive_iou=config.positive_iou,
        negative_iou=config.negative_iou,
        allow_low_quality=True,
    )
    keys = sampling_keys(matches.label.shape, matches.label.device, generator)
    chosen = sample(matches.label, keys, config.anchors_per_image, config.positive_fraction)
    count = chosen.valid.sum()
    if config.loss_divisor == "nominal":
        count = torch.full_like(count, config.anchors_per_image * images)

    gt_boxes = gather_rows(truth.boxes, gather_rows(matches.index, chosen.index))
    references = gather_rows(anchors, chosen.index)
    # Rows without an object encode against themselves: finite, and weighted with zero.
    gt_boxes = torch.where(chosen.positive[..., None], gt_boxes, references)
    targets = encode_deltas(gt_boxes, references, RPN_WEIGHTS)
    box_loss = F.smooth_l1_loss(
        gather_rows(output.deltas, chosen.index), targets, beta=config.smooth_l1_beta, reduction="none"
    )
    logits = gather_rows(output.logits, chosen.index)
    objectness = F.binary_cross_entropy_with_logits(logits, chosen.positive.to(logits), reduction="none")
    return {
        "loss_objectness": Loss((objectness * chosen.valid).sum(), count),
        "loss_rpn_box_reg": Loss((box_loss * chosen.positive[..., None]).sum(), count),
    }


class RPN(nn.Module):
    """The head: a 3×3 convolution, then two 1×1 convolutions for logits and deltas, shared by all levels."""

    def __init__(self, channels: int, anchors: AnchorConfig, config: RPNConfig) -> None:
        super().__init__()
        self.config = config
        self.anchor_config = anchors
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, anchors.per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors.per_cell, 1)
        for conv in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(
        self,
        features: FeatureMaps,
        strides: tuple[int, ...],
        padded_size: tuple[int, int],
    ) -> RPNOutput:
        """Predictions for all anchors of all levels; `padded_size` is the batch's picture size."""
        images = features[0].shape[0]
        logits = []
        deltas = []
        for feature in features:
            hidden = F.relu(self.conv(feature))
            # [B, A·k, H, W] -> [B, H·W·A, k]: anchors are ordered row, column, anchor of the cell.
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).reshape(images, -1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(images, -1, 4))
        all_logits = full_precision(torch.cat(logits, 1))
        grid_sizes = [(feature.shape[2], feature.shape[3]) for feature in features]
        anchors = grid_anchors(grid_sizes, list(strides), padded_size, self.anchor_config, all_logits)
        return RPNOutput(anchors, all_logits, full_precision(torch.cat(deltas, 1)))
