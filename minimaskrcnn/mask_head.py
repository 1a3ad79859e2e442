"""Mask head: which pixels of a detected box belong to the object.

The branch that makes Faster R-CNN Mask R-CNN (section 3): a small fully convolutional network predicts one m×m
mask for each class, and only the mask of the class that the box head chose is used.  Classes therefore do not
compete: a sigmoid for each pixel, average binary cross-entropy on the ground-truth class's mask, for positive
RoIs only.  The target is the ground-truth bitmap pooled by RoIAlign in the RoI.

What the paper compares it with is one field each: classes that compete in each pixel (`activation`, table 2b), one
mask for all classes (`class_agnostic`, section 4.2), fully connected layers (`branch`, table 2e).

Letters: R positive RoIs, N classes with background, M masks that are predicted (N, or fewer if class-agnostic), m
mask size, G bitmaps of the whole batch.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from minimaskrcnn.box_head import RoIs
from minimaskrcnn.data.targets import GroundTruth
from minimaskrcnn.losses import Loss, full_precision
from minimaskrcnn.norms import Norm, make_norm
from minimaskrcnn.ops import crop_masks, roi_align
from minimaskrcnn.options import CheckedOptions
from minimaskrcnn.padded import Rows


@dataclass(frozen=True, kw_only=True)
class MaskHeadConfig(CheckedOptions):
    """Numbers of Mask R-CNN, figure 4 right."""

    pooled_size: int = 14
    """Bins along each side.  Masks have twice as many, but as many where the box head's res5 halves them first."""
    branch: Literal["fcn", "mlp"] = "fcn"
    """Convolutions, which keep the layout, or fully connected layers, which do not (table 2e)."""
    hidden_layers: int = 2
    """Of the "mlp" before its predictor: 2, or 3 for the deeper one (table 2e)."""
    hidden: int = 1024
    """Width of these (table 2e)."""
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    """A sigmoid for each class, or a softmax over classes and background in each pixel (table 2b)."""
    class_agnostic: bool = False
    """One mask whatever the class (section 4.2)."""
    binary_targets: bool = False
    """Targets of 0 and 1: the bitmap pooled at half-pixel centres, at least half (detectron2); else shares."""
    exact_paste: bool = False
    """Paste masks at the box's real coordinates (detectron2) or into the box cut to integers (torchvision)."""
    channels: int = 256
    """Of the convolutions and the deconvolution."""
    convs: int = 4
    """3×3 convolutions before the deconvolution."""
    norm: Norm = "none"
    """After each of them; for training from scratch."""


def mask_targets(
    masks: Bool[Tensor, "G H W"],
    mask_index: Int[Tensor, " R"],
    boxes: Float[Tensor, "R 4"],
    size: int,
    config: MaskHeadConfig,
) -> Float[Tensor, "R m m"]:
    """What each RoI's mask should be: its object's bitmap, pooled in the RoI to size × size (section 3.1).

    Where the boxes carry a gradient (`RPNConfig.end_to_end`) so do these, but for binary ones, which are constant
    almost everywhere.  Zero where there is no mask at all.
    """
    if not len(masks):
        return boxes.new_zeros(len(boxes), size, size)
    if config.binary_targets:
        return (crop_masks(masks, boxes, mask_index, size, aligned=True) >= 0.5).to(boxes)
    if not boxes.requires_grad:
        return crop_masks(masks, boxes, mask_index, size)
    rows = torch.cat([mask_index[:, None].to(boxes), boxes], dim=1)
    return roi_align(masks[:, None].to(boxes), rows, size)[:, 0]


def mask_loss(
    logits: Float[Tensor, "R M m m"],
    labels: Int[Tensor, " R"],
    targets: Float[Tensor, "R m m"],
    positive: Bool[Tensor, " R"],
    config: MaskHeadConfig = MaskHeadConfig(),
) -> Loss:
    """Cross-entropy averaged over the pixels of each positive RoI (section 3); counts these RoIs.

    Binary, on the ground-truth class's mask; with softmax multinomial, that class against all others.  Zero (with
    a graph) where there is no positive RoI.
    """
    labels = torch.zeros_like(labels) if config.class_agnostic else labels
    rows = torch.arange(len(labels), device=labels.device)
    if config.activation == "sigmoid":
        pixels = F.binary_cross_entropy_with_logits(logits[rows, labels], targets, reduction="none")
    else:
        log_probs = logits.log_softmax(1)
        # Class-agnostic: background and object.
        of_label = log_probs[rows, labels + 1 if config.class_agnostic else labels]
        pixels = -(targets * of_label + (1 - targets) * log_probs[:, 0])
    return Loss(torch.where(positive, pixels.mean(dim=(1, 2)), 0).sum(), positive.sum())


def mask_losses(
    logits: Float[Tensor, "R M m m"], rois: RoIs, truth: GroundTruth, rows: Rows, config: MaskHeadConfig
) -> dict[str, Loss]:
    """The loss of `rows` of the RoIs, for which `logits` are predicted."""
    positive = rows.of(rois.positive)
    # A GPU's other rows have no mask, and after the last one there is none: a target of NaN would survive as a
    # gradient, whatever the loss multiplies it with.
    mask_index = torch.where(positive, truth.mask_offset[rows.image] + rows.of(rois.gt_index), 0)
    targets = mask_targets(truth.masks, mask_index, rows.of(rois.boxes), logits.shape[-1], config)
    return {"loss_mask": mask_loss(logits, rows.of(rois.labels), targets, positive, config)}


def mask_probs(
    logits: Float[Tensor, "R M m m"], labels: Int[Tensor, " R"], config: MaskHeadConfig = MaskHeadConfig()
) -> Float[Tensor, "R m m"]:
    """The probability mask of each RoI's own class."""
    rows = torch.arange(len(labels), device=labels.device)
    if config.activation == "sigmoid":
        return logits[rows, torch.zeros_like(labels) if config.class_agnostic else labels].sigmoid()
    return logits.softmax(1)[rows, torch.ones_like(labels) if config.class_agnostic else labels]


class MaskHead(nn.Module):
    """From pooled features to one mask for each class.

    "fcn": convolutions, a deconvolution that doubles the size, and a 1×1 convolution.  "mlp": fully connected layers.
    `in_size` is the features' height and width where it is not `config.pooled_size`.
    """

    def __init__(
        self, in_channels: int, num_classes: int, config: MaskHeadConfig, in_size: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        in_size = in_size or config.pooled_size
        self.mask_size = 2 * in_size
        masks = num_classes
        if config.class_agnostic:
            masks = 1 if config.activation == "sigmoid" else 2
        if config.branch == "mlp":
            widths = [in_channels * in_size**2] + [config.hidden] * config.hidden_layers
            self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
            self.predictor = nn.Linear(widths[-1], masks * self.mask_size**2)
            layers = [*self.hidden, self.predictor]
        else:
            widths = [in_channels] + [config.channels] * config.convs
            self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
            self.norms = nn.ModuleList(make_norm(config.norm, channels) for channels in widths[1:])
            self.deconv = nn.ConvTranspose2d(widths[-1], config.channels, 2, 2)
            self.predictor = nn.Conv2d(config.channels, masks, 1)
            layers = [*self.convs, self.deconv, self.predictor]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Float[Tensor, "R C P P"]) -> Float[Tensor, "R M m m"]:
        x = pooled
        if self.config.branch == "mlp":
            x = x.flatten(1)
            for layer in self.hidden:
                x = F.relu(layer(x))
            return full_precision(self.predictor(x)).unflatten(1, (-1, self.mask_size, self.mask_size))
        for conv, norm in zip(self.convs, self.norms):
            x = F.relu(norm(conv(x)))
        return full_precision(self.predictor(F.relu(self.deconv(x))))
